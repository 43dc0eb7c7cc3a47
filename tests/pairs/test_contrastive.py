"""Contrastive losses in tiles: against a loop in float64, on one device and on eight."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit

from date_jax import sharding
from date_jax.pairs import contrastive

ROWS, WIDTH, SCALE, BIAS = 11, 5, 14.3, -10.0
TILES = [ROWS, 4, 3]  # one; two and a part; three and a part


def unit_rows(seed: int, rows: int = ROWS) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(rows, WIDTH))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def identities(rows: int = ROWS) -> np.ndarray:
    """Products repeat, and so do texts, in other rows."""
    return np.stack([np.arange(rows) // 2, np.arange(rows) * 3 % (rows - 2)], 1).astype(np.uint32)


def positives(identity: np.ndarray) -> np.ndarray:
    return np.array(
        [[any(x == y for x, y in zip(a, b, strict=True)) for b in identity] for a in identity]
    )


def crosswise_positives(identity: np.ndarray) -> np.ndarray:
    return np.array([[bool({*a} & {*b}) for b in identity.tolist()] for a in identity.tolist()])


MATCHES = [
    (contrastive.aligned_matches, positives),
    (contrastive.crosswise_matches, crosswise_positives),
]


def softmax_by_loop(
    query: np.ndarray, image: np.ndarray, positive: np.ndarray, temperature: float
) -> np.ndarray:
    """The formula word for word: queries i, images j."""
    s = query.astype(np.float64) @ image.astype(np.float64).T
    rows = len(s)

    def cross_entropy(search: list[float], wanted: list[int]) -> float:
        total = sum(np.exp(x) for x in search)
        return -sum(np.log(np.exp(search[k]) / total) for k in wanted) / len(wanted)

    def claim(i: int, j: int, over_queries: bool) -> float:
        if not temperature:
            return 1.0
        rivals = s[:, j] if over_queries else s[i, :]
        return np.exp(temperature * s[i, j]) / sum(np.exp(temperature * rivals))

    actual = []
    for k in range(rows):
        images = [SCALE * s[k, j] * claim(k, j, True) for j in range(rows)]
        queries = [SCALE * s[i, k] * claim(i, k, False) for i in range(rows)]
        both = cross_entropy(images, [j for j in range(rows) if positive[k, j]])
        both += cross_entropy(queries, [i for i in range(rows) if positive[i, k]])
        actual.append(both / 2)
    return np.array(actual)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("temperature", [0.0, 1.0, 10.0])
@pytest.mark.parametrize(("matches", "positive"), MATCHES)
def test_the_softmax_loss_is_that_of_a_loop(
    matches: Any, positive: Any, temperature: float, tile: int
) -> None:
    query, image, identity = unit_rows(0), unit_rows(1), identities()
    actual = contrastive.softmax(
        *map(jnp.asarray, (query, image, identity)),
        scale=jnp.float32(SCALE),
        prior_temperature=temperature,
        matches=matches,
        tile=tile,
    )
    expected = softmax_by_loop(query, image, positive(identity), temperature)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


@pytest.mark.parametrize("tile", TILES)
def test_the_sigmoid_loss_is_that_of_a_loop(tile: int) -> None:
    query, image, identity = unit_rows(0), unit_rows(1), identities()
    actual = contrastive.sigmoid(
        *map(jnp.asarray, (query, image, identity)),
        scale=jnp.float32(SCALE),
        bias=jnp.float32(BIAS),
        tile=tile,
    )
    s = query.astype(np.float64) @ image.astype(np.float64).T
    expected = [
        sum(
            -np.log(expit((1 if p else -1) * (SCALE * x + BIAS))) for x, p in zip(*row, strict=True)
        )
        for row in zip(s, positives(identity), strict=True)
    ]
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def dense_softmax(query: Any, image: Any, positive: Any, scale: Any, temperature: float) -> Any:
    """With the whole matrix, for gradients by JAX's own rules."""
    s = query @ image.T

    def direction(s: Any) -> Any:
        logits = scale * s
        if temperature:
            logits = logits * jax.nn.softmax(temperature * s, axis=0)
        target = positive / positive.sum(axis=1, keepdims=True)
        return -(target * jax.nn.log_softmax(logits, axis=1)).sum(axis=1)

    return ((direction(s) + direction(s.T)) / 2).mean()


