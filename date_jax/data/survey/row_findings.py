"""Findings about rows: boxes of another format or size, splits, words, products."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from date_jax.data.domains import SPLITS
from date_jax.data.files.annotations import Row
from date_jax.data.files.box_format import check_boxes
from date_jax.data.files.photos import PhotoRow
from date_jax.data.files.preprocess import Header
from date_jax.data.files.text_rows import product_notes
from date_jax.data.survey.finding import EXAMPLES, Data, Finding, is_leak, rows_finding
from date_jax.data.tokenizer import vocabulary_notes
from date_jax.errors import DataError

TINY_BOX = 0.001  # the share of its picture
WHOLE_BOX = 0.98
MANY = 0.5  # the share of rows from which a thing that is normal for a few is told


def row_findings(data: Data) -> Iterator[Finding]:
    """All findings about rows."""
    for part in (_boxes, _splits, _box_sizes, _queries, _products, _words):
        yield from part(data)


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


def _box_sizes(data: Data) -> Iterator[Finding]:
    """Boxes that hold next to nothing, or nearly all of their pictures."""
    boxed = [row for row in data.rows if row.box and row.image in data.headers]
    shares = [box_share(row, data.headers[row.image]) for row in boxed]
    tiny = [row for row, share in zip(boxed, shares, strict=True) if 0 <= share < TINY_BOX]
    if tiny:
        yield rows_finding(
            "tiny_boxes", tiny, f"boxes that cover less than {TINY_BOX:.1%} of their picture"
        )
    full = [row for row, share in zip(boxed, shares, strict=True) if WHOLE_BOX < share <= 1.05]
    if len(full) > MANY * len(boxed):
        yield rows_finding(
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
        yield rows_finding("empty_queries", empty, "rows without words")
    # The same words in one picture for two boxes: no answer is right for both.
    boxes = defaultdict(set)
    for row in data.rows:
        if row.box and row.text.strip():
            boxes[row.image, row.text].add(row.box)
    double = [row for row in data.rows if len(boxes.get((row.image, row.text), ())) > 1]
    if double:
        yield rows_finding(
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
        counts = Counter(row.text for row in shared).most_common(EXAMPLES)
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
        if is_leak(sides) and product not in images
    ]
    if leaks:
        yield Finding(
            "same_product_in_train_and_test",
            False,
            f"products in train and in val or test of one domain: {len(leaks):,}; retrieval is "
            "measured on products that were learned",
            len(leaks),
            tuple(f"{product[:60]!r} of {domain}" for domain, product in leaks[:EXAMPLES]),
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
