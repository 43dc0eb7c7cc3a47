"""Training pairs of a catalogue: mined from a simulated click log, or brought by the user."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from date_jax.data import streams
from date_jax.data.cache import save_npz
from date_jax.data.clicks import rules as click_rules
from date_jax.data.clicks import simulated_log
from date_jax.data.clicks.rules import Settings, rules_in
from date_jax.data.clicks.tables import database, file_table
from date_jax.data.files.catalogue import IdPairs
from date_jax.data.prepared import PreparedSplit, is_whole
from date_jax.errors import DataError
from date_jax.run.user_paths import user_path

COLUMNS = {  # of click_rules.CATALOGUE, and what a prepared split calls them
    "offer_id": "offer_id",
    "title": "text",
    "supplier": "supplier",
    "category": "category",
    "image_hash": "image_hash",
}
SALT = "simulated"  # of the simulated users' hashes, for they protect nobody
MEMORY_GB = 3.0  # that DuckDB may hold


class TrainingPairs(NamedTuple):
    """Pairs of a split's offers that show one product.

    Attributes:
        rows: of the split, the two of each pair, int32 `[M 2]`.
        note: how many there are, and from what.
    """

    rows: Int[np.ndarray, "M 2"]
    note: str


def mined_pairs(split: PreparedSplit, config: Any, cache: Path) -> TrainingPairs:
    """The pairs that the rules leave of a log that is simulated over the split's offers.

    The simulation knows which offers show the same product, as shoppers do; the rules do not.

    Args:
        split: of a catalogue.
        config: `config.data.clicks`.
        cache: folder that keeps the result; the caller has locked it.

    Raises:
        UsageError: `config.without` names something that is no rule.
        DataError: a rule left nothing.
        SetupError: the packages of the extra "clicks" are missing.
    """
    without = rules_in(config.without, "config.data.clicks.without")
    # Mining takes longer than reading; the file's name tells whether it is of this very mining.
    file = cache / "pairs" / f"{_cache_key(split, config)}.npz"
    if not is_whole(file):
        file.parent.mkdir(exist_ok=True)
        save_npz(file, rows=_mined_rows(split, config, without))
    with np.load(file, allow_pickle=False) as members:
        rows = members["rows"]
    left_out = f" without {', '.join(without)}" if without else ""
    note = f"{len(rows):,} pairs mined{left_out} from {config.rows:,} rows of clicks"
    return TrainingPairs(rows, note)


def _cache_key(split: PreparedSplit, config: Any) -> str:
    """A name that changes with whatever changes a pair: offers, settings, rules and simulation."""
    modules = (click_rules, simulated_log, streams)
    code = [Path(module.__file__ or "").read_bytes() for module in modules]
    settings = json.dumps(config.to_dict(), sort_keys=True).encode()
    return hashlib.sha256(b"".join([split.fingerprint.encode(), settings, *code])).hexdigest()[:20]


def _mined_rows(
    split: PreparedSplit, config: Any, without: tuple[str, ...]
) -> Int[np.ndarray, "M 2"]:
    """The rows of `mined_pairs`, simulated and mined now."""
    columns = {name: split.texts(column) for name, column in COLUMNS.items()}
    settings = Settings(
        salt=SALT, **{name: config[name] for name in Settings._fields if name != "salt"}
    )
    with database(MEMORY_GB) as connection:
        import pyarrow as pa  # after `database`, which says in kinder words that it is missing

        # Only the shoppers know the products; the rules get the catalogue without them.
        products = {"product_id": pa.array(split.products())}
        log = simulated_log.log(
            pa.table({**columns, **products}), rows=config.rows, seed=config.seed
        )
        pairs = click_rules.mined_pairs(
            connection.create_table("log", log),
            connection.create_table("catalogue", pa.table(columns)),
            settings,
            without=without,
        ).to_pyarrow()
    if not pairs.num_rows:
        raise DataError(
            "config.data.clicks: the rules leave no pair to train on\n"
            "  more rows, a lower min_support or min_coclicks leave more"
        )
    row_of = {offer: row for row, offer in enumerate(columns["offer_id"])}
    ends = [
        [row_of[offer] for offer in pairs[end].to_pylist()] for end in ("trigger_id", "offer_id")
    ]
    return np.array(ends, np.int32).T


def id_pairs(path: str) -> IdPairs:
    """The pairs in a user's files: the columns trigger_id and offer_id.

    Args:
        path: of a Parquet or CSV file, or a pattern of several, such as `click_pairs` writes.

    Raises:
        DataError: there are none, they lack a column or are not what they should be.
        SetupError: the packages of the extra "clicks" are missing.
    """
    pattern = str(user_path(path))
    columns = dict.fromkeys(IdPairs._fields, "string")
    with database(MEMORY_GB) as connection:
        pairs = file_table(connection, "pairs", pattern, columns, flag="config.data.pairs")
        texts = pairs.select(**{name: pairs[name].cast("string") for name in columns})
        # DuckDB reads in parallel: without an order the pairs would be others in each run.
        ends = texts.drop_null().order_by(list(columns)).to_pyarrow()
    return IdPairs(*(ends[name].to_pylist() for name in columns))


def row_pairs(pairs: IdPairs, offers: Sequence[str], where: str) -> TrainingPairs:
    """The pairs that join two of `offers`, once each, as rows.

    Args:
        pairs: by the ids of their offers.
        offers: ids of the training offers, in their order.
        where: the pairs come from, for messages.

    Raises:
        DataError: there is no such pair.
    """
    row_of = {offer: row for row, offer in enumerate(offers)}
    ends = np.array([[row_of.get(offer, -1) for offer in end] for end in pairs], np.int32)
    # Others belong to val or test, are of offers whose pictures are unreadable, or of none.
    is_usable = (ends >= 0).all(0) & (ends[0] != ends[1])
    rows = np.unique(np.sort(ends[:, is_usable].T, axis=1), axis=0)
    if not len(rows):
        ids = [*pairs.trigger_id, *pairs.offer_id]
        raise DataError(
            f"{where}: none of its {len(pairs.trigger_id):,} pairs joins two training offers\n"
            f"  its ids are such as {_examples(ids)}; the training offers' {_examples(offers)}"
        )
    lost = len(is_usable) - int(is_usable.sum())
    left_out = f"; {lost:,} left out, for they do not join two training offers" if lost else ""
    return TrainingPairs(rows, f"{len(rows):,} pairs of {where}{left_out}")


def _examples(ids: Sequence[str]) -> str:
    """The first three ids, for a message."""
    return ", ".join(map(repr, ids[:3])) or "(none)"
