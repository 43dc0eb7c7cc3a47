"""Posts in memory but for their pictures: titles as numbers, labels, a vocabulary. CAPTURE's data.

The splits are `post_train` and `composite_train`, and for evaluation `<queries>_<val or test>`,
`single_<…>` (the gallery) and `composite_<…>`.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from date_jax.data import tokenizer as tokenizers
from date_jax.data.cache import cache_folder, locked, quiet_tfds, tensorflow
from date_jax.data.prepared import PreparedSplit, prepared
from date_jax.data.suites import JOINED
from date_jax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class PostSplit:
    """The rows of one split.

    Attributes:
        name: `<kind>_<train, val or test>`.
        size: N.
        titles: the texts.
        text, text_mask: their ids, as in the batch.
        records: the files; gives labels and boxes, when evaluation asks.
    """

    name: str
    size: int
    titles: list[str]
    text: Int[np.ndarray, "N T"]
    text_mask: Bool[np.ndarray, "N T"]
    records: PreparedSplit

    def labels(self) -> list[list[str]]:
        """Of each row: what its picture shows, with repetitions."""
        return [labels.split(JOINED) for labels in self.records.products()]


@dataclasses.dataclass(frozen=True)
class Posts:
    """All splits of a set of posts; attributes as `corpus.Corpus`."""

    splits: dict[str, PostSplit]
    tokenizer: Tokenizer
    image_size: int
    notes: list[str]
    fingerprint: str


def load(config: Any) -> Posts:
    """The posts that `config.data` describes, prepared on the first call and then cached.

    Every process calls it; on one machine one of them prepares and the others wait. Labels and
    boxes stay on disk until evaluation reads them.

    Args:
        config: the `data` part of a config.

    Raises:
        DataError, SetupError, UsageError: see `corpus.load`.
    """
    cache = cache_folder(config)
    vocabulary = (
        tokenizers.loaded(config.vocab, length=config.text_length) if config.vocab else None
    )
    with locked(cache), quiet_tfds():
        on_disk = prepared(BUILDERS[config.name](config, cache))
    titles = {name: split.queries() for name, split in on_disk.items()}
    if vocabulary is None:
        vocabulary = tokenizers.learned(
            titles["post_train"], size=config.vocab_size, length=config.text_length
        )
    splits, notes = {}, []
    for name, split in on_disk.items():
        encoded = vocabulary.encoded(titles[name])
        if encoded.cut:
            notes.append(
                f"{encoded.cut:,} titles of {name} lose their ends (config.data.text_length)"
            )
        splits[name] = PostSplit(name, split.size, titles[name], encoded.ids, encoded.mask, split)
    what = [config.image_size, config.text_length, *vocabulary.vocab]
    what += [f"{name} {split.fingerprint}" for name, split in on_disk.items()]
    counts = ", ".join(f"{name} {split.size:,}" for name, split in splits.items())
    return Posts(
        splits=splits,
        tokenizer=vocabulary,
        image_size=config.image_size,
        notes=[f"rows: {counts}", *notes],
        fingerprint=hashlib.sha256(repr(what).encode()).hexdigest(),
    )


def _suites(config: Any, cache: Path) -> Any:
    tensorflow()
    from date_jax.data.datasets import suites

    return suites.builder(config, cache)


BUILDERS: dict[str, Callable[[Any, Path], Any]] = {"suites": _suites}
