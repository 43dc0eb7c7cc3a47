"""The same-style losses in tiles: golden values, a loop in float64, one device and eight."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from date_jax import sharding
from date_jax.same_style import matching
from tests.pairs.test_contrastive import unit_rows

ROWS = 11
TILES = [ROWS, 4, 3]  # one; two and a part; three and a part


def chained_pairs(rows: int = ROWS) -> np.ndarray:
    """Offers of pairs, of which neighbours share one; each third is the reverse of the second."""
    number = np.arange(rows)
    pairs = np.stack([number, number + 1], axis=1)
    pairs[2::3] = pairs[1:-1:3, ::-1]
    return pairs.astype(np.uint32)


def golden(*corners: tuple[float, float]) -> jax.Array:
    x = np.array(corners)
    return jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), jnp.float32)


TRIGGER = golden((1, 0), (0, 1), (1, 1))
OFFER = golden((1, 0.2), (0.1, 1), (1, 0.8))
SINGLE = golden((0.8, 0.6), (0, 1), (1, 0))
APART = jnp.arange(6, dtype=jnp.uint32).reshape(3, 2)  # three pairs of six offers


@pytest.mark.parametrize("tile", [1, 2, 3])
def test_the_losses_have_their_golden_values(tile: int) -> None:
    match = matching.hinge(TRIGGER, OFFER, APART, margin=0.2, tile=tile)
    distinct = matching.hinge(SINGLE, TRIGGER, APART, margin=0.2, tile=tile)
    local = matching.locality(TRIGGER, SINGLE, OFFER, margin=0.01, nearest=2, tile=tile)
    np.testing.assert_allclose(match, [0.000096, 0, 0.012722], atol=1e-6)
    np.testing.assert_allclose(distinct, [0.129983, 0, 0.164298], atol=1e-6)
    np.testing.assert_allclose(local, [0.018902, 0, 0.023718], atol=1e-6)


def hinge_by_loop(
    rows: np.ndarray, columns: np.ndarray, pairs: np.ndarray, margin: float
) -> list[float]:
    s = rows.astype(np.float64) @ columns.astype(np.float64).T
    offers = [set(pair) for pair in pairs.tolist()]
    return [
        sum(
            max(0.0, s[i, j] - s[i, i] + margin) for j in range(len(s)) if not offers[i] & offers[j]
        )
        / len(s)
        for i in range(len(s))
    ]


def locality_by_loop(
    trigger: np.ndarray, single: np.ndarray, offer: np.ndarray, margin: float, nearest: int
) -> list[float]:
    found = []
    for joint, alone in zip(trigger.astype(np.float64), single.astype(np.float64), strict=True):
        d, t = offer @ joint, offer @ alone
        around = sorted(range(len(d)), key=lambda j: -d[j])[:nearest]
        found.append(sum(max(0.0, (d[j] - t[j]) ** 2 - margin) for j in around) / len(around))
    return found


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize(
    "pairs", [np.arange(2 * ROWS, dtype=np.uint32).reshape(ROWS, 2), chained_pairs()]
)
def test_the_hinge_is_that_of_a_loop(pairs: np.ndarray, tile: int) -> None:
    rows, columns = unit_rows(0), unit_rows(1)
    actual = matching.hinge(*map(jnp.asarray, (rows, columns, pairs)), margin=0.3, tile=tile)
    np.testing.assert_allclose(actual, hinge_by_loop(rows, columns, pairs, 0.3), rtol=1e-5)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("nearest", [1, 4, 50])
def test_locality_is_that_of_a_loop(tile: int, nearest: int) -> None:
    given = [unit_rows(seed) for seed in range(3)]
    found = matching.locality(*map(jnp.asarray, given), margin=0.05, nearest=nearest, tile=tile)
    expected = locality_by_loop(*given, 0.05, min(nearest, ROWS))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_a_row_s_own_column_costs_nothing_whatever_the_margin() -> None:
    assert matching.hinge(TRIGGER[:1], OFFER[:1], APART[:1], margin=5.0) == 0


def whole_hinge(rows: Any, columns: Any) -> Any:
    """With the whole matrix, for gradients by JAX's own rules."""
    s = rows @ columns.T
    pairs = chained_pairs(len(s))
    has_common_offer = (pairs[:, None, :, None] == pairs[None, :, None]).any((-2, -1))
    return jnp.where(has_common_offer, 0, jnp.maximum(s - jnp.diag(s)[:, None] + 0.3, 0)).mean()


def whole_locality(trigger: Any, single: Any, offer: Any) -> Any:
    d, t = trigger @ offer.T, single @ offer.T
    near = jax.lax.stop_gradient(d >= jnp.sort(d, axis=1)[:, -4:][:, :1])
    return jnp.where(near, jnp.maximum((d - t) ** 2 - 0.05, 0), 0).sum() / (4 * len(d))


@pytest.mark.parametrize(
    ("tiled", "whole", "arguments"),
    [
        (
            lambda a, b: matching.hinge(
                a, b, jnp.asarray(chained_pairs(32)), margin=0.3, tile=12
            ).mean(),
            whole_hinge,
            2,
        ),
        (
            lambda a, b, c: matching.locality(a, b, c, margin=0.05, nearest=4, tile=12).mean(),
            whole_locality,
            3,
        ),
    ],
)
def test_values_and_gradients_of_tiles_on_eight_devices_are_those_of_the_whole_matrix(
    tiled: Callable[..., Any], whole: Callable[..., Any], arguments: int
) -> None:
    given = [unit_rows(seed, 32) for seed in range(arguments)]
    mesh = sharding.device_mesh()
    spread = sharding.global_batch(mesh, {str(i): x for i, x in enumerate(given)})

    def on_mesh(*rows: Any) -> Any:
        with sharding.mesh_context(mesh):
            return tiled(*rows)

    every = tuple(range(arguments))
    found = jax.jit(jax.value_and_grad(on_mesh, every))(*spread.values())
    expected = jax.value_and_grad(whole, every)(*map(jnp.asarray, given))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_no_array_of_all_pairs_is_made() -> None:
    rows, tile = 4096, 256
    shape = jax.ShapeDtypeStruct((rows, 8), jnp.float32)

    def total(a: Any, b: Any, c: Any) -> Any:
        pairs = jnp.asarray(chained_pairs(rows))
        losses = matching.hinge(a, b, pairs, margin=0.2, tile=tile)
        return (losses + matching.locality(a, b, c, margin=0.01, tile=tile)).mean()

    step = jax.jit(jax.value_and_grad(total, (0, 1, 2)))
    text = step.lower(shape, shape, shape).compile().as_text()
    assert f"[{rows},{tile}]" in text
    assert f"[{rows},{rows}]" not in text
