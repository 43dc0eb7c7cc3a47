"""Further training rows of the source: composites, and rows that ask by their category's word.

They are prepared once from the records of the source and the pictures and queries of the target.
The target's boxes, categories and products are not read here.
"""

import dataclasses
import functools
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Float
from PIL import Image

from date_jax.data import decode
from date_jax.data.composites import choices, pasting
from date_jax.data.composites.category_words import category_word, unambiguous_rows
from date_jax.data.composites.choices import Ground
from date_jax.data.composites.cut_outs import CutOut, content_area, cut_out
from date_jax.data.datasets import records
from date_jax.data.domains import PASTED, WORDED, source_shares, split_names
from date_jax.data.files.photos import results_in_order
from date_jax.data.files.preprocess import MARGIN
from date_jax.data.prepared import PreparedSplit, Records
from date_jax.data.rendering.contact_sheet import Grid
from date_jax.data.streams import Stream
from date_jax.errors import DataError
from date_jax.run.countdown import Countdown

DERIVED_VERSION = 1  # raise it when composites or rows with words change
_FEWEST_PLAIN = 0.1  # share of products on plain pages, below which the others are pasted too
_MOST_CUT_OUTS = 4000  # products that are cut out; they stay in memory
_SURROUNDING = 0.15  # of the page around a product that may come along, as a share of its sides
_SHEET = (6, 4)  # columns and rows of the sheet of composites
_JPEG: dict[str, Any] = {"quality": 95, "subsampling": 0}


@dataclasses.dataclass(kw_only=True, eq=False)
class DerivedConfig(tfds.core.BuilderConfig):
    """What one split is made of.

    Attributes:
        name: of its records: it changes with whatever they depend on.
        split: its name.
        image_size: S.
        examples: makes its records, and appends to a list what the user should be told.
    """

    split: str
    image_size: int
    examples: Callable[[list[str]], Iterator[dict[str, Any]]] = dataclasses.field(repr=False)


