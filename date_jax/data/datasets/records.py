"""The one form of a prepared record, whatever it was made from."""

import numpy as np
import tensorflow_datasets as tfds

# Raise it when the fields below change: what was prepared in another form is prepared again.
VERSION = tfds.core.Version("2.0.0")


def features(
    image_size: int, encoding: str, boxes: tuple[int, ...] = (), texts: tuple[str, ...] = ()
) -> tfds.features.FeaturesDict:
    """What every builder of this folder writes, one record a picture with its text.

    image is a PNG or JPEG, as `encoding` says, of `image_size` x `image_size` RGB pixels (a builder
    may pass the encoded bytes).
    box_xyxy is normalised to that picture, zeros where has_box is False; `boxes` is () for one,
    (M,) for M of them. row is the record's number in its source: the picture's number where it is
    rendered, the line of a file (from 1) otherwise. `texts` are columns that a builder has besides.
    """
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(
                shape=(image_size, image_size, 3), dtype=np.uint8, encoding_format=encoding
            ),
            "text": tfds.features.Text(),
            "box_xyxy": tfds.features.Tensor(shape=(*boxes, 4), dtype=np.float32),
            "has_box": tfds.features.Tensor(shape=boxes, dtype=np.bool_),
            "product_id": tfds.features.Text(),
            "category": tfds.features.Text(),
            "row": tfds.features.Scalar(dtype=np.int64),
            **{name: tfds.features.Text() for name in texts},
        }
    )
