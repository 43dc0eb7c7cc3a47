"""A run and an index whose questions share batches with those of other requests.

They are asked like any other, from a thread of each request: `seek` needs to know nothing of it.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from date_jax.api import Grounding, Instance, Run, picture_list, text_list
from date_jax.data.files.user_pictures import Source
from date_jax.index.exact import Hit, Index
from date_jax.serving.batching import Batcher

_FILTERS = 64  # of which the rows are remembered

BatcherOf = Callable[[str, Callable[[Sequence[Any]], Sequence[Any]]], Batcher]


@dataclasses.dataclass(frozen=True)
class SharedRun(Run):
    """A run that is asked by many threads and answers them in batches; made by `shared_run`.

    Attributes:
        batchers: by question; the rows of a batch are the arguments of that method.
    """

    batchers: dict[str, Batcher]

    def ground(
        self, images: Source | Sequence[Source], queries: str | Sequence[str]
    ) -> list[Grounding]:
        """See `Run.ground`; as many queries as images."""
        return self._answers("ground", picture_list(images), text_list(queries))

    def embed_images(self, images: Source | Sequence[Source]) -> Float[np.ndarray, "N E"]:
        """See `Run.embed_images`; one image or more."""
        return np.stack(self._answers("embed_images", picture_list(images)))

    def embed_texts(self, texts: str | Sequence[str]) -> Float[np.ndarray, "N E"]:
        """See `Run.embed_texts`; one text or more."""
        return np.stack(self._answers("embed_texts", text_list(texts)))

    def embed_products(
        self, images: Sequence[Source | None], titles: Sequence[str]
    ) -> Float[np.ndarray, "N E"]:
        """See `Run.embed_products`; one product or more."""
        return np.stack(self._answers("embed_products", images, titles))

    def instances(self, images: Sequence[Source], titles: Sequence[str]) -> list[list[Instance]]:
        """See `Run.instances`."""
        return self._answers("instances", images, titles)

    def _answers(self, question: str, *columns: Sequence[Any]) -> list[Any]:
        """The answers of a batcher to some rows."""
        futures = [self.batchers[question].submit(row) for row in zip(*columns, strict=True)]
        return [future.result() for future in futures]


def shared_run(run: Run, batcher: BatcherOf) -> SharedRun:
    """A run whose questions go through batchers.

    Args:
        run: that answers the batches.
        batcher: of a question and of the function that answers its batches.
    """

    def answers(question: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        method = getattr(run, question)
        return lambda rows: [*method(*map(list, zip(*rows, strict=True)))]

    fields = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
    return SharedRun(
        **fields,
        batchers={question: batcher(question, answers(question)) for question in run.questions},
    )


@dataclasses.dataclass(frozen=True)
class SharedIndex(Index):
    """An index that is asked by many threads; made by `shared_index`.

    Attributes:
        batcher: whose questions are a vector, a count and a filter.
        filter_rows: the rows of a filter.
    """

    batcher: Batcher
    filter_rows: Callable[[str], Int[np.ndarray, " _"]]

    def search(
        self, vectors: Float[np.ndarray, "Q E"], count: int, where: str = ""
    ) -> list[list[Hit]]:
        """See `Index.search`."""
        # A filter that is none, or slow, harms the thread that asks alone.
        if where:
            self.filter_rows(where)
        futures = [self.batcher.submit((vector, count, where)) for vector in vectors]
        return [
            [self.hit(int(row), float(score)) for row, score in zip(*future.result(), strict=True)]
            for future in futures
        ]


def shared_index(index: Index, batcher: BatcherOf) -> SharedIndex:
    """An index that answers a batch of one filter by one product with all vectors.

    Args:
        index: that is searched.
        batcher: as of `shared_run`.
    """
    fields = {field.name: getattr(index, field.name) for field in dataclasses.fields(index)}
    filter_rows = functools.lru_cache(_FILTERS)(index.rows)

    class Filtered(Index):
        """The index, of which each filter is evaluated once."""

        def rows(self, where: str = "") -> Int[np.ndarray, " _"]:
            return filter_rows(where)

    filtered = Filtered(**fields)

    def answers(questions: Sequence[tuple[np.ndarray, int, str]]) -> list[Any]:
        results: list[Any] = [None] * len(questions)
        groups: dict[str, list[int]] = {}
        for place, (_, _, where) in enumerate(questions):
            groups.setdefault(where, []).append(place)
        for where, places in groups.items():
            vectors = np.stack([questions[place][0] for place in places])
            most = max(questions[place][1] for place in places)
            lines = filtered.nearest(vectors, most, where)
            for place, (rows, scores) in zip(places, lines, strict=True):
                count = questions[place][1]
                results[place] = rows[:count], scores[:count]
        return results

    return SharedIndex(**fields, batcher=batcher("nearest", answers), filter_rows=filter_rows)
