"""TFDS builder of a user's own offers, and of published ones: pictures with titles."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from date_jax.data.datasets import files
from date_jax.data.files.catalogue import Offer
from date_jax.data.files.photos import PhotoRow

TEXTS = ("offer_id", "supplier")


def builder(
    config: Any, cache: Path, *, path: Path, folder: Path, offers: Sequence[Offer]
) -> files.Files:
    """The builder of offers that have a product and a split.

    Args:
        config: `config.data`.
        cache: folder for its records.
        path: they were read from, for messages.
        folder: of their pictures.
        offers: of `catalogue.offers_with_products`.
    """
    # An offer is a photo without a box: its title is the text, `offer` stands for a domain.
    rows = [
        PhotoRow(
            line=offer.line,
            image=offer.image,
            text=offer.title,
            box=None,
            product_id=offer.product_id,
            category=offer.category,
            split=f"offer_{offer.split}",
            offer_id=offer.offer_id,
            supplier=offer.supplier,
        )
        for offer in offers
    ]
    return files.builder_of_rows(config, cache, path=path, folder=folder, rows=rows, texts=TEXTS)
