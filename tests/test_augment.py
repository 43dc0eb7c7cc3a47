"""A box must follow its pixels through every view, and no view may lose it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from date_jax import augment

OFF = augment.Strengths()._asdict()
ALL = {  # every change, at its utmost
    "zoom_in": 3.0,
    "zoom_out": 2.0,
    "aspect": 1.5,
    "flip": 0.5,
    "brightness": 1.0,
    "contrast": 1.0,
    "saturation": 1.0,
    "cast": 1.0,
    "noise": 1.0,
    "blur": 2.0,
    "erase": 1.0,
}
VOCAB = 10
SIDE = 40
# float32 places a pixel within 5e-6 of its width, and neighbours differ by up to 4.4.
ROUNDING = 5e-5

_strong = jax.jit(
    lambda image, box, text, rng, config, strength, swap_table: augment.random_view(
        image,
        box,
        text,
        rng=rng,
        config=ConfigDict(config),
        strength=strength,
        swap_table=swap_table,
    )
)


def view(
    image: np.ndarray,
    box: np.ndarray,
    changes: dict[str, float],
    *,
    strength: float = 1.0,
    seed: int = 0,
    text: np.ndarray | None = None,
    swaps: dict[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = np.arange(VOCAB, dtype=np.int32)
    for token, other in (swaps or {}).items():
        table[token] = other
    text = np.zeros((len(image), 3), np.int32) if text is None else text
    # Strengths as arrays: one compiled function serves all tests of a shape.
    config = jax.tree.map(jnp.float32, {**OFF, **changes})
    out = _strong(image, box, text, jax.random.key(seed), config, jnp.float32(strength), table)
    return tuple(map(np.asarray, out))


def boxes(rows: int, seed: int = 0) -> np.ndarray:
    """Corners on pixel borders inside the picture, as cxcywh."""
    rng = np.random.default_rng(seed)
    size = rng.integers(4, SIDE, (rows, 2))
    low = (rng.random((rows, 2)) * (SIDE - size + 1)).astype(int)
    return (np.concatenate([low + size / 2, size], axis=1) / SIDE).astype(np.float32)


def corners(cxcywh: np.ndarray) -> np.ndarray:
    cx, cy, w, h = cxcywh.astype(np.float64).T
    return np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=1)


def plain(image: np.ndarray) -> np.ndarray:
    return np.asarray(augment.plain_view(jnp.asarray(image)))


def noise_pictures(rows: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (rows, SIDE, SIDE, 3), np.uint8)


@pytest.mark.parametrize(
    ("changes", "strength"), [(ALL, 0.0), ({"focus": 1.0}, 1.0)], ids=["strength_0", "all_off"]
)
def test_a_view_without_changes_is_the_picture(changes: dict, strength: float) -> None:
    image, box = noise_pictures(64), boxes(64)
    text = np.random.default_rng(0).integers(0, VOCAB, (64, 3)).astype(np.int32)
    actual, found_box, found_text = view(
        image, box, changes, strength=strength, text=text, swaps={1: 2, 2: 1}
    )
    np.testing.assert_allclose(actual, plain(image), atol=ROUNDING)
    np.testing.assert_allclose(found_box, box, atol=1e-6)
    assert np.array_equal(found_text, text)


def test_normalised_pixels_are_those_of_the_published_backbones() -> None:
    image = np.full((1, 1, 1, 3), [[[[124, 116, 104]]]], np.uint8)
    assert np.abs(plain(image)).max() < 0.02
    white = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    actual = plain(np.full((1, 1, 1, 3), 255, np.uint8))
    np.testing.assert_allclose(actual[0, 0, 0], white, rtol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_box_follows_the_pixels(seed: int) -> None:
    moves = {name: ALL[name] for name in ("zoom_in", "zoom_out", "aspect", "flip")}
    box = boxes(64, seed)
    painted = np.zeros((64, SIDE, SIDE, 3), np.uint8)
    for picture, (x0, y0, x1, y1) in zip(painted, (corners(box) * SIDE).round(), strict=True):
        picture[int(y0) : int(y1), int(x0) : int(x1)] = 255
    with_box, actual, _ = view(painted, box, moves, seed=seed)
    without, _, _ = view(np.zeros_like(painted), box, moves, seed=seed)
    # What differs is the rectangle, whatever colour lies outside the picture.
    inside = (with_box - without).max(axis=3) * augment.STD[0] > 0.5
    for pixels, (x0, y0, x1, y1) in zip(inside, corners(actual) * SIDE, strict=True):
        rows, columns = pixels.any(axis=1).nonzero()[0], pixels.any(axis=0).nonzero()[0]
        seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(seen, [x0, y0, x1, y1], atol=1.5)


def test_a_close_up_shows_the_whole_box_and_little_else() -> None:
    box = boxes(64)
    _, actual, _ = view(noise_pictures(64), box, {"focus": 1.0}, strength=0.0)
    longer = actual[:, 2:].max(axis=1)
    assert (longer > 1 / 2.2 - 1e-5).all()
    # A large box cannot be larger than in the picture itself.
    assert (longer < np.maximum(1 / 1.3, box[:, 2:].max(axis=1)) + 1e-5).all()
    np.testing.assert_allclose(actual[:, 2] / actual[:, 3], box[:, 2] / box[:, 3], rtol=1e-3)


@pytest.mark.parametrize("focus", [0.0, 1.0])
def test_a_window_keeps_the_centre_and_half_of_the_box(focus: float) -> None:
    rng = np.random.default_rng(0)
    size = rng.uniform(0.01, 1.0, (2000, 2))
    low = rng.random((2000, 2)) * (1 - size)
    box = np.concatenate([low + size / 2, size], axis=1).astype(np.float32)
    utmost = augment.Strengths(zoom_in=20.0, zoom_out=2.0, aspect=3.0, focus=focus)
    window = np.asarray(
        augment._random_window(jnp.asarray(box), jax.random.key(0), utmost), np.float64
    )
    assert (box[:, :2] > window[:, :2] - 1e-6).all()
    assert (box[:, :2] < window[:, 2:] + 1e-6).all()
    share = []
    for (x0, y0, x1, y1), (left, top, right, bottom) in zip(corners(box), window, strict=True):
        width, height = min(x1, right) - max(x0, left), min(y1, bottom) - max(y0, top)
        share.append(width * height / ((x1 - x0) * (y1 - y0)))
    assert min(share) > 0.5
    assert focus or min(share) < 0.7  # the bound is used


def test_windows_lie_in_the_picture_unless_they_are_larger() -> None:
    box = np.tile(np.float32([[0.5, 0.5, 0.1, 0.1]]), (500, 1))
    window = np.asarray(
        augment._random_window(
            jnp.asarray(box), jax.random.key(0), augment.Strengths(zoom_in=2.0, zoom_out=1.5)
        )
    )
    side = window[:, 2] - window[:, 0]
    np.testing.assert_allclose(side, window[:, 3] - window[:, 1], atol=1e-6)
    assert 0.5 - 1e-6 < side.min() < 0.55
    assert 1.45 < side.max() < 1.5 + 1e-6
    small = side < 1
    assert (window[small] > -1e-6).all()
    assert (window[small] < 1 + 1e-6).all()
    assert (window[~small, :2] < 1e-6).all()
    assert (window[~small, 2:] > 1 - 1e-6).all()


def test_the_way_back_undoes_the_way_there() -> None:
    rng = np.random.default_rng(0)
    window = np.concatenate([rng.uniform(-0.5, 0.1, (50, 2)), rng.uniform(0.9, 1.5, (50, 2))], 1)
    centre, size = rng.uniform(0.3, 0.7, (50, 2)), rng.uniform(0.05, 0.3, (50, 2))
    box = np.concatenate([centre, size], axis=1).astype(np.float32)
    window, flip = jnp.asarray(window, jnp.float32), jnp.asarray(rng.random(50) < 0.5)
    in_view = augment.moved_box(jnp.asarray(box), window, flip)
    assert np.abs(in_view - box).max() > 0.05
    np.testing.assert_allclose(augment.original_box(in_view, window, flip), box, atol=1e-6)


def test_a_box_is_cut_at_the_border_of_the_view() -> None:
    box = jnp.array([[0.5, 0.5, 0.4, 0.2]])
    window = jnp.array([[0.5, 0.0, 1.0, 1.0]])
    plain = augment.moved_box(box, window, jnp.array([False]))
    np.testing.assert_allclose(plain, [[0.2, 0.5, 0.4, 0.2]], atol=1e-6)
    mirrored = augment.moved_box(box, window, jnp.array([True]))
    np.testing.assert_allclose(mirrored, [[0.8, 0.5, 0.4, 0.2]], atol=1e-6)


def test_a_flip_mirrors_picture_box_and_words() -> None:
    image, box = noise_pictures(64), boxes(64)
    text = np.tile(np.int32([[1, 2, 3]]), (64, 1))
    actual, found_box, found_text = view(image, box, {"flip": 1.0}, text=text, swaps={1: 2, 2: 1})
    np.testing.assert_allclose(actual, plain(image[:, :, ::-1]), atol=ROUNDING)
    np.testing.assert_allclose(found_box, box * [-1, 1, 1, 1] + [1, 0, 0, 0], atol=1e-6)
    assert (found_text == [[2, 1, 3]]).all()


def test_words_are_swapped_in_mirrored_rows_only() -> None:
    image, box = noise_pictures(64), boxes(64)
    text = np.tile(np.int32([[1, 2, 3]]), (64, 1))
    actual, _, found_text = view(image, box, {"flip": 0.5}, text=text, swaps={1: 2, 2: 1})
    mirrored = np.abs(actual - plain(image[:, :, ::-1])).max(axis=(1, 2, 3)) < 1e-4
    assert 10 < mirrored.sum() < 54
    assert np.array_equal(found_text[:, 0] == 2, mirrored)


def test_a_key_gives_one_view_and_another_key_another() -> None:
    image, box = noise_pictures(64), boxes(64)
    first, again, other = (view(image, box, ALL, seed=seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert (np.abs(first - other).max(axis=(1, 2, 3)) > 0.1).all()
    assert np.isfinite(first).all()


@pytest.mark.parametrize("name", [n for n in ALL if n != "flip"])
def test_each_strength_changes_the_view(name: str) -> None:
    image, box = noise_pictures(64), boxes(64)
    changed, _, _ = view(image, box, {name: ALL[name]})
    apart = np.abs(changed - plain(image)).max(axis=(1, 2, 3))
    assert (apart > 0.05).mean() > 0.8


def test_a_magnified_window_is_interpolated_between_its_pixels() -> None:
    image = jnp.asarray(noise_pictures(1), jnp.float32) / 255
    window = jnp.array([[0.25, 0.5, 0.75, 1.0]])
    ones = jnp.ones((1,))
    actual = augment.resampled_image(image, window, jnp.array([False]), ones, jnp.zeros((1, 3)))[0]
    quarter, pixels = SIDE // 4, np.asarray(image[0], np.float64)
    for row, column in [(0, 0), (5, 7), (38, 20), (39, 39)]:
        y, x = 2 * quarter + (row + 0.5) / 2 - 0.5, quarter + (column + 0.5) / 2 - 0.5
        total, weights = np.zeros(3), 0.0
        for i in range(SIDE):
            for j in range(SIDE):
                weight = max(1 - abs(y - i), 0) * max(1 - abs(x - j), 0)
                total, weights = total + weight * pixels[i, j], weights + weight
        np.testing.assert_allclose(actual[row, column], total / weights, atol=ROUNDING)


def test_outside_the_picture_lies_the_fill() -> None:
    image = jnp.zeros((1, SIDE, SIDE, 3))
    fill = jnp.array([[0.2, 0.4, 0.6]])
    window = jnp.array([[-0.5, -0.5, 1.5, 1.5]])
    actual = np.asarray(
        augment.resampled_image(image, window, jnp.array([False]), jnp.ones((1,)), fill)[0]
    )
    edge = SIDE // 4
    assert not actual[edge + 1 : -edge - 1, edge + 1 : -edge - 1].any()
    outside = np.ones((SIDE, SIDE), bool)
    outside[edge - 1 : SIDE - edge + 1, edge - 1 : SIDE - edge + 1] = False
    np.testing.assert_allclose(actual[outside], np.tile(fill, (outside.sum(), 1)), atol=1e-6)


def test_the_hidden_part_is_small() -> None:
    grey = np.full((64, SIDE, SIDE, 3), 128, np.uint8)
    actual, _, _ = view(grey, boxes(64), {"erase": 1.0})
    hidden = (np.abs(actual - plain(grey)).max(axis=3) > 1e-3).mean(axis=(1, 2))
    assert (hidden > 0.005).all()
    assert (hidden < 0.1).all()


def test_strengths_are_those_of_the_config(tiny_config: ConfigDict) -> None:
    assert set(OFF) == set(tiny_config.augment) - {"ramp"}
