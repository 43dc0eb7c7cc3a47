"""TFDS builder of the rendered posts: what to train on, queries, galleries and composites."""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from date_jax.data.datasets import records
from date_jax.data.rendering import post_pictures, shop_pictures
from date_jax.data.rendering.arrangement import members
from date_jax.data.rendering.post_scenes import MOST, POST
from date_jax.data.rendering.workers import Encoded, Job, encoded_pictures
from date_jax.errors import UsageError


@dataclasses.dataclass(kw_only=True)
class SuitesConfig(tfds.core.BuilderConfig):
    """The settings of the embedded posts: what they show and how many there are.

    Attributes:
        image_size: S; every picture is S x S.
        posts: to train on.
        composites: to train on.
        queries: of each kind in each split.
        views: pictures of each product in a gallery.
        products: of all splits together.
        unseen: categories that training never shows.
        seed: of everything that is drawn.
        workers: processes that render, 0 for one a core; they change no picture.
        kinds: of pictures, all or some of `post_pictures.KINDS`.
        name: of these settings, see below.
    """

    image_size: int = 64
    posts: int = 16_000
    composites: int = 8_000
    queries: int = 400
    views: int = 8
    products: int = 1_000
    unseen: int = 2
    seed: int = 0
    workers: int = 0
    kinds: tuple[str, ...] = post_pictures.KINDS
    name: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        # The name is the cache's key: whatever changes a pixel has to change it.
        counts = f"n{self.posts}_c{self.composites}_q{self.queries}_v{self.views}"
        version = f"{post_pictures.RENDER_VERSION} {shop_pictures.RENDER_VERSION} {POST}".encode()
        self.name = (
            f"s{self.image_size}_{counts}_p{self.products}_u{self.unseen}_seed{self.seed}_"
            f"{hashlib.sha256(version).hexdigest()[:8]}"
        )
        if self.kinds != post_pictures.KINDS:
            self.name += f"_{'_'.join(self.kinds)}"

    def jobs(self) -> list[Job]:
        """The pictures of each split `<kind>_<train, val or test>`."""
        # A gallery holds `views` pictures of every product of its split.
        gallery_sizes = {
            split: self.views * len(members(self.seed, self.products, split))
            for split in ("val", "test")
        }
        # Training splits first; val and test have queries and a gallery of single products.
        jobs = [
            Job("post", "train", self.posts),
            Job("composite", "train", self.composites),
            *(
                Job(kind, split, size)
                for split in ("val", "test")
                for kind, size in (
                    ("composite", self.queries),
                    ("suite", self.queries),
                    ("single", gallery_sizes[split]),
                )
            ),
            Job("unseen", "test", self.queries),
        ]
        return [job for job in jobs if job.group in self.kinds]


class Suites(tfds.core.GeneratorBasedBuilder):
    """Rendered posts: suites, single products and composites, with the box of each product."""

    VERSION = records.VERSION

    def __init__(self, *, config: SuitesConfig, **options: Any) -> None:
        super().__init__(config=config, **options)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=records.features(self.builder_config.image_size, "png", boxes=(MOST,)),
            disable_shuffling=True,  # record i is picture i; the pipeline shuffles
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        config = self.builder_config
        jobs = config.jobs()
        # One stream for all: TFDS writes the splits one after another, in this order.
        pictures = encoded_pictures(
            jobs,
            workers=config.workers,
            source="suites",
            seed=config.seed,
            products=config.products,
            unseen=config.unseen,
            image_size=config.image_size,
        )
        return {job.name: _examples(pictures, job.size) for job in jobs}

    def _generate_examples(self) -> None:
        raise NotImplementedError("the splits' generators are made in _split_generators")


def _examples(pictures: Iterator[Encoded], count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The next `count` pictures as records with their keys; behind the last box there are zeros."""
    for row, picture in enumerate(itertools.islice(pictures, count)):
        box = np.zeros((MOST, 4), np.float32)
        box[: len(picture.box_xyxy)] = picture.box_xyxy
        has_box = np.arange(MOST) < len(picture.box_xyxy)
        yield row, records.rendered_record(picture, row, box_xyxy=box, has_box=has_box)


def builder(config: Any, cache: Path, kinds: tuple[str, ...] = post_pictures.KINDS) -> Suites:
    """The builder of the posts that `config.data` describes.

    Args:
        config: `config.data`.
        cache: folder for its records.
        kinds: of pictures, all or some of `post_pictures.KINDS`.

    Raises:
        UsageError: a split would have no products.
    """
    settings = SuitesConfig(image_size=config.image_size, kinds=kinds, **config.suites)
    for kind, split in (("post", "train"), ("suite", "val"), ("unseen", "test")):
        shop = {key: getattr(settings, key) for key in ("seed", "products", "unseen")}
        try:
            post_pictures.check_shelf(kind, split, **shop)
        except UsageError as error:
            raise UsageError(f"config.data.suites: {error}") from None
    return Suites(config=settings, data_dir=str(cache), file_format="array_record")