@pytest.mark.parametrize("temperature", [0.0, 10.0])
@pytest.mark.parametrize(("matches", "positive"), MATCHES)
def test_values_and_gradients_of_tiles_on_eight_devices_are_those_of_the_whole_matrix(
    matches: Any, positive: Any, temperature: float
) -> None:
    rows = 64
    inputs = [unit_rows(0, rows), unit_rows(1, rows), identities(rows)]
    mesh = sharding.device_mesh()
    spread = sharding.global_batch(mesh, dict(zip("qvi", inputs, strict=True)))

    def tiled(query: Any, image: Any, scale: Any, identity: Any) -> Any:
        with sharding.mesh_context(mesh):
            options = {"prior_temperature": temperature, "matches": matches, "tile": 12}
            return contrastive.softmax(query, image, identity, scale=scale, **options).mean()

    def dense(query: Any, image: Any, scale: Any, identity: Any) -> Any:
        return dense_softmax(query, image, positive(inputs[2]), scale, temperature)

    scale = jnp.float32(SCALE)
    actual = jax.jit(jax.value_and_grad(tiled, (0, 1, 2)))(
        spread["q"], spread["v"], scale, spread["i"]
    )
    query, image, identity = map(jnp.asarray, inputs)
    expected = jax.value_and_grad(dense, (0, 1, 2))(query, image, scale, identity)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), actual, expected)


def test_the_sigmoid_loss_of_tiles_on_eight_devices_is_that_of_the_whole_matrix() -> None:
    rows = 64
    inputs = [unit_rows(0, rows), unit_rows(1, rows), identities(rows)]
    mesh = sharding.device_mesh()
    spread = sharding.global_batch(mesh, dict(zip("qvi", inputs, strict=True)))

    def tiled(query: Any, image: Any, scale: Any, bias: Any, identity: Any) -> Any:
        with sharding.mesh_context(mesh):
            return contrastive.sigmoid(
                query, image, identity, scale=scale, bias=bias, tile=12
            ).mean()

    def dense(query: Any, image: Any, scale: Any, bias: Any, identity: Any) -> Any:
        positive = (identity[:, None] == identity[None]).any(-1)
        logits = scale * query @ image.T + bias
        return optax.sigmoid_binary_cross_entropy(logits, positive).sum(axis=1).mean()

    numbers = jnp.float32(SCALE), jnp.float32(BIAS)
    places = (0, 1, 2, 3)
    actual = jax.jit(jax.value_and_grad(tiled, places))(
        spread["q"], spread["v"], *numbers, spread["i"]
    )
    query, image, identity = map(jnp.asarray, inputs)
    expected = jax.value_and_grad(dense, places)(query, image, *numbers, identity)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), actual, expected)


@pytest.mark.parametrize(
    ("form", "options", "loops"),
    [
        (contrastive.softmax, {}, 2),  # there and back, once for both directions
        (contrastive.softmax, {"prior_temperature": 10.0}, 4),
        (contrastive.sigmoid, {"bias": BIAS}, 1),  # its gradient needs no value
    ],
    ids=["softmax", "dual_softmax", "sigmoid"],
)
def test_memory_and_collectives_do_not_grow_with_the_square_of_the_batch(
    form: Callable[..., Any], options: dict[str, float], loops: int
) -> None:
    mesh = sharding.device_mesh()
    if "bias" in options:
        options = {"bias": jnp.float32(BIAS)}

    def compiled(rows: int) -> Any:
        shapes = {"q": unit_rows(0, rows), "v": unit_rows(1, rows), "i": identities(rows)}
        spread = sharding.global_batch(mesh, shapes)

        def loss(query: Any, image: Any) -> Any:
            with sharding.mesh_context(mesh):
                scale = jnp.float32(SCALE)
                return form(query, image, spread["i"], scale=scale, tile=64, **options).mean()

        return jax.jit(jax.grad(loss, (0, 1))).lower(spread["q"], spread["v"]).compile()

    small, large = compiled(512), compiled(4096)
    temporary = [program.memory_analysis().temp_size_in_bytes for program in (small, large)]
    assert temporary[1] < 8 * 1.5 * temporary[0]  # a matrix would take 64 times as much
    exchanges = (
        r" (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
    )
    counts = [len(re.findall(exchanges, program.as_text())) for program in (small, large)]
    assert counts[0] == counts[1] > 0
    # None in a loop, where it would happen once a tile.
    computations = re.split(r"\n(?=%|ENTRY)", large.as_text())
    bodies = set(re.findall(r"body=%([\w.-]+)", large.as_text()))
    looped = [c for c in computations if c.split(" ")[0].lstrip("%") in bodies]
    assert len(looped) == loops
    assert not re.search(exchanges, "".join(looped))


