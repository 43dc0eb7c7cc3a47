"""A catalogue in memory but for its pictures, and pairs of its offers to train on.

The splits are `offer_train`, `offer_val` and `offer_test`. Which offers show the same product is
known for evaluation only: training has the pairs, and they are mined from a click log.
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
from date_jax.data.mined_pairs import mined_pairs
from date_jax.data.prepared import PreparedSplit, prepared
from date_jax.data.tokenizer import Tokenizer
from date_jax.errors import UsageError, nearest

TRAIN = "offer_train"


@dataclasses.dataclass(frozen=True)
class OfferSplit:
    """The offers of one split.

    Attributes:
        name: `offer_<train, val or test>`.
        size: N.
        titles: the texts.
        text, text_mask: their ids, as in the batch.
        records: the files; gives all other columns when asked.
    """

    name: str
    size: int
    titles: list[str]
    text: Int[np.ndarray, "N T"]
    text_mask: Bool[np.ndarray, "N T"]
    records: PreparedSplit

    def products(self) -> Int[np.ndarray, " N"]:
        """The ground truth, for evaluation only: equal numbers show the same product."""
        return np.unique(self.records.products(), return_inverse=True)[1].astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """All splits; attributes as `corpus.Corpus`, and the training pairs.

    Attributes:
        pairs: rows of `offer_train` that were mined as the same product.
    """

    splits: dict[str, OfferSplit]
    pairs: Int[np.ndarray, "M 2"]
    tokenizer: Tokenizer
    image_size: int
    notes: list[str]
    fingerprint: str


def load(config: Any) -> Catalogue:
    """The catalogue that `config.data` describes and its pairs, prepared once and then cached.

    Every process calls it; on one machine one of them prepares and the others wait.

    Args:
        config: the `data` part of a config.

    Raises:
        DataError, SetupError, UsageError: see `corpus.load` and `mined_pairs`.
    """
    if config.name not in BUILDERS:
        raise UsageError(
            f"config.data.name: unknown catalogue {config.name!r}{nearest(config.name, BUILDERS)}\n"
            f"  choices: {', '.join(BUILDERS)}"
        )
    cache = cache_folder(config)
    vocabulary = (
        tokenizers.loaded(config.vocab, length=config.text_length) if config.vocab else None
    )
    with locked(cache), quiet_tfds():
        on_disk = prepared(BUILDERS[config.name](config, cache))
    with locked(cache):
        pairs = mined_pairs(on_disk[TRAIN], config.clicks, cache)
    titles = {name: split.queries() for name, split in on_disk.items()}
    if vocabulary is None:
        vocabulary = tokenizers.learned(
            titles[TRAIN], size=config.vocab_size, length=config.text_length
        )
    splits, notes = {}, []
    for name, split in on_disk.items():
        encoded = vocabulary.encoded(titles[name])
        if encoded.cut:
            notes.append(
                f"{encoded.cut:,} titles of {name} lose their ends (config.data.text_length)"
            )
        splits[name] = OfferSplit(name, split.size, titles[name], encoded.ids, encoded.mask, split)
    what = [config.image_size, config.text_length, *vocabulary.vocab, pairs.rows.tolist()]
    what += [f"{name} {split.fingerprint}" for name, split in on_disk.items()]
    counts = ", ".join(f"{name} {split.size:,}" for name, split in splits.items())
    return Catalogue(
        splits=splits,
        pairs=pairs.rows,
        tokenizer=vocabulary,
        image_size=config.image_size,
        notes=[f"rows: {counts}", pairs.note, *notes],
        fingerprint=hashlib.sha256(repr(what).encode()).hexdigest(),
    )


def _suppliers(config: Any, cache: Path) -> Any:
    tensorflow()
    from date_jax.data.datasets import suppliers

    return suppliers.builder(config, cache)


BUILDERS: dict[str, Callable[[Any, Path], Any]] = {"suppliers": _suppliers}
