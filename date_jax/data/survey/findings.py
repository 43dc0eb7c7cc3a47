"""What is wrong with a user's data, and what is worth a look: one finding a kind, with examples."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from date_jax.data.domains import SPLITS
from date_jax.data.files.annotations import Row
from date_jax.data.files.box_format import check_boxes
from date_jax.data.files.photos import PhotoRow, short_name
from date_jax.data.files.preprocess import Header
from date_jax.data.files.text_rows import product_notes
from date_jax.data.survey.duplicates import near_pairs, same_files
from date_jax.data.survey.looks import Look
from date_jax.data.tokenizer import Tokenizer, vocabulary_notes
from date_jax.errors import DataError

SMALL_PICTURE = 64  # pixels of the longer side
TINY_BOX = 0.001  # the share of its picture
WHOLE_BOX = 0.98
MANY = 0.5  # the share of rows from which a thing that is normal for a few is told
_FAULTS = {
    "dark": "dark pictures, 19 of 20 pixels below a quarter of full brightness",
    "blank": "pictures of one colour, as placeholders are",
    "blurred": "blurred pictures",
}


class Finding(NamedTuple):
    """One kind of thing that was found.

    Attributes:
        kind: a name for programs.
        is_wrong: a run would stop, or its measures would mean nothing.
        text: what, how often, and what to do.
        size: how many rows, pictures or pairs.
        examples: the first few, as texts.
        pictures: the names of the pictures to show, those of a pair after each other.
        rows: to show with their boxes.
    """

    kind: str
    is_wrong: bool
    text: str
    size: int = 1
    examples: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()


class Data(NamedTuple):
    """All that findings are made of.

    Attributes:
        path: of the file, for messages.
        rows: of it.
        headers: of the readable pictures, by name.
        unreadable: why each of the others cannot be read.
        looks: of the readable pictures, by name.
        budget: the share of rows whose pictures may be unreadable.
        tokenizer: of the vocabulary that the user gave, or None.
        vocab: its path.
    """

    path: Path
    rows: Sequence[Row]
    headers: Mapping[str, Header]
    unreadable: Mapping[str, str]
    looks: Mapping[str, Look]
    budget: float
    tokenizer: Tokenizer | None = None
    vocab: str = ""


def findings(data: Data) -> list[Finding]:
    """All findings, those that are wrong first."""
    parts: tuple[Callable[[Data], Iterator[Finding]], ...] = (
        *(_unreadable, _boxes, _splits, _leaks, _twins, _faults),
        *(_box_sizes, _queries, _products, _words),
    )
    found = [finding for part in parts for finding in part(data)]
    return sorted(found, key=lambda finding: not finding.is_wrong)


def _unreadable(data: Data) -> Iterator[Finding]:
    """Pictures that cannot be read."""
    lost = [row for row in data.rows if row.image in data.unreadable]
    if lost:
        names = list(dict.fromkeys(row.image for row in lost))
        allowed = int(data.budget * len(data.rows))
        yield Finding(
            "unreadable_pictures",
            len(lost) > allowed,
            f"rows whose picture cannot be read: {len(lost):,} of {len(data.rows):,}; "
            f"config.data.bad_image_budget={data.budget:g} allows {allowed:,}",
            len(lost),
            tuple(f"{short_name(name)} {data.unreadable[name]}" for name in names[:3]),
        )


def _boxes(data: Data) -> Iterator[Finding]:
    """Boxes that are no corners in pixels."""
    try:
        check_boxes(
            data.path,
            [
                PhotoRow(row.line, row.image, row.text, row.box, row.split, "", "")
                for row in data.rows
            ],
            data.headers,
        )
    except DataError as error:
        text, *lines = str(error).removeprefix(f"{data.path}: ").split("\n")
        yield Finding("box_format", True, text, examples=tuple(line.strip() for line in lines))


def _splits(data: Data) -> Iterator[Finding]:
    """Domains without training rows or without rows to measure on."""
    if any(row.is_hashed for row in data.rows):
        text = "no row has a split: products go to train, val and test by a hash, 8:1:1"
        yield Finding("hashed_splits", False, text)
    splits = defaultdict(set)
    for row in data.rows:
        splits[row.domain].add(row.split)
    trained = [domain for domain in splits if "train" in splits[domain]]
    if not trained:
        yield Finding("no_training_rows", True, "no row has the split 'train': nothing is learned")
    for domain in sorted(splits):
        lacking = [split for split in SPLITS if split not in splits[domain]]
        if "train" in splits[domain] and "test" in lacking:
            text = f"domain {domain} has no rows of {' and '.join(lacking)} to be measured on"
            yield Finding("no_test_rows", False, text)
    if trained and not any(row.box for row in data.rows if row.split == "train"):
        text = "no training row has a box: retrieval can be trained, boxes cannot"
        yield Finding("no_boxes", False, text)


def _leaks(data: Data) -> Iterator[Finding]:
    """The same picture on both sides: what is measured was trained on."""
    sides = _sides(data.rows)
    groups = [[name] for name in sides] + same_files(data.looks)
    leaks = [names for names in groups if _is_leak(set().union(*(sides[n] for n in names)))]
    # A name that is itself on both sides need not be told again with its equals.
    singles = {names[0] for names in leaks if len(names) == 1}
    leaks = [names for names in leaks if len(names) == 1 or not singles.intersection(names)]
    if leaks:
        yield Finding(
            "same_picture_in_train_and_test",
            True,
            f"THE SAME PICTURE IN TRAIN AND IN VAL OR TEST: {len(leaks):,}; what is measured "
            "there was trained on\n  put all rows of a picture into one split",
            len(leaks),
            tuple(_place(data, _crossing_names(names, sides)) for names in leaks[:3]),
            tuple(name for names in leaks[:3] for name in _crossing_names(names, sides)),
        )


def _twins(data: Data) -> Iterator[Finding]:
    """Pictures that are there several times, or nearly the same."""
    sides = _sides(data.rows)
    groups = [
        names
        for names in same_files(data.looks)
        if not _is_leak(set().union(*(sides[name] for name in names)))
    ]
    if groups:
        yield Finding(
            "same_picture_twice",
            False,
            f"the same picture under several names, not across train and test: {len(groups):,}; "
            "rows of other words or products contradict each other",
            len(groups),
            tuple(_place(data, names[:2]) for names in groups[:3]),
            tuple(name for names in groups[:2] for name in names[:2]),
        )
    pairs = near_pairs(data.looks)
    across = [pair for pair in pairs if _is_leak(sides[pair[0]] | sides[pair[1]])]
    within = [pair for pair in pairs if not _is_leak(sides[pair[0]] | sides[pair[1]])]
    for kind, some, text, advice in (
        (
            "near_duplicates_in_train_and_test",
            across,
            "PAIRS OF NEARLY EQUAL PICTURES ACROSS TRAIN AND VAL OR TEST",
            "\n  if they show the same product, give both one split",
        ),
        (
            "near_duplicates",
            within,
            "pairs of nearly equal pictures, both or none of them in train",
            "",
        ),
    ):
        if some:
            yield Finding(
                kind,
                False,
                f"{text}: {len(some):,}{advice}",
                len(some),
                tuple(_place(data, pair) for pair in some[:3]),
                tuple(name for pair in some[:6] for name in pair),
            )


def _faults(data: Data) -> Iterator[Finding]:
    """Pictures in which little can be seen."""
    for fault, text in _FAULTS.items():
        names = [name for name, look in data.looks.items() if look.fault == fault]
        yield from _pictures_finding(f"{fault}_pictures", names, text)
    small = [
        name
        for name, header in data.headers.items()
        if max(header.width, header.height) < SMALL_PICTURE
    ]
    yield from _pictures_finding("small_pictures", small, f"pictures below {SMALL_PICTURE} pixels")


def _pictures_finding(kind: str, names: Sequence[str], text: str) -> Iterator[Finding]:
    """The finding about some pictures, if there are any."""
    if names:
        examples = tuple(short_name(name) for name in names[:3])
        text = f"{text}: {len(names):,}"
        yield Finding(kind, False, text, len(names), examples, tuple(names[:4]))


def _box_sizes(data: Data) -> Iterator[Finding]:
    """Boxes that hold next to nothing, or nearly all of their pictures."""
    boxed = [row for row in data.rows if row.box and row.image in data.headers]
    shares = [box_share(row, data.headers[row.image]) for row in boxed]
    tiny = [row for row, share in zip(boxed, shares, strict=True) if 0 <= share < TINY_BOX]
    if tiny:
        yield _rows_finding(
            "tiny_boxes", tiny, f"boxes that cover less than {TINY_BOX:.1%} of their picture"
        )
    full = [row for row, share in zip(boxed, shares, strict=True) if WHOLE_BOX < share <= 1.05]
    if len(full) > MANY * len(boxed):
        yield _rows_finding(
            "whole_boxes", full, "boxes that are the whole picture, where nothing is sought"
        )


def box_share(row: Row, header: Header) -> float:
    """The share of its picture that a row's box covers; negative where its corners are reversed."""
    assert row.box is not None
    x_min, y_min, x_max, y_max = row.box
    area = max(x_max - x_min, 0) * max(y_max - y_min, 0)
    return area / (header.width * header.height) if area else -1.0


