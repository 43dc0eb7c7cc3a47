"""A data set in memory but for its pictures: splits, texts as token ids, a vocabulary."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from date_jax.data import tokenizer as tokenizers
from date_jax.data.cache import cache_folder, folder_lock, quiet_tfds
from date_jax.data.clicks.training_pairs import TrainingPairs
from date_jax.data.features import FeatureFiles
from date_jax.data.files.region_files import RegionFiles
from date_jax.data.prepared import LABEL_SEPARATOR, PreparedSplit, prepare_splits
from date_jax.data.sources import PAIRED, SOURCES, Parts, reader
from date_jax.data.tokenizer import ALPHABET, EncodedTexts, Tokenizer
from date_jax.data.tokenizer_files import tokenizer_of_file
from date_jax.run.user_paths import user_path


@dataclasses.dataclass(frozen=True)
class Split:
    """The rows of one split: everything small of them, and where the pictures are.

    Attributes:
        name: `<domain>_<split>`, `offer_<split>` and so on, see `sources`.
        texts: a phrase or a title a row.
        text, text_mask: their token ids, as in the batch.
        records: the prepared records; gives boxes and all other columns when asked.
        numbers: further columns of batches by key, such as `product_id [N]`.
        region_row: the row of each record in the corpus' `regions`; None where it has none.
    """

    name: str
    texts: list[str]
    text: Int[np.ndarray, "N T"]
    text_mask: Bool[np.ndarray, "N T"]
    records: PreparedSplit
    numbers: Mapping[str, Int[np.ndarray, " N"]]
    region_row: Int[np.ndarray, " N"] | None = None

    @property
    def size(self) -> int:
        """N, the number of rows."""
        return self.records.size

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """All that batches hold of a row but picture, box and regions, by key."""
        return {"text": self.text, "text_mask": self.text_mask, **self.numbers}

    def ids(self) -> list[str]:
        """The id of each row: its offer's or post's, or `<split>_<row>` where it has none."""
        if self.records.has_column("offer_id"):
            return self.records.texts("offer_id")
        return [f"{self.name}_{row}" for row in range(self.size)]

    def labels(self) -> list[list[str]]:
        """The labels of each row's picture, with repetitions; of posts, for evaluation only."""
        return [labels.split(LABEL_SEPARATOR) for labels in self.records.products()]

    def products(self) -> Int[np.ndarray, " N"]:
        """The ground truth of each row, for evaluation only: equal numbers show one product."""
        return np.unique(self.records.products(), return_inverse=True)[1].astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """All splits of a data set.

    Attributes:
        splits: by name.
        tokenizer: the one that their texts are encoded with.
        image_size: S; every picture is S x S.
        notes: lines that the user should be told once.
        fingerprint: equal on two hosts exactly if they hold the same data and vocabulary.
        pairs: rows of the split `offer_train` that are taken for the same product, `[M 2]`; None
            where there are no offers.
        has_true_products: whether the products of `offer_train` are known from elsewhere than the
            pairs.
        regions: those that a detector found beforehand; None where the network looks for them.
        features: outputs of frozen extractors that batches hold in place of pictures; None where
            they are not kept.
    """

    splits: dict[str, Split]
    tokenizer: Tokenizer
    image_size: int
    notes: list[str]
    fingerprint: str
    pairs: Int[np.ndarray, "M 2"] | None = None
    has_true_products: bool = True
    regions: RegionFiles | None = None
    features: FeatureFiles | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """The number of rows of each split, by name."""
        return {name: split.size for name, split in self.splits.items()}