def test_a_second_picture_of_a_product_is_not_pushed_away() -> None:
    query, image = map(jnp.asarray, (unit_rows(0, 3), unit_rows(1, 3)))

    def loss(image: jax.Array, product: list[int]) -> jax.Array:
        identity = jnp.asarray(product, jnp.uint32)[:, None]
        return contrastive.softmax(query, image, identity, scale=jnp.float32(10)).sum()

    def pull(product: list[int]) -> float:
        """How the similarity of query 0 and image 1 changes the loss."""
        moved = jax.grad(loss)(image, product)[1]
        alone = jax.grad(loss)(image, [0, 1, 2])[1]
        return float((moved - alone) @ query[0])

    assert pull([0, 0, 1]) < 0


def test_losses_stay_finite_at_the_largest_scale() -> None:
    query, image = jnp.array([[1.0, 0.0], [-1.0, 0.0]]), jnp.array([[-1.0, 0.0], [1.0, 0.0]])
    identity, scale = jnp.arange(2, dtype=jnp.uint32)[:, None], jnp.float32(100)
    for temperature in (0.0, 100.0):
        value = jax.value_and_grad(
            lambda query, t=temperature: contrastive.softmax(
                query, image, identity, scale=scale, prior_temperature=t
            ).sum()
        )(query)
        assert jax.tree.all(jax.tree.map(lambda x: np.isfinite(x).all(), value))
    actual = contrastive.sigmoid(query, image, identity, scale=scale, bias=jnp.float32(-10))
    assert np.isfinite(actual).all()


def test_columns_that_fill_a_tile_up_have_no_say_in_the_gradient() -> None:
    query, image = jnp.tile(jnp.array([[1.0, 0.0]]), (5, 1)), jnp.array([[-1.0, 0.0]] * 5)
    identity = jnp.arange(5, dtype=jnp.uint32)[:, None]

    def loss(query: jax.Array, image: jax.Array, tile: int) -> jax.Array:
        options: dict[str, Any] = {"scale": jnp.float32(10), "prior_temperature": 100.0}
        return contrastive.softmax(query, image, identity, tile=tile, **options).sum()

    untiled, tiled = (jax.grad(loss, (0, 1))(query, image, tile) for tile in (5, 3))
    for expected, actual in zip(untiled, tiled, strict=True):
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def nt_xent_by_loop(image: np.ndarray, text: np.ndarray, temperature: float) -> np.ndarray:
    both = np.concatenate([image, text]).astype(np.float64)
    count = len(image)
    losses = []
    for i, row in enumerate(both):
        logits = {j: row @ other / temperature for j, other in enumerate(both) if j != i}
        total = sum(np.exp(x) for x in logits.values())
        losses.append(np.log(total) - logits[(i + count) % (2 * count)])
    return (np.array(losses[:count]) + np.array(losses[count:])) / 2


@pytest.mark.parametrize("tile", TILES)
def test_nt_xent_is_its_formula_in_a_loop(tile: int) -> None:
    image, text = unit_rows(0), unit_rows(1)
    actual = contrastive.nt_xent(jnp.asarray(image), jnp.asarray(text), temperature=0.07, tile=tile)
    np.testing.assert_allclose(actual, nt_xent_by_loop(image, text, 0.07), rtol=2e-5, atol=1e-5)


def test_nt_xent_of_three_known_pairs() -> None:
    image = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    text = np.array([[1, 0.2], [0.1, 1], [1, 0.8]], np.float32)
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    actual = contrastive.nt_xent(jnp.asarray(image), jnp.asarray(text), temperature=0.07)
    np.testing.assert_allclose(actual.mean(), 0.149047, atol=1e-6)


def test_nt_xent_and_its_gradient_are_the_same_on_all_devices() -> None:
    rows = 16
    image, text = jnp.asarray(unit_rows(0, rows)), jnp.asarray(unit_rows(1, rows))

    def loss(image: Any, text: Any) -> Any:
        return contrastive.nt_xent(image, text, temperature=0.07, tile=4).mean()

    expected = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(image, text)
    mesh = sharding.device_mesh()
    assert mesh.size == 8

    def on_mesh(image: Any, text: Any) -> Any:
        with sharding.mesh_context(mesh):
            return jax.value_and_grad(loss, argnums=(0, 1))(image, text)

    actual = jax.jit(on_mesh)(*sharding.global_batch(mesh, {"a": image, "b": text}).values())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), actual, expected
    )
