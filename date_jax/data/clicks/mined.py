"""Training pairs of a catalogue, mined from a simulated click log once and then cached."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from date_jax.data import streams
from date_jax.data.cache import save_npz
from date_jax.data.clicks import rules as click_rules
from date_jax.data.clicks import simulated as simulated_clicks
from date_jax.data.clicks.rules import RULES, Settings
from date_jax.data.clicks.tables import database
from date_jax.data.prepared import PreparedSplit, is_whole
from date_jax.errors import DataError, UsageError, spelling_hint

COLUMNS = {  # of click_rules.CATALOGUE, and what a prepared split calls them
    "offer_id": "offer_id",
    "title": "text",
    "supplier": "supplier",
    "category": "category",
    "image_hash": "image_hash",
}
SALT = "simulated"  # of the simulated users' hashes, for they protect nobody


class Pairs(NamedTuple):
    """Attributes:
    rows: of the split, two that were mined as the same product, int32 `[M 2]`.
    note: how many, and from what.
    """

    rows: Int[np.ndarray, "M 2"]
    note: str


def mined_pairs(split: PreparedSplit, config: Any, cache: Path) -> Pairs:
    """The pairs that the rules find in a log that is simulated over the split's offers.

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
    without = tuple(filter(None, config.without.split(",")))
    for rule in without:
        if rule not in RULES:
            choices = ", ".join(RULES)
            raise UsageError(
                f"config.data.clicks.without: no rule {rule!r}{spelling_hint(rule, RULES)}\n"
                f"  choices: {choices}"
            )
    file = cache / "pairs" / f"{_key(split, config)}.npz"
    if not is_whole(file):
        file.parent.mkdir(exist_ok=True)
        save_npz(file, rows=_mined(split, config, without))
    with np.load(file, allow_pickle=False) as members:
        rows = members["rows"]
    left_out = f" without {', '.join(without)}" if without else ""
    note = f"{len(rows):,} pairs mined{left_out} from {config.rows:,} rows of clicks"
    return Pairs(rows, note)


def _key(split: PreparedSplit, config: Any) -> str:
    """A name that changes with whatever changes a pair: data, settings, rules and simulation."""
    modules = (click_rules, simulated_clicks, streams)
    code = [Path(module.__file__ or "").read_bytes() for module in modules]
    settings = json.dumps(config.to_dict(), sort_keys=True).encode()
    return hashlib.sha256(b"".join([split.fingerprint.encode(), settings, *code])).hexdigest()[:20]


def _mined(split: PreparedSplit, config: Any, without: tuple[str, ...]) -> Int[np.ndarray, "M 2"]:
    columns = {name: split.texts(column) for name, column in COLUMNS.items()}
    settings = Settings(
        salt=SALT, **{name: config[name] for name in Settings._fields if name != "salt"}
    )
    with database(memory_gb=3.0) as connection:
        import pyarrow as pa

        # Without the package above there is a kinder message than pyarrow's absence.
        offers = pa.table(columns)
        truth = {"product_id": pa.array(split.products())}
        shown = simulated_clicks.log(
            pa.table({**columns, **truth}), rows=config.rows, seed=config.seed
        )
        pairs = click_rules.mined(
            connection.create_table("log", shown),
            connection.create_table("catalogue", offers),
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
