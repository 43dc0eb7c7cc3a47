"""What a vector database must be able to do, and how a folder of vectors comes into one.

The folder stays the truth: a store can be made from it again.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from date_jax.index.exact import Hit, Index
from date_jax.index.parts import vector_column

_AT_ONCE = 4096  # offers that are sent together


@runtime_checkable
class Store(Protocol):
    """A set of offers with vectors in a database.

    Example: `store = LanceStore("offers.lance"); copy_index(open_index("vectors"), store)`.
    """

    def add(self, rows: Any) -> None:
        """Adds offers, or replaces those of the same ids.

        Args:
            rows: a pyarrow table with id, text, path, vector and any other columns; the same
                columns each time.
        """

    def delete(self, ids: Sequence[str]) -> None:
        """Removes offers; ids that are not there are passed over."""

    def search(
        self, vectors: Float[np.ndarray, "Q E"], count: int, where: str = ""
    ) -> list[list[Hit]]:
        """The offers nearest to each vector; see `Index.search`.

        Raises:
            UsageError: the filter is none, or none that the database can evaluate.
        """


def copy_index(index: Index, store: Store) -> None:
    """Adds all offers of an index to a store."""
    for rows in tables_of_index(index):
        store.add(rows)


def tables_of_index(index: Index, at_once: int = _AT_ONCE) -> Iterator[Any]:
    """The offers of an index with their vectors, some at a time, as `Store.add` takes them."""
    for start in range(0, len(index), at_once):
        rows = index.table.slice(start, at_once)
        vectors = vector_column(index.vectors[start : start + at_once])
        yield rows.append_column("vector", vectors)
