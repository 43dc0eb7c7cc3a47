"""The one form of a prepared record, whatever it is made from."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from date_jax.data.rendering.workers import Encoded

# Raise it when the fields below change: what was prepared in another form is prepared again.
VERSION = tfds.core.Version("2.0.0")


def features(
    image_size: int, encoding: str, boxes: tuple[int, ...] = (), texts: tuple[str, ...] = ()
) -> tfds.features.FeaturesDict:
    """The fields that every builder of this folder writes, one record a picture with its text.

    The field `image` is a picture's file, `text` a phrase or a title. `box_xyxy` is normalised to
    the picture, zeros where `has_box` is False. `row` is the record's number in its source: the
    number of a rendered picture, or the line of a file, from 1.

    Args:
        image_size: S; every picture is RGB, S x S.
        encoding: `png` or `jpeg`, of pictures that a builder passes as arrays; it may pass files'
            bytes, of either.
        boxes: () for one box a record, (M,) for M of them.
        texts: further columns of texts that a builder has.
    """
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(
                shape=(image_size, image_size, 3), dtype=np.uint8, encoding_format=encoding
            ),
            "text": tfds.features.Text(),
            # Ground truth: the box of the product, which product it is, and its kind.
            "box_xyxy": tfds.features.Tensor(shape=(*boxes, 4), dtype=np.float32),
            "has_box": tfds.features.Tensor(shape=boxes, dtype=np.bool_),
            "product_id": tfds.features.Text(),
            "category": tfds.features.Text(),
            # The way back to the source; then what only one source has.
            "row": tfds.features.Scalar(dtype=np.int64),
            **{name: tfds.features.Text() for name in texts},
        }
    )


def rendered_record(picture: Encoded, row: int, **columns: Any) -> dict[str, Any]:
    """The record of a rendered picture.

    Args:
        picture: of a rendering worker.
        row: its number in its split.
        columns: further fields, or other values of those that every record has.
    """
    return {
        "image": picture.png,
        "text": picture.text,
        "box_xyxy": picture.box_xyxy,
        "has_box": True,
        "product_id": picture.product_id,
        "category": picture.category,
        "row": row,
        **columns,
    }
