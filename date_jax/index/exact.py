"""An index: the vectors of a folder in memory, and exact search among them.

index = open_index("vectors")
index.require(run)
(hits,) = index.search(run.embed_texts(["striped red mug"]), 8, where="price < 20")
print(hits[0].id, hits[0].score, hits[0].fields["path"])
"""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from date_jax import sharding
from date_jax.api import Run
from date_jax.errors import DataError, UsageError, spelling_hint
from date_jax.index import parts
from date_jax.index.extra import extra_module
from date_jax.index.where import Filters
from date_jax.pairs import neighbours
from date_jax.run.user_paths import user_path

INTERNAL = ("vector", "picture_bytes", "picture_mtime", "picture_sha256")  # no fields of a hit


class Hit(NamedTuple):
    """An offer that was found.

    Attributes:
        id: of the offer.
        score: cosine of its vector and the question's, in [-1, 1].
        fields: its other columns by name, with `text` and `path`, the picture as the catalogue
            has it; None where a cell is empty.
    """

    id: str
    score: float
    fields: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Index:
    """The offers of a folder of vectors; made by `open_index`.

    Attributes:
        path: of the folder.
        manifest: its content; `network`, `task` and `question` say what the vectors are.
        vectors: of all offers, of length 1.
        table: a pyarrow table of their columns, in the same order.
        pictures: the folder that `path` in the fields is relative to.
        mesh: the devices that a search is spread over.
    """

    path: Path
    manifest: dict[str, Any]
    vectors: Float[np.ndarray, "N E"]
    table: Any
    pictures: Path
    mesh: jax.sharding.Mesh

    def __len__(self) -> int:
        return len(self.vectors)

    def __contains__(self, offer_id: object) -> bool:
        return offer_id in self._rows

    @property
    def columns(self) -> tuple[str, ...]:
        """The names that a filter may use."""
        return self._filters.names

    def require(self, run: Run) -> None:
        """Refuses a run whose vectors cannot be compared with those of the folder.

        Raises:
            UsageError: they are of another network.
        """
        network = self.manifest["network"]
        if network != run.fingerprint:
            raise UsageError(
                f"{self.path}: holds vectors of another network, {network}; {run.path} is "
                f"{run.fingerprint}\n  name the run that it was embedded with, or embed the "
                "catalogue again, into another folder"
            )

    def search(
        self, vectors: Float[np.ndarray, "Q E"], count: int, where: str = ""
    ) -> list[list[Hit]]:
        """The offers whose vectors are nearest to each of some vectors, the nearest first.

        Args:
            vectors: of length 1, so that scores are cosines.
            count: offers for each, at most.
            where: a filter over `columns`, such as "category = 'mug' and price < 20"; "" for none.

        Raises:
            UsageError: the filter is none; see `Filters.rows`.
        """
        return [
            [self.hit(int(row), float(score)) for row, score in zip(rows, scores, strict=True)]
            for rows, scores in self.nearest(vectors, count, where)
        ]

    def nearest(
        self, vectors: Float[np.ndarray, "Q E"], count: int, where: str = ""
    ) -> list[tuple[Int[np.ndarray, " K"], Float[np.ndarray, " K"]]]:
        """The rows and the scores that `search` finds."""
        if count < 1:
            raise UsageError(f"count={count}: must be 1 or more")
        if vectors.shape[-1] != self.vectors.shape[-1]:
            raise UsageError(
                f"{self.path}: vectors have {self.vectors.shape[-1]} numbers, and the question's "
                f"{vectors.shape[-1]}"
            )
        if not len(vectors):
            return []
        is_shown = None
        if where:
            is_shown = np.zeros(len(self), bool)
            is_shown[self.rows(where)] = True
        result = self._gallery.nearest(vectors, min(count, len(self)), is_shown)
        return [
            (index[index >= 0], score[index >= 0])
            for index, score in zip(result.index, result.score, strict=True)
        ]

    def rows(self, where: str = "") -> Int[np.ndarray, " _"]:
        """The rows for which a filter is true; all without one."""
        return self._filters.rows(where) if where else np.arange(len(self))

    def hit(self, row: int, score: float) -> Hit:
        """The offer of a row as a hit."""
        fields = {
            name: self.table.column(name)[row].as_py()
            for name in self.table.column_names
            if name not in ("id", *INTERNAL)
        }
        return Hit(self.table.column("id")[row].as_py(), score, fields)

    def row(self, offer_id: str) -> int:
        """The row of an offer.

        Raises:
            UsageError: there is none of that id.
        """
        if offer_id not in self._rows:
            # Of a large catalogue the nearest spelling would take seconds.
            near = spelling_hint(offer_id, [*self._rows][:10_000])
            raise UsageError(f"{self.path}: no offer {offer_id!r}{near}")
        return self._rows[offer_id]

    def picture(self, hit: Hit) -> Path | None:
        """Where the picture of a hit lies; None where the offer has none."""
        return self.pictures / hit.fields["path"] if hit.fields["path"] else None

    @cached_property
    def _gallery(self) -> neighbours.Gallery:
        return neighbours.Gallery(self.vectors, mesh=self.mesh)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {offer_id: row for row, offer_id in enumerate(self.table.column("id").to_pylist())}

    @cached_property
    def _filters(self) -> Filters:
        names = [name for name in self.table.column_names if name not in INTERNAL]
        theirs = self.manifest["columns"].items()
        return Filters(self.table.select(names), {name: ours for ours, name in theirs if name})


def open_index(path: str | Path, pictures: str | Path = "") -> Index:
    """The index of a folder that `python -m date_jax.embed` has made.

    Args:
        path: of the folder.
        pictures: the folder that the catalogue's pictures are relative to; "" for that of the
            catalogue, where it was when it was embedded.

    Raises:
        DataError: the folder is not there, not whole or damaged.
        SetupError: pyarrow is not installed.
    """
    folder = user_path(path)
    manifest = parts.read_manifest(folder)
    tables = []
    for entry in manifest["parts"]:
        part = parts.read_part(folder / Path(entry["file"]).name)
        if part is None or len(part.table) != entry["rows"]:
            raise DataError(
                f"{folder / entry['file']}: is damaged\n  remove it, and start the command of "
                "date_jax.embed again that made it: it embeds the offers of this part alone"
            )
        tables.append(part.table)
    table = _whole_table(tables)
    return Index(
        path=folder,
        manifest=manifest,
        vectors=parts.vectors_of_table(table),
        table=table.drop_columns(["vector"]),
        pictures=user_path(pictures) if pictures else Path(manifest["pictures"]),
        mesh=sharding.device_mesh(devices=jax.local_devices()),
    )


def _whole_table(tables: Sequence[Any]) -> Any:
    """The rows of all parts in one table."""
    return extra_module("pyarrow").concat_tables(tables).combine_chunks()
