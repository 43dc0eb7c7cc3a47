"""Proposals: suppression, assignment and RoIAlign against loops and SciPy; and that they learn."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.ndimage import map_coordinates

from date_jax.capture import proposals as regions

GRID = (5, 8)


def random_boxes(rng: np.random.Generator, *shape: int) -> np.ndarray:
    low = rng.uniform(0, 0.6, (*shape, 2))
    return np.concatenate([low, low + rng.uniform(0.1, 0.4, (*shape, 2))], -1).astype(np.float32)


def compiled(function: Any, *inputs: Any) -> Any:
    """For these inputs."""
    return jax.jit(function).lower(*inputs).compile()


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def suppressed_by_loop(score: np.ndarray, box: np.ndarray, count: int) -> tuple[list[int], int]:
    """Kept places, best first, and after them the best of the rest; and how many were kept."""
    kept: list[int] = []
    for place in np.argsort(-score, kind="stable"):
        if len(kept) < count and all(overlap(box[place], box[k]) <= 0.5 for k in kept):
            kept.append(int(place))
    rest = [int(p) for p in np.argsort(-score, kind="stable") if int(p) not in kept]
    return (kept + rest)[:count], len(kept)


def test_the_best_boxes_apart_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    score = rng.normal(size=(20, 30)).astype(np.float32)
    box = random_boxes(rng, 20, 30) * 0.5  # crowded
    box[..., 2:] += 0.3
    found = jax.jit(lambda s, b: regions.nms_indices(s, b, 12, overlap=0.5))(score, box)
    taken = np.take_along_axis(box, np.asarray(found)[..., None], axis=1)
    fills = regions.suppressed_mask(jnp.asarray(taken), overlap=0.5)
    numbers = []
    for row in range(20):
        expected, kept = suppressed_by_loop(score[row], box[row], 12)
        assert found[row].tolist() == expected
        assert fills[row].tolist() == [n >= kept for n in range(12)]
        numbers.append(kept)
    assert min(numbers) < 12, "no case in which boxes had to be filled up"


def test_roi_align_is_the_mean_of_bilinear_readings() -> None:
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(2, GRID[0] * GRID[1], 3)).astype(np.float32)
    box = random_boxes(rng, 2, 6)
    box[0, 0] = (0.8, 0.7, 1.2, 1.1)  # over the border: the nearest token
    found = regions.roi_align(jnp.asarray(tokens), jnp.asarray(box), GRID)
    steps = (np.arange(7) + 0.5) / 7
    for b in range(2):
        for k, (x0, y0, x1, y1) in enumerate(box[b]):
            y, x = np.meshgrid(y0 + (y1 - y0) * steps, x0 + (x1 - x0) * steps, indexing="ij")
            places = [y.ravel() * GRID[0] - 0.5, x.ravel() * GRID[1] - 0.5]
            for c in range(3):
                picture = tokens[b, :, c].reshape(GRID)
                read = map_coordinates(picture, places, order=1, mode="nearest")
                np.testing.assert_allclose(found[b, k, c], read.mean(), atol=1e-5)


def test_tokens_stand_for_the_smallest_box_whose_middle_they_are_in() -> None:
    box = np.array(
        [[[0.0, 0.0, 1.0, 1.0], [0.25, 0.2, 0.75, 0.8], [0.9, 0.9, 0.92, 0.92], [0, 0, 0, 0]]],
        np.float32,
    )
    mask = np.array([[True, True, True, False]])
    stands, wanted = regions.token_targets(jnp.asarray(box), jnp.asarray(mask), GRID)
    middle = regions.cell_centres(GRID)
    for place, (x, y) in enumerate(middle):
        may = []
        for b in box[0, :3]:
            centre, size = (b[:2] + b[2:]) / 2, b[2:] - b[:2]
            distance = np.square(middle - centre).sum(axis=1)
            inside = all(abs((x, y)[n] - centre[n]) <= size[n] / 4 for n in (0, 1))
            if inside or distance[place] == distance.min():
                may.append(b)
        assert stands[0, place] == bool(may)
        if may:
            smallest = min(may, key=lambda b: (b[2] - b[0]) * (b[3] - b[1]))
            np.testing.assert_array_equal(wanted[0, place], smallest)
    assert stands[0, -1], "a box between all tokens has its nearest one"


def test_cells_are_the_grid() -> None:
    cells = regions.cells_xyxy((2, 4))
    np.testing.assert_allclose(cells[0], [0, 0, 0.25, 0.5])
    np.testing.assert_allclose(cells[-1], [0.75, 0.5, 1, 1])
    sides = cells[:, 2:] - cells[:, :2]
    assert sides.prod(axis=1).sum() == pytest.approx(1)


def test_losses_do_not_see_boxes_that_are_not_there() -> None:
    rng = np.random.default_rng(2)
    objectness = jnp.asarray(rng.normal(size=(3, 40)), jnp.float32)
    found, true = jnp.asarray(random_boxes(rng, 3, 40)), random_boxes(rng, 3, 2)
    mask = jnp.array([[True, True], [True, False], [False, False]])
    one = regions.proposal_losses(objectness, found, jnp.asarray(true), mask, GRID)
    true[1, 1], true[2] = 0.3, 0.7
    other = regions.proposal_losses(objectness, found, jnp.asarray(true), mask, GRID)
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])
    assert one["positives"][2] == one["box"][2] == 0
    nothing = np.log1p(np.exp(np.asarray(objectness[2], np.float64))).sum()
    assert one["objectness"][2] == pytest.approx(nothing, rel=1e-5)


def test_a_head_learns_where_bright_squares_are() -> None:
    """Tokens that carry their distances from a square: a few steps are enough."""
    rng = np.random.default_rng(3)
    grid = (8, 8)
    centre = rng.uniform(0.25, 0.75, (64, 2))
    box = np.concatenate([centre - 0.15, centre + 0.15], -1).astype(np.float32)[:, None]
    middle = regions.cell_centres(grid)
    tokens = jnp.asarray(middle[None] - centre[:, None], jnp.float32) * 4
    head = regions.ProposalHead(32)
    params = jax.jit(lambda key: head.init(key, tokens, grid))(jax.random.key(0))
    mask = jnp.ones((64, 1), bool)
    tx = optax.adam(1e-2)

    def loss(params: Any) -> Any:
        each = regions.proposal_losses(
            *head.apply(params, tokens, grid), jnp.asarray(box), mask, grid
        )
        return sum(each[name].sum() for name in ("objectness", "box")) / each["positives"].sum()

    def step(_: int, carry: Any) -> Any:
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def trained(params: Any) -> Any:
        return jax.lax.fori_loop(0, 200, step, (params, tx.init(params)))[0]

    params = compiled(trained, params)(params)
    score, found = head.apply(params, tokens, grid)
    best = regions.nms_indices(score, found, 1, overlap=0.5)
    chosen = np.take_along_axis(np.asarray(found), np.asarray(best)[..., None], axis=1)[:, 0]
    assert np.mean([overlap(a, b[0]) for a, b in zip(chosen, box, strict=True)]) > 0.8