def load(config: Any, records: str) -> Corpus:
    """The data set that `config.data` describes, prepared on the first call and then cached.

    Every process calls it; on one machine one of them prepares and the others wait. Boxes, labels
    and products stay on disk until they are asked for, regions until a batch has them.

    Args:
        config: the `data` part of a config.
        records: their kind, `grounding`, `posts` or `offers`.

    Raises:
        DataError: the user's files are wrong, or lack what the config asks for.
        SetupError: the cache cannot be written, or a package is missing.
        UsageError: the config names something unknown.
    """
    # What can be refused at once is, before anything is rendered.
    read = reader(config.name, records)
    cache = cache_folder(config)
    tokenizer: Tokenizer | None = None
    if config.vocab:
        tokenizer = tokenizer_of_file(user_path(config.vocab), length=config.text_length)
    prepared_splits: dict[str, PreparedSplit] = {}
    # Records are made once; who comes later, or waited meanwhile, only opens them.
    with folder_lock(cache) as is_alone:
        with quiet_tfds():
            parts = read(config, cache)
            for builder in parts.builders:
                prepared_splits |= prepare_splits(builder, is_alone=is_alone)
            further = parts.further(prepared_splits) if parts.further else []
            for builder in further:
                prepared_splits |= prepare_splits(builder, is_alone=is_alone)
        pairs = parts.pairs(prepared_splits[PAIRED]) if parts.pairs else None
    # Texts become token ids. Where nobody reads a text, as a composite's, it decides nothing.
    texts = {name: split.texts("text") for name, split in prepared_splits.items()}
    is_read = {name: name.rpartition("_")[0] in parts.groups for name in texts}
    # Without a file for it, the vocabulary is learned from the training texts that are read.
    if tokenizer is None:
        train = sorted(name for name in texts if is_read[name] and name.endswith("_train"))
        tokenizer = tokenizers.tokenizer_of_texts(
            (text for name in train for text in texts[name]),
            size=config.vocab_size,
            length=config.text_length,
            # Rendered texts are made of the same words in all splits; a user's are not.
            alphabet=ALPHABET if SOURCES[config.name].needs else "",
        )
    encoded = {name: tokenizer.encode(texts[name]) for name in texts}
    # In another language most texts would be the same unknown words.
    unknown_notes = [
        note
        for name in filter(is_read.get, encoded)
        for note in tokenizers.vocabulary_notes(encoded[name], name=name, vocab=config.vocab)
    ]
    # Columns of names become numbers, and each post finds its regions.
    numbers = {key: _numbers(prepared_splits, key) for key in parts.numbered}
    splits = {}
    for name, records_of_split in prepared_splits.items():
        split = Split(
            name=name,
            texts=texts[name],
            text=encoded[name].ids,
            text_mask=encoded[name].mask,
            records=records_of_split,
            numbers={key: numbers_of_splits[name] for key, numbers_of_splits in numbers.items()},
        )
        if parts.regions and is_read[name]:
            region_row = parts.regions.rows(split.ids(), name)
            split = dataclasses.replace(split, region_row=region_row)
        splits[name] = split
    return Corpus(
        splits=splits,
        tokenizer=tokenizer,
        image_size=config.image_size,
        notes=[
            _row_counts(splits, parts),
            *([pairs.note] if pairs else []),
            *parts.notes,
            *(note for builder in (*parts.builders, *further) for note in _builder_notes(builder)),
            *_text_notes([encoded[name] for name in filter(is_read.get, encoded)], tokenizer.room),
            *unknown_notes,
        ],
        fingerprint=_fingerprint(config, tokenizer, splits, parts, pairs),
        pairs=pairs.rows if pairs else None,
        has_true_products=parts.has_true_products,
        regions=parts.regions,
    )


def _numbers(
    prepared_splits: Mapping[str, PreparedSplit], column: str
) -> dict[str, Int[np.ndarray, " N"]]:
    """A column of texts as numbers by split, where equal texts of any split are one number."""
    names = {split: records.texts(column) for split, records in prepared_splits.items()}
    number_of = {name: number for number, name in enumerate(sorted(set().union(*names.values())))}
    return {
        split: np.array([number_of[name] for name in names_of_split], np.int32)
        for split, names_of_split in names.items()
    }


def _row_counts(splits: Mapping[str, Split], parts: Parts) -> str:
    """The line that says how many rows each split has, and where it matters how many boxes."""
    counts = []
    for name, split in splits.items():
        boxes = f" ({int(split.records.has_box().sum()):,})" if parts.boxes else ""
        counts.append(f"{name} {split.size:,}{boxes}")
    return f"rows{' (with a box)' if parts.boxes else ''}: {', '.join(counts)}"


def _builder_notes(builder: Any) -> list[str]:
    """Notes for the user that a TFDS builder wrote down when it prepared its records."""
    return (builder.info.metadata or {}).get("notes", [])


def _text_notes(encoded: Sequence[EncodedTexts], room: int) -> list[str]:
    """Notes for the user about texts that lost their end or hold no word.

    Args:
        encoded: the texts of each split.
        room: word pieces that a text may have.
    """
    cut, empty = (sum(getattr(texts, loss) for texts in encoded) for loss in ("cut", "empty"))
    notes = []
    if cut:
        notes.append(
            f"{cut:,} texts are longer than {room} word pieces and lose their ends "
            "(config.data.text_length)"
        )
    if empty:
        notes.append(f"{empty:,} texts are empty")
    return notes


def _fingerprint(
    config: Any,
    tokenizer: Tokenizer,
    splits: Mapping[str, Split],
    parts: Parts,
    pairs: TrainingPairs | None,
) -> str:
    """A text that two corpora share exactly if a run learns the same from both."""
    content = [config.image_size, config.text_length, *tokenizer.vocab]
    # The rules of a learned vocabulary are always the same, and BERT's are what a file has.
    if config.vocab and tokenizer.rules != tokenizers.UNCASED:
        content.append(tokenizer.rules)
    content += [pairs.rows.tolist()] if pairs else []
    content += [f"{name} {split.records.fingerprint}" for name, split in splits.items()]
    content += [parts.regions.fingerprint] if parts.regions else []
    return hashlib.sha256(repr(content).encode()).hexdigest()