def _queries(data: Data) -> Iterator[Finding]:
    """Rows without words, and words that stand for several things."""
    empty = [row for row in data.rows if not row.text.strip()]
    if empty:
        yield _rows_finding("empty_queries", empty, "rows without words")
    # The same words in one picture for two boxes: no answer is right for both.
    boxes = defaultdict(set)
    for row in data.rows:
        if row.box and row.text.strip():
            boxes[row.image, row.text].add(row.box)
    double = [row for row in data.rows if len(boxes.get((row.image, row.text), ())) > 1]
    if double:
        yield _rows_finding(
            "same_words_for_several_boxes",
            double,
            "rows that ask for the same words at different places of one picture",
        )
    # The same words for many products: retrieval cannot tell them apart.
    products = defaultdict(set)
    for row in data.rows:
        products[row.text].add(row.product_id)
    shared = [row for row in data.rows if row.text.strip() and len(products[row.text]) > 1]
    if len(shared) > MANY * len(data.rows):
        counts = Counter(row.text for row in shared).most_common(3)
        yield Finding(
            "repeated_queries",
            False,
            f"rows that share their words with another product: {len(shared):,} of "
            f"{len(data.rows):,}; words alone cannot find the one that is meant",
            len(shared),
            tuple(f"{text[:60]!r} ({count:,} rows)" for text, count in counts),
        )