class Derived(tfds.core.GeneratorBasedBuilder):
    """One split of rows that are made of others."""

    VERSION = records.VERSION

    def __init__(self, *, config: DerivedConfig, **options: Any) -> None:
        super().__init__(config=config, **options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=records.features(self.builder_config.image_size, "jpeg"),
            disable_shuffling=True,  # the pipeline shuffles
            metadata=tfds.core.MetadataDict(notes=[]),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        return {self.builder_config.split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        notes: list[str] = []
        yield from enumerate(self.builder_config.examples(notes))
        self.info.metadata["notes"] = notes


class SourceRows(NamedTuple):
    """The training rows of the source.

    Attributes:
        records: with their pictures.
        texts, categories, products, pictures: columns; `pictures` tells pictures apart.
        box_xyxy: normalised.
        has_box: whether there is one.
    """

    records: Records
    texts: list[str]
    categories: list[str]
    products: list[str]
    pictures: list[str]
    box_xyxy: Float[np.ndarray, "N 4"]
    has_box: Bool[np.ndarray, " N"]


class TargetRows(NamedTuple):
    """The training rows of the target, as far as they may be seen: pictures and queries."""

    records: Records | None
    texts: list[str]
    pictures: list[str]


def builders(
    config: Any, cache: Path, prepared_splits: Mapping[str, PreparedSplit]
) -> list[Derived]:
    """The builders of the further splits that `config.data` asks for.

    Args:
        config: `config.data`.
        cache: folder for their records.
        prepared_splits: of the data itself.

    Raises:
        DataError: words are asked for and no row of the source has a category.
    """
    for name in source_shares(config):
        if name in prepared_splits:
            raise DataError(
                f"domain {name.rpartition('_')[0]!r}: config.data.paste and config.data.words make "
                "rows of this name; give yours another"
            )
    source = [prepared_splits[name] for name in split_names(config.source, "train")]
    target = [prepared_splits[name] for name in split_names(config.target, "train")]
    rows = source_rows(source)
    if config.words and not any(rows.categories):
        raise DataError(
            f"config.data.words={config.words}: no training row of {config.source} has a category"
            "\n  give the file a column `category`, or set --config.data.words=0"
        )

    def derived(split: str, settings: object, examples: Callable) -> Derived:
        content = (DERIVED_VERSION, split, config.image_size, settings)
        name = hashlib.sha256(repr(content).encode()).hexdigest()[:16]
        options = DerivedConfig(
            name=name, split=split, image_size=config.image_size, examples=examples
        )
        return Derived(config=options, data_dir=str(cache), file_format="array_record")

    # The name of records holds what they are made of.
    origin = [split.fingerprint for split in source]
    splits = []
    if config.words:
        splits.append(derived(f"{WORDED}_train", origin, functools.partial(word_rows, rows)))
    if config.paste.pictures:
        frames = target_rows(target)
        seen = hashlib.sha256(repr((frames.texts, frames.pictures)).encode()).hexdigest()
        paste = {key: value for key, value in config.paste.items() if key != "share"}
        settings = (origin, seen, sorted(paste.items()), config.words)
        name = hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
        sheet = cache / f"paste_{name}.png"
        options = Options(config.words, sheet, config.image_size, **paste)
        examples = functools.partial(pasted_rows, rows, frames, options)
        splits.append(derived(f"{PASTED}_train", settings, examples))
    return splits


def source_rows(splits: Sequence[PreparedSplit]) -> SourceRows:
    """The rows of some splits as one table, boxes among them."""
    return SourceRows(
        Records([*splits]),
        texts=_joined_texts(splits, "text"),
        categories=_joined_texts(splits, "category"),
        products=_joined_texts(splits, "product_id"),
        pictures=_joined_texts(splits, "image_hash"),
        box_xyxy=np.concatenate([split.box_xyxy() for split in splits]),
        has_box=np.concatenate([split.has_box() for split in splits]),
    )


def target_rows(splits: Sequence[PreparedSplit]) -> TargetRows:
    """The pictures and queries of some splits as one table, and nothing else of them."""
    return TargetRows(
        Records([*splits]) if splits else None,
        texts=_joined_texts(splits, "text"),
        pictures=_joined_texts(splits, "image_hash"),
    )


def _joined_texts(splits: Sequence[PreparedSplit], column: str) -> list[str]:
    return [text for split in splits for text in split.texts(column)]


def word_rows(rows: SourceRows, notes: list[str]) -> Iterator[dict[str, Any]]:
    """The source's rows with a box, asked for by their category's word where that is one answer."""
    things = [
        (product, tuple(np.round(box, 3)))
        for product, box in zip(rows.products, rows.box_xyxy, strict=True)
    ]
    is_one = unambiguous_rows(rows.pictures, rows.categories, things) & rows.has_box
    chosen = np.flatnonzero(is_one)
    if not len(chosen):
        raise DataError(
            "config.data.words: no picture of the source has a box whose category no other product "
            "of it has\n  set --config.data.words=0"
        )
    countdown = Countdown("rows with their category's word", len(chosen))
    for row in chosen.tolist():
        (file,) = decode.picture_files(rows.records[np.array([row])])
        countdown.advance()
        yield {
            "image": io.BytesIO(file),
            "text": category_word(rows.categories[row]),
            "box_xyxy": rows.box_xyxy[row],
            "has_box": True,
            "product_id": rows.products[row],
            "category": rows.categories[row],
            "row": row,
        }
    notes.append(
        f"{WORDED}_train: {len(chosen):,} of {len(rows.texts):,} source rows ask by their "
        "category's word too; the others have no box, or no category, or not that alone"
    )


class Options(NamedTuple):
    """What composites depend on besides the rows.

    Attributes:
        words: share of their rows that ask by the category's word, where it is one answer.
        sheet: the file that some of them are drawn into.
        image_size: S.
        pictures, most, sizes, frame_share, seed: of `config.data.paste`.
    """

    words: float
    sheet: Path
    image_size: int
    pictures: int
    most: int
    sizes: tuple[float, float]
    frame_share: float
    seed: int


class Product(NamedTuple):
    """A product that can be pasted: its row, and its cut-out as a packed file."""

    row: int
    packed: bytes
    box: tuple[int, int, int, int]
    is_plain: bool


def pasted_rows(
    rows: SourceRows, frames: TargetRows, options: Options, notes: list[str]
) -> Iterator[dict[str, Any]]:
    """The rows of all composites: one for each product that is seen well enough."""
    products = _products(rows, options, notes)
    names = sorted({*rows.categories} - {""})
    grounds = [choices.grounds_of_source(rows.pictures, rows.categories, rows.products)]
    shares = [1.0]
    if frames.texts:
        grounds.append(choices.grounds_of_target(frames.pictures, frames.texts, names))
        shares = [1 - options.frame_share, options.frame_share]
    categories = [rows.categories[product.row] for product in products]
    draw = functools.partial(
        choices.choice,
        grounds=grounds,
        shares=shares,
        ends=np.cumsum(choices.product_weights(categories)),
        categories=categories,
        products=[rows.products[product.row] for product in products],
        most=options.most,
    )
    paste = functools.partial(
        _composite, rows, [rows.records, frames.records], grounds, products, draw, options
    )
    countdown = Countdown("pasting products", options.pictures)
    grid, tiles, empty = Grid(*_SHEET, tile=224, gap=8, text=40), 0, 0
    for number, examples in results_in_order(paste, range(options.pictures)):
        countdown.advance()
        empty += not examples
        if examples and tiles < _SHEET[0] * _SHEET[1]:
            _draw(grid, tiles, examples)
            tiles += 1
        yield from ({**example, "row": number} for example in examples)
    if empty == options.pictures:
        raise DataError(
            "config.data.paste: no composite has a product that is seen; every picture names the "
            "categories of all products, or sizes is too small\n"
            "  set --config.data.paste.pictures=0"
        )
    grid.image.save(options.sheet)
    notes.append(f"{PASTED}_train: {options.pictures - empty:,} composites; see {options.sheet}")


def _products(rows: SourceRows, options: Options, notes: list[str]) -> list[Product]:
    """The products that can be pasted: those on plain pages, or all where few are."""
    # A product that several rows ask for comes once, under the first row's words.
    first = {
        (rows.pictures[row], tuple(np.round(rows.box_xyxy[row], 3))): row
        for row in reversed(np.flatnonzero(rows.has_box).tolist())
    }
    rng = np.random.default_rng([options.seed, Stream.PASTED_PRODUCTS])
    boxed = np.array(sorted(first.values()), np.int64)
    if not len(boxed):
        raise DataError(
            "config.data.paste: no training row of the source has a box to cut a product out by\n"
            "  set --config.data.paste.pictures=0"
        )
    sample = np.sort(rng.permutation(boxed)[:_MOST_CUT_OUTS]).tolist()
    countdown = Countdown("cutting out products", len(sample))
    found: list[Product] = []
    for _, product in results_in_order(functools.partial(_product, rows, options), sample):
        countdown.advance()
        found += [product] if product else []
    plain = [product for product in found if product.is_plain]
    if not found:
        raise DataError(
            "config.data.paste: no product of the source is large enough to be pasted\n"
            "  set --config.data.paste.pictures=0"
        )
    are_enough = len(plain) >= _FEWEST_PLAIN * len(found)
    notes.append(
        f"{PASTED}_train: {len(plain):,} of {len(sample):,} products lie on a plain page and were "
        "cut out; the others are "
        + ("left out" if are_enough else "pasted with the page around them")
    )
    return plain if are_enough else found


def _product(rows: SourceRows, options: Options, row: int) -> Product | None:
    """The product of a row, cut out of its picture; None where that cannot be done."""
    image = _picture(rows.records, row, options.image_size)[0]
    area = content_area(image, MARGIN)
    cut = cut_out(image, rows.box_xyxy[row], area=area, surrounding=_SURROUNDING)
    if cut is None:
        return None
    page = Image.fromarray(cut.rgb)
    page.putalpha(Image.fromarray(cut.mask.astype(np.uint8) * 255))
    packed = io.BytesIO()
    page.save(packed, "PNG", compress_level=1)
    return Product(row, packed.getvalue(), cut.box, cut.is_plain)


def _cut_out_of(product: Product) -> CutOut:
    """The cut-out of a product."""
    rgba = np.asarray(Image.open(io.BytesIO(product.packed)))
    return CutOut(rgba[..., :3], rgba[..., 3] > 127, product.box, product.is_plain)


def _picture(records: Any, row: int, side: int) -> tuple[np.ndarray, bool]:
    """A row's picture, and whether its file is a JPEG."""
    (file,) = decode.picture_files(records[np.array([row])])
    return decode.pictures([file], side)[0], decode.is_jpeg(file)


def _composite(
    rows: SourceRows,
    pages: Sequence[Any],
    grounds: Sequence[Sequence[Ground]],
    products: Sequence[Product],
    draw: Callable,
    options: Options,
    number: int,
) -> list[dict[str, Any]]:
    """The rows of one composite, which follows from the seed and its number alone."""
    rng = np.random.default_rng([options.seed, Stream.PASTED_PICTURE, number])
    drawn = draw(rng)
    if drawn is None:
        return []
    kind, choice = drawn
    image, is_jpeg = _picture(pages[kind], grounds[kind][choice.ground].row, options.image_size)
    chosen = [products[place] for place in choice.products]
    composite = pasting.pasted(
        rng,
        image,
        [_cut_out_of(product) for product in chosen],
        area=content_area(image, MARGIN),
        sizes=options.sizes,
    )
    file = io.BytesIO()
    picture = Image.fromarray(composite.image)
    picture.save(file, "JPEG", **_JPEG) if is_jpeg else picture.save(file, "PNG", compress_level=3)
    # A product asks by its own title, or by its category's word where no other one has it.
    categories = [rows.categories[product.row] for product in chosen]
    examples = []
    for place, product in enumerate(chosen):
        is_word = rng.random() < options.words and categories.count(categories[place]) == 1
        word = category_word(categories[place]) if is_word else ""
        if composite.is_visible[place]:
            examples.append(
                {
                    "image": io.BytesIO(file.getvalue()),
                    "text": word or rows.texts[product.row],
                    "box_xyxy": composite.box_xyxy[place],
                    "has_box": True,
                    "product_id": rows.products[product.row],
                    "category": categories[place],
                }
            )
    return examples


def _draw(grid: Grid, tile: int, examples: Sequence[Mapping[str, Any]]) -> None:
    """Puts a composite onto the sheet, with its boxes and words."""
    image = np.asarray(Image.open(io.BytesIO(examples[0]["image"].getvalue())).convert("RGB"))
    boxes = np.stack([example["box_xyxy"] for example in examples])
    place = grid.add(tile % _SHEET[0], tile // _SHEET[0], image, boxes)
    grid.add_lines(place, *(example["text"][:36] for example in examples[:3]))
