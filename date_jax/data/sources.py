"""The table of sources: what `config.data.name` may be, what each one needs, and how it is read.

A reader turns `config.data` into `Parts`, of which `corpus.load` makes a corpus. There are three
kinds of records, and a task says which one it learns from:

    grounding    pictures with a phrase, and boxes for some, in domains: `<domain>_<split>`
    posts        pictures of several products under one title: `post_`, `composite_`, `suite_`,
                 `single_` and `unseen_<split>`
    offers       a catalogue, and pairs of its offers to train on: `offer_<split>`

where a split is train, val or test. `files`, the user's own, holds any of them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from date_jax.data.cache import cache_folder, tensorflow
from date_jax.data.clicks.training_pairs import TrainingPairs, id_pairs, mined_pairs, row_pairs
from date_jax.data.domains import domain_names, source_shares
from date_jax.data.files import (
    catalogue,
    photo_posts,
    photo_table,
    product1m_lists,
    published_offers,
)
from date_jax.data.files.region_files import RegionFiles
from date_jax.data.files.text_rows import table_path
from date_jax.data.prepared import PreparedSplit
from date_jax.errors import UsageError, spelling_hint
from date_jax.run.user_paths import user_path

PAIRED = "offer_train"  # the split that training pairs are rows of
POSTS = ("post", "suite", "single", "unseen")  # kinds with a title; composites have none


class Parts(NamedTuple):
    """The parts that a source makes a corpus of.

    Attributes:
        builders: of TFDS, which give all splits together.
        groups: those whose texts are read, as in `<group>_<split>`: domains, kinds of posts, or
            "offer". The vocabulary is learned from their training splits.
        further: gives builders of further splits, asked with what the others prepared.
        numbered: columns of texts that batches hold as numbers, the same in all splits.
        boxes: whether the user is told how many rows have one.
        pairs: gives the training pairs, asked with the prepared split PAIRED.
        has_true_products: whether the products of PAIRED are known from elsewhere than the pairs.
        regions: those that a detector found beforehand.
        notes: what the user should be told once.
    """

    builders: Sequence[Any]
    groups: Sequence[str]
    further: Callable[[Mapping[str, PreparedSplit]], Sequence[Any]] | None = None
    numbered: Sequence[str] = ()
    boxes: bool = False
    pairs: Callable[[PreparedSplit], TrainingPairs] | None = None
    has_true_products: bool = True
    regions: RegionFiles | None = None
    notes: Sequence[str] = ()


class Source(NamedTuple):
    """One choice of `config.data.name`.

    Attributes:
        readers: by kind of records, `(config.data, cache folder) -> Parts`.
        needs: keys of `config.data` that cannot be empty where a config has them, each with what it
            has to name.
        early_checks: of the table that `config.data.path` names, each by a key of `config.data`
            that only configs of these records have.
    """

    readers: Mapping[str, Callable[[Any, Path], Parts]]
    needs: Mapping[str, str] = {}
    early_checks: Mapping[str, Callable[[Any], None]] = {}


def reader(name: str, records: str) -> Callable[[Any, Path], Parts]:
    """The reader of a source for one kind of records.

    Args:
        name: `config.data.name`.
        records: `grounding`, `posts` or `offers`.

    Raises:
        UsageError: there is no such source of these records.
    """
    choices = [choice for choice, source in SOURCES.items() if records in source.readers]
    if name not in choices:
        raise UsageError(
            f"config.data.name: unknown data set {name!r}{spelling_hint(name, choices)}\n"
            f"  this task reads {', '.join(choices)}"
        )
    return SOURCES[name].readers[records]


def check_early(config: Any) -> None:
    """Refuses a user's own table before JAX and TensorFlow are imported, which takes long.

    What it passes over, such as pictures of prepared data, the readers find.

    Args:
        config: `config.data`.

    Raises:
        DataError: the table is not there, or malformed, or does not fit the config.
        SetupError: there is no place for the cache.
    """
    source = SOURCES.get(config.name)
    if source is None or not config.path:
        return
    for key in source.early_checks.keys() & {*config}:
        source.early_checks[key](config)


def _check_photo_table(config: Any) -> None:
    photo_table.check_early(config, cache_folder(config))


def _check_photo_posts(config: Any) -> None:
    path = table_path(config.path)
    if _is_small(path):
        from date_jax.data.rendering.post_scenes import MOST

        photo_posts.photo_posts(config, most=MOST)


def _check_offers(config: Any) -> None:
    path = table_path(config.path)
    if _is_small(path):
        catalogue.offers(path)


def _check_lists(config: Any) -> None:
    _regions(config)
    path = user_path(config.path)
    if _is_small(path):
        product1m_lists.splits(path)


def _check_published(config: Any) -> None:
    path = user_path(config.path)
    if _is_small(path):
        published_offers.offers_and_pairs(path)


def _is_small(path: Path) -> bool:
    """Whether a file, or the files of a folder, can be read twice; true of what is not there."""
    files = [*path.iterdir()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) <= photo_table.MOST_BYTES


# The readers. Each brings TensorFlow along when it is called, and not before: config.py and with it
# every command read the table below.


def _shop(config: Any, cache: Path) -> Parts:
    tensorflow()
    from date_jax.data.datasets import shop

    return grounding_parts(config, shop.builder(config, cache))


def _grounding_files(config: Any, cache: Path) -> Parts:
    tensorflow()
    from date_jax.data.datasets import files

    builder = files.builder(config, cache)
    return grounding_parts(config, builder)._replace(notes=builder.builder_config.notes)


def grounding_parts(config: Any, builder: Any) -> Parts:
    """The parts of a builder whose splits are `<domain>_<split>`."""
    domains = domain_names(config.source) + domain_names(config.target)
    further, made = None, [name.rpartition("_")[0] for name in source_shares(config)]
    if made:
        from date_jax.data.datasets import derived

        further = partial(derived.builders, config, cache_folder(config))
    return Parts(
        [builder], [*domains, *made], further=further, numbered=("product_id",), boxes=True
    )


def _suites(config: Any, cache: Path) -> Parts:
    regions = _regions(config)
    tensorflow()
    from date_jax.data.datasets import suites

    return Parts([suites.builder(config, cache)], POSTS, regions=regions)


def _product1m(config: Any, cache: Path) -> Parts:
    regions = _regions(config)
    tensorflow()
    from date_jax.data.datasets import product1m, suites

    posts, notes = product1m_lists.splits(user_path(config.path))
    builders: list[Any] = [product1m.builder(config, cache, posts)]
    if regions is None:
        # It has no cut-outs to learn proposals from; a head without classes takes rendered ones.
        builders.append(suites.builder(config, cache, kinds=("composite",)))
    return Parts(builders, POSTS, regions=regions, notes=notes)


def _photo_posts(config: Any, cache: Path) -> Parts:
    tensorflow()
    from date_jax.data.datasets import photo_posts

    builder = photo_posts.builder(config, cache)
    return Parts([builder], POSTS, notes=builder.builder_config.notes)


def _regions(config: Any) -> RegionFiles | None:
    return RegionFiles(user_path(config.regions)) if config.regions else None


def _suppliers(config: Any, cache: Path) -> Parts:
    tensorflow()
    from date_jax.data.datasets import suppliers

    pairs = partial(mined_pairs, config=config.clicks, cache=cache)
    return Parts([suppliers.builder(config, cache)], ("offer",), pairs=pairs)


def _offer_files(config: Any, cache: Path) -> Parts:
    path = table_path(config.path)
    offers = catalogue.offers(path)
    return _paired_offers(
        config,
        cache,
        offers,
        id_pairs(config.pairs),
        folder=path.parent,
        pairs_from=config.pairs,
        has_true_products=all(offer.product_id for offer in offers if offer.split in ("", "train")),
    )


def _published_offers(config: Any, cache: Path) -> Parts:
    folder = user_path(config.images)
    published = published_offers.offers_and_pairs(user_path(config.path))
    parts = _paired_offers(
        config,
        cache,
        published_offers.offers_with_files(published.offers, folder),
        published.pairs,
        folder=folder,
        pairs_from=config.path,
        has_true_products=False,
    )
    return parts._replace(notes=(*published.notes, *parts.notes))


def _paired_offers(
    config: Any,
    cache: Path,
    offers: list[catalogue.Offer],
    pairs: catalogue.IdPairs,
    *,
    folder: Path,
    pairs_from: str,
    has_true_products: bool,
) -> Parts:
    """Offers whose pairs are there already.

    Args:
        folder: of the pictures.
        pairs_from: the file that the pairs come from, for messages.
    """
    tensorflow()
    from date_jax.data.datasets import offers as datasets

    placed = catalogue.offers_with_products(offers, pairs)
    # Before the first picture is made; once they are, offers without one are gone.
    train_ids = [offer.offer_id for offer in placed if offer.split == "train"]
    row_pairs(pairs, train_ids, pairs_from)
    path = user_path(config.path)
    return Parts(
        [datasets.builder(config, cache, path=path, folder=folder, offers=placed)],
        ("offer",),
        pairs=lambda split: row_pairs(pairs, split.texts("offer_id"), pairs_from),
        has_true_products=has_true_products,
        notes=catalogue.notes(offers, placed),
    )


SOURCES: dict[str, Source] = {  # by config.data.name
    "shop": Source({"grounding": _shop}),
    "files": Source(
        {"grounding": _grounding_files, "offers": _offer_files, "posts": _photo_posts},
        {
            "path": "your JSON Lines or CSV file, e.g. --config.data.path=shop.jsonl",
            "pairs": "the Parquet or CSV file of date_jax.data.click_pairs",
            "pages": "the domain whose pictures show several products",
            "singles": "the domain whose pictures show one",
        },
        {"source": _check_photo_table, "pairs": _check_offers, "pages": _check_photo_posts},
    ),
    "suites": Source({"posts": _suites}),
    "product1m": Source(
        {"posts": _product1m},
        {"path": "the folder of its lists", "images": "the folder of its pictures"},
        {"regions": _check_lists},
    ),
    "suppliers": Source({"offers": _suppliers}),
    "published": Source(
        {"offers": _published_offers},
        {"path": "the authors' JSON file", "images": "the folder of its pictures"},
        {"images": _check_published},
    ),
}
