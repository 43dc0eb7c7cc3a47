"""Posts in memory but for their pictures: titles as numbers, labels, a vocabulary. CAPTURE's data.

The splits are `post_train` and `composite_train`, and for evaluation `<queries>_<val or test>`,
`single_<…>` (the gallery) and `composite_<…>`. Where regions were found beforehand, no composites
are needed.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from date_jax.data import tokenizer as tokenizers
from date_jax.data.cache import cache_folder, locked, quiet_tfds, tensorflow
from date_jax.data.files.region_files import RegionFiles
from date_jax.data.prepared import PreparedSplit, prepared
from date_jax.data.rendering.suites import JOINED
from date_jax.data.tokenizer import Tokenizer
from date_jax.errors import UsageError, nearest


@dataclasses.dataclass(frozen=True)
class PostSplit:
    """The rows of one split.

    Attributes:
        name: `<kind>_<train, val or test>`.
        size: N.
        titles: the texts.
        text, text_mask: their ids, as in the batch.
        records: the files; gives labels and boxes, when evaluation asks.
        region_row: of each post's regions; None where they are not found beforehand.
    """

    name: str
    size: int
    titles: list[str]
    text: Int[np.ndarray, "N T"]
    text_mask: Bool[np.ndarray, "N T"]
    records: PreparedSplit
    region_row: Int[np.ndarray, " N"] | None = None

    def ids(self) -> list[str]:
        """Of each row: its post's id, or `<split>_<row>` where posts are rendered."""
        if self.records.has("offer_id"):
            return self.records.texts("offer_id")
        return [f"{self.name}_{row}" for row in range(self.size)]

    def labels(self) -> list[list[str]]:
        """Of each row: what its picture shows, with repetitions."""
        return [labels.split(JOINED) for labels in self.records.products()]


@dataclasses.dataclass(frozen=True)
class Posts:
    """All splits of a set of posts; attributes as `corpus.Corpus`, and

    Attributes:
        regions: found beforehand; None where the network looks for them.
    """

    splits: dict[str, PostSplit]
    regions: RegionFiles | None
    tokenizer: Tokenizer
    image_size: int
    notes: list[str]
    fingerprint: str


class Source(NamedTuple):
    """Builders of TFDS that give all splits together, and what the user should be told once."""

    builders: list[Any]
    notes: list[str]


def load(config: Any) -> Posts:
    """The posts that `config.data` describes, prepared on the first call and then cached.

    Every process calls it; on one machine one of them prepares and the others wait. Labels and
    boxes stay on disk until evaluation reads them, regions until a batch has them.

    Args:
        config: the `data` part of a config.

    Raises:
        DataError, SetupError, UsageError: see `corpus.load`, `RegionFiles`, `product1m.splits`.
    """
    if config.name not in SOURCES:
        raise UsageError(
            f"config.data.name: unknown posts {config.name!r}{nearest(config.name, SOURCES)}\n"
            f"  choices: {', '.join(SOURCES)}"
        )
    cache = cache_folder(config)
    vocabulary = (
        tokenizers.loaded(config.vocab, length=config.text_length) if config.vocab else None
    )
    regions = RegionFiles(Path(config.regions).expanduser()) if config.regions else None
    on_disk: dict[str, PreparedSplit] = {}
    with locked(cache) as alone, quiet_tfds():
        source = SOURCES[config.name](config, cache)
        for builder in source.builders:
            on_disk |= prepared(builder, alone=alone)
    titles = {name: split.queries() for name, split in on_disk.items()}
    if vocabulary is None:
        vocabulary = tokenizers.learned(
            titles["post_train"], size=config.vocab_size, length=config.text_length
        )
    splits = {}
    notes = [*source.notes]
    for builder in source.builders:
        notes += (builder.info.metadata or {}).get("notes", [])
    for name, split in on_disk.items():
        encoded = vocabulary.encoded(titles[name])
        tokenizers.check_known(encoded, name=name, vocab=config.vocab)
        if encoded.cut:
            notes.append(
                f"{encoded.cut:,} titles of {name} lose their ends (config.data.text_length)"
            )
        made = PostSplit(name, split.size, titles[name], encoded.ids, encoded.mask, split)
        if regions and not name.startswith("composite_"):
            made = dataclasses.replace(made, region_row=regions.rows(made.ids(), name))
        splits[name] = made
    what = [config.image_size, config.text_length, *vocabulary.vocab]
    what += [f"{name} {split.fingerprint}" for name, split in on_disk.items()]
    what += [regions.fingerprint] if regions else []
    counts = ", ".join(f"{name} {split.size:,}" for name, split in splits.items())
    return Posts(
        splits=splits,
        regions=regions,
        tokenizer=vocabulary,
        image_size=config.image_size,
        notes=[f"rows: {counts}", *notes],
        fingerprint=hashlib.sha256(repr(what).encode()).hexdigest(),
    )


def gallery(corpus: Posts, kind: str) -> str:
    """The split that queries of this kind search: Product1M has one for val and test."""
    name = f"single_{kind}"
    return name if name in corpus.splits else "single_test"


def _suites(config: Any, cache: Path) -> Source:
    tensorflow()
    from date_jax.data.datasets import suites

    return Source([suites.builder(config, cache)], [])


def _product1m(config: Any, cache: Path) -> Source:
    tensorflow()
    from date_jax.data.datasets import product1m, suites

    given, notes = product1m.builder(config, cache)
    if config.regions:
        return Source([given], notes)
    # It has no cut-outs to learn proposals from; a head that knows no class takes rendered ones.
    return Source([given, suites.builder(config, cache, kinds=("composite",))], notes)


SOURCES: dict[str, Callable[[Any, Path], Source]] = {"suites": _suites, "product1m": _product1m}
