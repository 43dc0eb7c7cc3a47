"""TFDS builder of a user's own offers, and of published ones: pictures with titles."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from date_jax.data.datasets import files
from date_jax.data.files.annotations import Row
from date_jax.data.files.offers import Offer

TEXTS = ("offer_id", "supplier")


def builder(
    config: Any, cache: Path, *, path: Path, folder: Path, offers: Sequence[Offer]
) -> files.Files:
    """The builder for offers that have a product and a split.

    Args:
        config: `config.data`.
        cache: folder for its records.
        path: they were read from, for messages.
        folder: of their pictures.
        offers: of `offers.offers_with_products`.
    """
    rows = [
        Row(
            line=offer.line,
            image=offer.image,
            text=offer.title,
            box=None,
            domain="offer",
            product_id=offer.product_id,
            category=offer.category,
            split=offer.split,
            offer_id=offer.offer_id,
            supplier=offer.supplier,
        )
        for offer in offers
    ]
    return files.built(config, cache, path=path, folder=folder, rows=rows, texts=TEXTS)
