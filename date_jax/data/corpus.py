"""A data set in memory but for its pictures: splits, texts as numbers, products, a vocabulary."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from date_jax.data import tokenizer as tokenizers
from date_jax.data.cache import cache_folder, locked, quiet_tfds, tensorflow
from date_jax.data.domains import check_domains, joined_domains
from date_jax.data.prepared import PreparedSplit, prepared
from date_jax.data.tokenizer import Tokenizer
from date_jax.errors import UsageError, nearest


@dataclasses.dataclass(frozen=True)
class Split:
    """The rows of one domain's split: everything small of them, and where the pictures are.

    Attributes:
        name: `<domain>_<split>`.
        domain: its part before the last underscore.
        size: N, its number of rows.
        fingerprint: sha256 over all its records.
        queries: the texts.
        text, text_mask: their ids, as in the batch.
        product_id: numbers of products, the same in all splits of a corpus.
        records: the files; also gives the boxes, when asked.
    """

    name: str
    domain: str
    size: int
    fingerprint: str
    queries: list[str]
    text: Int[np.ndarray, "N T"]
    text_mask: Bool[np.ndarray, "N T"]
    product_id: Int[np.ndarray, " N"]
    records: PreparedSplit

    def arrays(self) -> dict[str, np.ndarray]:
        """`product_id [N]`, `box_xyxy [N 4]` (normalised, zeros where none) and `has_box [N]`."""
        return {
            "product_id": self.product_id,
            "box_xyxy": self.records.box_xyxy(),
            "has_box": self.records.has_box(),
        }


@dataclasses.dataclass(frozen=True)
class Corpus:
    """All splits of a data set.

    Attributes:
        splits: by name.
        tokenizer: the one their texts are encoded with.
        image_size: S; every picture is S x S.
        notes: what the user should be told once.
        fingerprint: equal on two hosts exactly if they hold the same data and vocabulary.
    """

    splits: dict[str, Split]
    tokenizer: Tokenizer
    image_size: int
    notes: list[str]
    fingerprint: str


def load(config: Any) -> Corpus:
    """The data set that `config.data` describes, prepared on the first call and then cached.

    Every process calls it; on one machine one of them prepares and the others wait.

    Args:
        config: the `data` part of a config.

    Raises:
        DataError: the user's files are wrong, or lack what the config asks for.
        SetupError: the cache cannot be written.
        UsageError: the config names something unknown.
    """
    if config.name not in BUILDERS:
        raise UsageError(
            f"config.data.name: unknown data set {config.name!r}"
            f"{nearest(config.name, BUILDERS)}\n  choices: {', '.join(BUILDERS)}"
        )
    cache = cache_folder(config)
    vocabulary = (
        tokenizers.loaded(config.vocab, length=config.text_length) if config.vocab else None
    )
    with locked(cache) as alone, quiet_tfds():
        builder = BUILDERS[config.name](config, cache)
        on_disk = prepared(builder, alone=alone)
    notes = (builder.info.metadata or {}).get("notes", [])
    return _corpus(config, on_disk, vocabulary, notes)


def _corpus(
    config: Any, on_disk: dict[str, PreparedSplit], vocabulary: Tokenizer | None, notes: list[str]
) -> Corpus:
    boxes_of = {name: int(split.has_box().sum()) for name, split in on_disk.items()}
    check_domains(on_disk, source=config.source, target=config.target, where=f"{config.name!r}")
    asked = dict.fromkeys(joined_domains(config.source) + joined_domains(config.target))
    queries = {name: split.queries() for name, split in on_disk.items()}
    if vocabulary is None:
        # Sorted, so that both directions between two domains share one vocabulary.
        texts = (text for domain in sorted(asked) for text in queries[f"{domain}_train"])
        vocabulary = tokenizers.learned(texts, size=config.vocab_size, length=config.text_length)
    products = {name: split.products() for name, split in on_disk.items()}
    every_product = sorted(set().union(*products.values()))
    number_of = {product: number for number, product in enumerate(every_product)}
    counts, cut, empty = [], 0, 0
    splits = {}
    for name, split in on_disk.items():
        domain = name.rpartition("_")[0]
        encoded = vocabulary.encoded(queries[name])
        counts.append(f"{name} {split.size:,} ({boxes_of[name]:,})")
        if domain in asked:
            tokenizers.check_known(encoded, name=name, vocab=config.vocab)
            cut, empty = cut + encoded.cut, empty + encoded.empty
        splits[name] = Split(
            name=name,
            domain=domain,
            size=split.size,
            fingerprint=split.fingerprint,
            queries=queries[name],
            text=encoded.ids,
            text_mask=encoded.mask,
            product_id=np.array([number_of[product] for product in products[name]], np.int32),
            records=split,
        )
    if cut:
        room = config.text_length - 2  # beside [CLS] and [SEP]
        said = f"{cut:,} queries are longer than {room} word pieces and lose their ends"
        notes = [*notes, f"{said} (config.data.text_length)"]
    if empty:
        notes = [*notes, f"{empty:,} queries are empty"]
    what = [config.image_size, config.text_length, *vocabulary.vocab]
    what += [f"{name} {split.fingerprint}" for name, split in splits.items()]
    return Corpus(
        splits=splits,
        tokenizer=vocabulary,
        image_size=config.image_size,
        notes=[f"rows (with a box): {', '.join(counts)}", *notes],
        fingerprint=hashlib.sha256(repr(what).encode()).hexdigest(),
    )


def _shop(config: Any, cache: Path) -> Any:
    tensorflow()
    from date_jax.data.datasets import shop

    return shop.builder(config, cache)


def _files(config: Any, cache: Path) -> Any:
    tensorflow()
    from date_jax.data.datasets import files

    return files.builder(config, cache)


BUILDERS: dict[str, Callable[[Any, Path], Any]] = {"shop": _shop, "files": _files}
