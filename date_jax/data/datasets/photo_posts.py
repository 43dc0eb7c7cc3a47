"""TFDS builder of a user's photos of several products and of single ones, as posts."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from date_jax.data.datasets import files, records
from date_jax.data.files import photo_posts
from date_jax.data.files.photos import PhotoRow
from date_jax.data.files.preprocess import prepared_box
from date_jax.data.prepared import LABEL_SEPARATOR
from date_jax.data.rendering.post_scenes import MOST


def builder(config: Any, cache: Path) -> "PhotoPosts":
    """The builder of the posts in a table of photos, its rows checked; the pictures come later.

    Args:
        config: `config.data`.
        cache: folder for its records.

    Raises:
        DataError: see `files.photo_posts`.
    """
    path, rows, notes = photo_posts.photo_posts(config, most=MOST)
    settings = files.settings_of_rows(
        config, path=path, folder=path.parent, rows=rows, notes=tuple(notes)
    )
    return PhotoPosts(config=settings, data_dir=str(cache), file_format="array_record")


class PhotoPosts(files.Files):
    """Pictures with a title each, and the boxes and products of some: one record a picture."""

    VERSION = records.VERSION

    def _info(self) -> tfds.core.DatasetInfo:
        return self._info_of_boxes((MOST,))

    def _records(self, rows: Sequence[PhotoRow], size: tuple[int, int]) -> Iterator[dict[str, Any]]:
        """One record of all rows of a picture; behind the last box there are zeros."""
        config = self.builder_config
        first = rows[0]
        box = np.zeros((MOST, 4), np.float32)
        boxes = [row.box for row in rows if row.box]
        for place, corners in enumerate(boxes):
            box[place] = prepared_box(corners, size, image_size=config.image_size, fit=config.fit)
        yield {
            "text": first.text,
            "box_xyxy": box,
            "has_box": np.arange(MOST) < len(boxes),
            "product_id": LABEL_SEPARATOR.join(row.product_id for row in rows if row.product_id),
            "category": first.category,
            "row": first.line,
        }
