"""TFDS builder of the rendered catalogue: offers of train, val and test products."""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from date_jax.data.datasets import records
from date_jax.data.domains import SPLITS
from date_jax.data.rendering import offer_pictures, shop_pictures
from date_jax.data.rendering.offer_scenes import CODE_CHANCE, LOOK, MENTION_CHANCES
from date_jax.data.rendering.workers import Encoded, Job, encoded_pictures
from date_jax.errors import UsageError

TEXTS = ("offer_id", "supplier")


@dataclasses.dataclass(kw_only=True)
class SuppliersConfig(tfds.core.BuilderConfig):
    """The settings that the embedded catalogue is rendered with.

    Attributes:
        image_size: S; every picture is S x S.
        products: of all splits together; each has several offers.
        seed: of everything that is drawn.
        workers: processes that render, 0 for one a core; they change no picture.
        name: of these settings, see below.
    """

    image_size: int = 48
    products: int = 3_000
    seed: int = 0
    workers: int = 0
    name: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        # The name is the cache's key: whatever changes a pixel has to change it.
        versions = f"{offer_pictures.RENDER_VERSION} {shop_pictures.RENDER_VERSION}"
        version = f"{versions} {LOOK} {MENTION_CHANCES} {CODE_CHANCE}".encode()
        self.name = (
            f"s{self.image_size}_p{self.products}_seed{self.seed}_"
            f"{hashlib.sha256(version).hexdigest()[:8]}"
        )


class Suppliers(tfds.core.GeneratorBasedBuilder):
    """Rendered offers with titles, suppliers and categories; the product is the ground truth."""

    VERSION = records.VERSION

    def __init__(self, *, config: SuppliersConfig, **options: Any) -> None:
        super().__init__(config=config, **options)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=records.features(self.builder_config.image_size, "png", texts=TEXTS),
            disable_shuffling=True,  # record i is offer i; the pipeline shuffles
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        config = self.builder_config
        shelves = {
            split: offer_pictures.shelf(config.seed, config.products, split) for split in SPLITS
        }
        # One stream for all: TFDS writes the splits one after another, in this order.
        pictures = encoded_pictures(
            [Job("offer", split, len(offers)) for split, offers in shelves.items()],
            workers=config.workers,
            source="suppliers",
            seed=config.seed,
            products=config.products,
            image_size=config.image_size,
        )
        return {f"offer_{split}": _examples(pictures, offers) for split, offers in shelves.items()}

    def _generate_examples(self) -> None:
        raise NotImplementedError("the splits' generators are made in _split_generators")


def _examples(
    pictures: Iterator[Encoded], offers: tuple[offer_pictures.Offer, ...]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The next pictures, one of each of `offers`, as records with their keys."""
    pictures_of_offers = itertools.islice(pictures, len(offers))
    for row, (offer, picture) in enumerate(zip(offers, pictures_of_offers, strict=True)):
        columns = {"offer_id": offer.id, "supplier": f"s{offer.supplier:02d}"}
        yield row, records.rendered_record(picture, row, **columns)


def builder(config: Any, cache: Path) -> Suppliers:
    """The builder of the catalogue that `config.data` describes, its records in `cache`.

    Raises:
        UsageError: too few products for three splits.
    """
    if config.suppliers.products < 10:
        raise UsageError(
            f"config.data.suppliers.products={config.suppliers.products}: at least 10 are needed, "
            "for they are split 8:1:1 into train, val and test"
        )
    settings = SuppliersConfig(image_size=config.image_size, **config.suppliers)
    return Suppliers(config=settings, data_dir=str(cache), file_format="array_record")
