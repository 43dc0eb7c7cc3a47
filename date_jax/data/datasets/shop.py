"""TFDS builder of the rendered shop: six splits, a domain and its train, val or test products."""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from date_jax.data import shop
from date_jax.data.datasets import records


@dataclasses.dataclass(kw_only=True)
class ShopConfig(tfds.core.BuilderConfig):
    """What is rendered. `pictures` counts one domain's pictures over its three splits; `workers`
    processes render it (0: one a core) and change nothing in it."""

    image_size: int = 64
    pictures: int = 10_000
    products: int = 2_000
    seed: int = 0
    workers: int = 0
    name: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        # The name is the cache's key: whatever changes a pixel has to change it.
        version = f"{shop.RENDER_VERSION} {shop.LOOKS}".encode()
        self.name = (
            f"s{self.image_size}_n{self.pictures}_p{self.products}_seed{self.seed}_"
            f"{hashlib.sha256(version).hexdigest()[:8]}"
        )

    def sizes(self) -> dict[str, int]:
        """Pictures in a domain's splits, 8:1:1."""
        tenth = self.pictures // 10
        return {"train": self.pictures - 2 * tenth, "val": tenth, "test": tenth}


class Shop(tfds.core.GeneratorBasedBuilder):
    """Rendered products in two domains, mall and live, with queries and exact boxes."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, config: ShopConfig, **options: Any) -> None:
        super().__init__(config=config, **options)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=records.features(self.builder_config.image_size),
            disable_shuffling=True,  # record i is picture i; the pipeline shuffles
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        sizes = self.builder_config.sizes()
        progress = shop.Progress(len(shop.DOMAINS) * sum(sizes.values()), "rendering the shop")
        return {
            f"{domain}_{split}": self._generate_examples(domain, split, count, progress)
            for domain in shop.DOMAINS
            for split, count in sizes.items()
        }

    def _generate_examples(
        self, domain: str, split: str, count: int, progress: shop.Progress
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        made = shop.pictures(
            domain,
            count,
            split=split,
            seed=config.seed,
            products=config.products,
            image_size=config.image_size,
            workers=config.workers,
            progress=progress,
        )
        for row, item in enumerate(made):
            yield (
                row,
                {
                    "image": item.png,
                    "query": item.query,
                    "box_xyxy": item.box_xyxy,
                    "has_box": True,
                    "product_id": item.product_id,
                    "category": item.category,
                    "row": row,
                },
            )
