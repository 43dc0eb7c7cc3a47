"""A catalogue in memory but for its pictures, and pairs of its offers to train on.

The splits are `offer_train`, `offer_val` and `offer_test`. Which offers show the same product is
known for evaluation only: training has the pairs, which are mined from a click log, or given.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from date_jax.data import tokenizer as tokenizers
from date_jax.data.cache import cache_folder, locked, quiet_tfds, tensorflow
from date_jax.data.clicks import given as given_pairs
from date_jax.data.clicks.mined import Pairs, mined_pairs
from date_jax.data.files import offers as own
from date_jax.data.files import published_offers
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
        pairs: rows of `offer_train` that are taken for the same product.
        judged: whether the products of `offer_train` are known from elsewhere than the pairs.
    """

    splits: dict[str, OfferSplit]
    pairs: Int[np.ndarray, "M 2"]
    judged: bool
    tokenizer: Tokenizer
    image_size: int
    notes: list[str]
    fingerprint: str


class Source(NamedTuple):
    """Where offers and pairs come from.

    Attributes:
        builder: of TFDS, whose records have the texts of `datasets/suppliers.py`.
        pairs: finds them, given the prepared `offer_train`.
        judged: as in Catalogue.
        notes: what the user should be told once.
    """

    builder: Any
    pairs: Callable[[PreparedSplit], Pairs]
    judged: bool = True
    notes: tuple[str, ...] = ()


def load(config: Any) -> Catalogue:
    """The catalogue that `config.data` describes and its pairs, prepared once and then cached.

    Every process calls it; on one machine one of them prepares and the others wait.

    Args:
        config: the `data` part of a config.

    Raises:
        DataError, SetupError, UsageError: see `corpus.load`, `mined_pairs`, `given_pairs`, `offers`
            and `published_offers`.
    """
    if config.name not in SOURCES:
        raise UsageError(
            f"config.data.name: unknown catalogue {config.name!r}{nearest(config.name, SOURCES)}\n"
            f"  choices: {', '.join(SOURCES)}"
        )
    cache = cache_folder(config)
    vocabulary = (
        tokenizers.loaded(config.vocab, length=config.text_length) if config.vocab else None
    )
    with locked(cache) as alone, quiet_tfds():
        source = SOURCES[config.name](config, cache)
        on_disk = prepared(source.builder, alone=alone)
    with locked(cache):
        pairs = source.pairs(on_disk[TRAIN])
    titles = {name: split.queries() for name, split in on_disk.items()}
    if vocabulary is None:
        vocabulary = tokenizers.learned(
            titles[TRAIN], size=config.vocab_size, length=config.text_length
        )
    splits = {}
    notes = [*source.notes, *(source.builder.info.metadata or {}).get("notes", [])]
    for name, split in on_disk.items():
        encoded = vocabulary.encoded(titles[name])
        tokenizers.check_known(encoded, name=name, vocab=config.vocab)
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
        judged=source.judged,
        tokenizer=vocabulary,
        image_size=config.image_size,
        notes=[f"rows: {counts}", pairs.note, *notes],
        fingerprint=hashlib.sha256(repr(what).encode()).hexdigest(),
    )


def _suppliers(config: Any, cache: Path) -> Source:
    tensorflow()
    from date_jax.data.datasets import suppliers

    mined = partial(mined_pairs, config=config.clicks, cache=cache)
    return Source(suppliers.builder(config, cache), mined)


def _files(config: Any, cache: Path) -> Source:
    path = Path(config.path).expanduser()
    offers = own.offers(path)
    pairs = given_pairs.read(config.pairs)
    judged = all(offer.product_id for offer in offers if offer.split in ("", "train"))
    return _given(
        config, cache, offers, pairs, folder=path.parent, said=config.pairs, judged=judged
    )


def _published(config: Any, cache: Path) -> Source:
    folder = Path(config.images).expanduser()
    found = published_offers.published(Path(config.path).expanduser())
    offers = published_offers.with_files(found.offers, folder)
    source = _given(
        config, cache, offers, found.pairs, folder=folder, said=config.path, judged=False
    )
    return source._replace(notes=(*found.notes, *source.notes))


def _given(
    config: Any,
    cache: Path,
    offers: list[own.Offer],
    pairs: own.IdPairs,
    *,
    folder: Path,
    said: str,
    judged: bool,
) -> Source:
    """Offers and pairs that are there already; pictures lie in `folder`, pairs come from `said`."""
    tensorflow()
    from date_jax.data.datasets import offers as records

    placed = own.placed(offers, pairs)
    # Before the first picture is made; once they are, offers without one are gone.
    given_pairs.rows_of(pairs, [offer.offer_id for offer in placed if offer.split == "train"], said)
    path = Path(config.path).expanduser()
    return Source(
        records.builder(config, cache, path=path, folder=folder, offers=placed),
        lambda split: given_pairs.rows_of(pairs, split.texts("offer_id"), said),
        judged,
        own.notes(offers, placed),
    )


SOURCES: dict[str, Callable[[Any, Path], Source]] = {
    "suppliers": _suppliers,
    "files": _files,
    "published": _published,
}