def _products(data: Data) -> Iterator[Finding]:
    """Products on both sides, and ids that are words for an empty cell."""
    splits = defaultdict(set)
    for row in data.rows:
        splits[row.domain, row.product_id].add(row.split)
    # A picture without a product is one by its name; the same picture is told already.
    images = {row.image for row in data.rows}
    leaks = [
        (domain, product)
        for (domain, product), sides in splits.items()
        if _is_leak(sides) and product not in images
    ]
    if leaks:
        yield Finding(
            "same_product_in_train_and_test",
            False,
            f"products in train and in val or test of one domain: {len(leaks):,}; retrieval is "
            "measured on products that were learned",
            len(leaks),
            tuple(f"{product[:60]!r} of {domain}" for domain, product in leaks[:3]),
        )
    for note in product_notes(row.product_id for row in data.rows):
        yield Finding("one_product", False, note)


def _words(data: Data) -> Iterator[Finding]:
    """Words that a given vocabulary does not have."""
    if data.tokenizer is None:
        return
    texts = defaultdict(list)
    for row in data.rows:
        texts[f"{row.domain}_{row.split}"].append(row.text)
    for name, queries in sorted(texts.items()):
        encoded = data.tokenizer.encode(queries)
        try:
            vocabulary_notes(encoded, name=name, vocab=data.vocab)
        except DataError as error:
            text, *lines = str(error).split("\n")
            examples = tuple(line.strip() for line in lines)
            yield Finding("unknown_words", True, text, encoded.unknown, examples)
            continue
        if encoded.unknown:
            yield Finding(
                "unknown_words",
                False,
                f"word pieces of {name} that {data.vocab} lacks: {encoded.unknown:,} of "
                f"{encoded.pieces:,}",
                encoded.unknown,
                tuple(f"{text[:60]!r}" for text in encoded.unknown_texts),
            )


def _rows_finding(kind: str, rows: Sequence[Row], text: str) -> Finding:
    """The finding about some rows."""
    return Finding(
        kind,
        False,
        f"{text}: {len(rows):,}",
        len(rows),
        tuple(f"line {row.line}: {row.text[:40]!r} in {short_name(row.image)}" for row in rows[:3]),
        rows=tuple(rows[:4]),
    )


def _sides(rows: Sequence[Row]) -> dict[str, set[str]]:
    """The splits in which each picture has rows, by its name."""
    sides: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        sides[row.image].add(row.split)
    return sides


def _is_leak(splits: Collection[str]) -> bool:
    """Whether some splits hold what is trained on and what is measured."""
    return "train" in splits and len(set(splits)) > 1


def _crossing_names(names: Sequence[str], sides: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Of some equal pictures one that is trained on and one that is measured; or the only one."""
    trained = next(name for name in names if "train" in sides[name])
    measured = next(name for name in names if sides[name] - {"train"})
    return (trained,) if trained == measured else (trained, measured)


def _place(data: Data, names: Sequence[str]) -> str:
    """Some pictures with the first line of each and its split, for a message."""
    row_of = {row.image: row for row in reversed(data.rows)}
    parts = []
    for name in names:
        splits = sorted({row.split for row in data.rows if row.image == name})
        parts.append(f"{short_name(name)} (line {row_of[name].line}, {' and '.join(splits)})")
    return " = ".join(parts)
