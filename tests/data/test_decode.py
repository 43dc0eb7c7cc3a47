import io

import numpy as np
import pytest
from PIL import Image

from date_jax.data import decode
from date_jax.data.cache import tensorflow

SIDE = 40  # no multiple of a JPEG's blocks


def jpegs(count: int) -> list[bytes]:
    """Files of smooth noise, so that every coefficient of the cosine transform counts."""
    files = []
    for noise in np.random.default_rng(0).integers(0, 256, (count, 12, 12, 3), np.uint8):
        file = io.BytesIO()
        picture = Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.save(file, "JPEG", quality=95, subsampling=0)
        files.append(file.getvalue())
    return files


def test_pictures_are_those_of_pillow_and_of_tensorflow_told_to_be_accurate() -> None:
    files = jpegs(5)
    pictures = decode.pictures(files, SIDE)
    assert pictures.shape == (5, SIDE, SIDE, 3)
    tf = tensorflow()
    for picture, file in zip(pictures, files, strict=True):
        np.testing.assert_array_equal(picture, np.asarray(Image.open(io.BytesIO(file))))
        accurate = tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE").numpy()
        np.testing.assert_array_equal(picture, accurate)


def test_a_batch_begins_where_tensorflow_takes_it_without_copying() -> None:
    for count in range(1, 6):
        pictures = decode.pictures(jpegs(count), SIDE)
        assert pictures.ctypes.data % 64 == 0
        assert pictures.flags.c_contiguous


def test_a_batch_may_hold_jpegs_and_pngs() -> None:
    file = io.BytesIO()
    picture = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(picture).save(file, "PNG")
    pictures = decode.pictures([*jpegs(1), file.getvalue()], SIDE)
    np.testing.assert_array_equal(pictures[1], picture)


def test_a_grey_picture_is_decoded_to_three_channels() -> None:
    file = io.BytesIO()
    Image.new("L", (SIDE, SIDE), 77).save(file, "JPEG", quality=95)
    assert np.ptp(decode.pictures([file.getvalue()], SIDE)) == 0


@pytest.mark.parametrize("side", [SIDE - 8, SIDE + 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_of_another_size_is_refused(side: int, kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, kind)
    with pytest.raises(ValueError, match=r"buffer|not 40 x 40"):
        decode.pictures([file.getvalue()], SIDE)


def test_a_picture_cut_short_is_refused() -> None:
    (file,) = jpegs(1)
    with pytest.raises(ValueError, match=r"[Pp]remature end"):
        decode.pictures([file[: len(file) // 2]], SIDE)
