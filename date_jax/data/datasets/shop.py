"""TFDS builder of the rendered shop: six splits, a domain and its train, val or test products."""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from date_jax.data.datasets import records
from date_jax.data.domains import SPLITS, check_domains
from date_jax.data.rendering import shop_pictures
from date_jax.data.rendering.workers import Encoded, Job, encoded_pictures
from date_jax.errors import UsageError


@dataclasses.dataclass(kw_only=True)
class ShopConfig(tfds.core.BuilderConfig):
    """The settings that the shop is rendered with.

    Attributes:
        image_size: S; every picture is S x S.
        pictures: of each domain, over its three splits.
        products: of all splits, the same in both domains.
        seed: of everything that is drawn.
        workers: processes that render, 0 for one a core; they change no picture.
        name: of these settings, see below.
    """

    image_size: int = 64
    pictures: int = 10_000
    products: int = 2_000
    seed: int = 0
    workers: int = 0
    name: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        # The name is the cache's key: whatever changes a pixel has to change it.
        version = f"{shop_pictures.RENDER_VERSION} {shop_pictures.LOOKS}".encode()
        self.name = (
            f"s{self.image_size}_n{self.pictures}_p{self.products}_seed{self.seed}_"
            f"{hashlib.sha256(version).hexdigest()[:8]}"
        )

    def sizes(self) -> dict[str, int]:
        """The number of pictures of each split of a domain, 8:1:1."""
        tenth = self.pictures // 10
        return {"train": self.pictures - 2 * tenth, "val": tenth, "test": tenth}


class Shop(tfds.core.GeneratorBasedBuilder):
    """Rendered products in two domains, mall and live, with queries and exact boxes."""

    VERSION = records.VERSION

    def __init__(self, *, config: ShopConfig, **options: Any) -> None:
        super().__init__(config=config, **options)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=records.features(self.builder_config.image_size, "png"),
            disable_shuffling=True,  # record i is picture i; the pipeline shuffles
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        config = self.builder_config
        jobs = [
            Job(domain, split, size)
            for domain in shop_pictures.DOMAINS
            for split, size in config.sizes().items()
        ]
        # One stream for all: TFDS writes the splits one after another, in this order.
        pictures = encoded_pictures(
            jobs,
            source="shop",
            seed=config.seed,
            products=config.products,
            image_size=config.image_size,
            workers=config.workers,
        )
        return {job.name: _examples(pictures, job.size) for job in jobs}

    def _generate_examples(self) -> None:
        raise NotImplementedError("the splits' generators are made in _split_generators")


def _examples(pictures: Iterator[Encoded], count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The next `count` pictures as records with their keys."""
    for row, picture in enumerate(itertools.islice(pictures, count)):
        yield row, records.rendered_record(picture, row)


def builder(config: Any, cache: Path) -> Shop:
    """The builder of the shop that `config.data` describes, its records in the folder `cache`.

    Raises:
        DataError: the config asks for a domain that the shop does not have.
        UsageError: too few pictures or products for three splits.
    """
    names = [f"{domain}_{split}" for domain in shop_pictures.DOMAINS for split in SPLITS]
    check_domains(names, source=config.source, target=config.target, where="'shop'")
    for key in ("pictures", "products"):
        if config.shop[key] < 10:
            raise UsageError(
                f"config.data.shop.{key}={config.shop[key]}: at least 10 are needed, "
                "for they are split 8:1:1 into train, val and test"
            )
    settings = ShopConfig(image_size=config.image_size, **config.shop)
    return Shop(config=settings, data_dir=str(cache), file_format="array_record")
