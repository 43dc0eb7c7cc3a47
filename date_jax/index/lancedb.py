"""A store in LanceDB: in a folder, in an object store such as gs://bucket/offers, or its cloud."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from date_jax.errors import UsageError
from date_jax.index.exact import INTERNAL, Hit
from date_jax.index.extra import extra_module
from date_jax.index.where import filter_expression

_AT_ONCE = 1000  # ids of one statement


class LanceStore:
    """Offers in a table of LanceDB; a `Store`.

    Without an index of LanceDB's, which this does not make, its search compares with every vector.

    Args:
        uri: of the database: a folder, or an address that LanceDB knows.
        name: of the table.
        options: of the object store, such as keys; see LanceDB's `storage_options`.
    """

    def __init__(self, uri: str, name: str = "offers", options: Mapping[str, str] | None = None):
        self._name = name
        self._database = extra_module("lancedb").connect(
            uri, storage_options=dict(options) if options else None
        )
        self._table: Any = None
        with contextlib.suppress(ValueError):  # there is none yet
            self._table = self._database.open_table(name)

    def add(self, rows: Any) -> None:
        """Adds offers, or replaces those of the same ids."""
        if self._table is None:
            self._table = self._database.create_table(self._name, data=rows)
            return
        merge = self._table.merge_insert("id").when_matched_update_all()
        merge.when_not_matched_insert_all().execute(rows)

    def delete(self, ids: Sequence[str]) -> None:
        """Removes offers; ids that are not there are passed over."""
        for start in range(0, len(ids) if self._table is not None else 0, _AT_ONCE):
            quoted = (f"'{name.replace(chr(39), 2 * chr(39))}'" for name in ids[start:][:_AT_ONCE])
            self._table.delete(f"id IN ({', '.join(quoted)})")

    def search(
        self, vectors: Float[np.ndarray, "Q E"], count: int, where: str = ""
    ) -> list[list[Hit]]:
        """The offers nearest to each vector.

        A filter is evaluated by LanceDB, whose SQL has comparisons, AND, OR, NOT, IN, BETWEEN, LIKE
        and IS NULL as DuckDB's.

        Raises:
            UsageError: the filter is none, or LanceDB does not take it.
        """
        if self._table is None:
            return [[] for _ in vectors]
        names = [name for name in self._table.schema.names if name not in INTERNAL]
        if where:
            filter_expression(where, names)
        lines = []
        for vector in np.asarray(vectors, np.float32):
            query = self._table.search(vector).distance_type("dot").limit(count)
            query = query.where(where, prefilter=True) if where else query
            try:
                rows = query.select([*names, "_distance"]).to_list()
            except (ValueError, RuntimeError) as error:
                if not where:
                    raise
                reason = str(error).split("\n")[0][:300]
                raise UsageError(f"where: LanceDB cannot evaluate it: {reason}") from None
            lines.append([_hit(row) for row in rows])
        return lines


def _hit(row: dict[str, Any]) -> Hit:
    """A row of LanceDB, whose distance is 1 - cosine."""
    fields = {name: value for name, value in row.items() if name not in ("id", "_distance")}
    return Hit(row["id"], 1.0 - row["_distance"], fields)
