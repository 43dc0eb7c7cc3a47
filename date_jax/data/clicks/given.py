"""Training pairs that a user brings: those that click_pairs wrote, or that published files hold."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from date_jax.data.clicks.mined import Pairs
from date_jax.data.clicks.tables import database, table
from date_jax.data.files.offers import IdPairs
from date_jax.errors import DataError

MEMORY_GB = 3.0  # that DuckDB may hold of them


def read(path: str) -> IdPairs:
    """The columns trigger_id and offer_id of the Parquet or CSV files that `path` names.

    Raises:
        DataError: there are none, they lack a column or are not what they should be.
        SetupError: the packages of the extra "clicks" are missing.
    """
    pattern = str(Path(path).expanduser())
    columns = dict.fromkeys(IdPairs._fields, "string")
    with database(MEMORY_GB) as connection:
        found = table(connection, "pairs", pattern, columns, said="config.data.pairs")
        texts = found.select(**{name: found[name].cast("string") for name in columns})
        # DuckDB reads in parallel: without an order the pairs would be others in each run.
        ends = texts.drop_null().order_by(list(columns)).to_pyarrow()
    return IdPairs(*(ends[name].to_pylist() for name in columns))


def rows_of(pairs: IdPairs, offers: Sequence[str], where: str) -> Pairs:
    """The pairs that join two of `offers`, once each, as rows.

    Args:
        offers: ids of the training offers, in their order.
        where: the pairs come from, for messages.

    Raises:
        DataError: there is no such pair.
    """
    row_of = {offer: row for row, offer in enumerate(offers)}
    ends = np.array([[row_of.get(offer, -1) for offer in end] for end in pairs], np.int32)
    there = (ends >= 0).all(0) & (ends[0] != ends[1])
    rows = np.unique(np.sort(ends[:, there].T, axis=1), axis=0)
    if not len(rows):
        named = [*pairs.trigger_id, *pairs.offer_id]
        raise DataError(
            f"{where}: none of its {len(pairs.trigger_id):,} pairs joins two training offers\n"
            f"  its ids are such as {_some(named)}; the training offers' {_some(offers)}"
        )
    lost = len(there) - int(there.sum())
    left_out = f"; {lost:,} left out, for they do not join two training offers" if lost else ""
    return Pairs(rows, f"{len(rows):,} pairs of {where}{left_out}")


def _some(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:3])) or "(none)"
