from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from date_jax import sharding
from date_jax.date import aligner

BANDWIDTHS = (1 / 8, 1 / 4, 1 / 2, 1, 2)
FEATURES = aligner.FEATURES


def features(rows: int, seed: int, shift: float = 0.0, width: int = 5) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(rows, width)) + shift).astype(np.float32)


def mmd_by_loop(source: np.ndarray, target: np.ndarray, *, unbiased: bool) -> float:
    """The formula, pair by pair, in float64."""
    x, y = source.astype(np.float64), target.astype(np.float64)
    joined = [*x, *y]
    distances = [((a - b) ** 2).sum() for a in joined for b in joined]
    variance = sum(distances) / len(distances)

    def kernel_mean(a: np.ndarray, b: np.ndarray, leave_out_diagonal: bool) -> float:
        values = [
            sum(np.exp(-((p - q) ** 2).sum() / (2 * k * variance)) for k in BANDWIDTHS)
            for i, p in enumerate(a)
            for j, q in enumerate(b)
            if not (leave_out_diagonal and i == j)
        ]
        return sum(values) / len(values)

    return kernel_mean(x, x, unbiased) - 2 * kernel_mean(x, y, False) + kernel_mean(y, y, unbiased)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("sizes", [(7, 7), (5, 9)])
def test_mmd_is_that_of_a_loop(sizes: tuple[int, int], unbiased: bool) -> None:
    source, target = features(sizes[0], 0), features(sizes[1], 1, shift=0.4)
    found = aligner.mmd(jnp.array(source), jnp.array(target), unbiased=unbiased)
    expected = mmd_by_loop(source, target, unbiased=unbiased)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("unbiased", [False, True])
def test_the_gradient_of_mmd_is_that_of_a_loop(unbiased: bool) -> None:
    source, target = features(7, 0), features(5, 1, shift=0.4)
    x, y = source.astype(np.float64), target.astype(np.float64)
    joined = np.concatenate([x, y])
    variance = np.mean([((a - b) ** 2).sum() for a in joined for b in joined])

    def slope(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        """Of the kernel, as p moves."""
        kernels = [np.exp(-((p - q) ** 2).sum() / (2 * k * variance)) / k for k in BANDWIDTHS]
        return -sum(kernels) * (p - q) / variance

    within, between = len(y) * (len(y) - unbiased), len(x) * len(y)
    expected = [
        2 * sum(slope(p, q) for q in y) / within - 2 * sum(slope(p, q) for q in x) / between
        for p in y
    ]
    found = jax.grad(lambda moved: aligner.mmd(jnp.array(source), moved, unbiased=unbiased))(
        jnp.array(target)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("filled", [0, 4, 6])
def test_mmd_with_earlier_rows_is_that_of_all_rows_together(filled: int, unbiased: bool) -> None:
    source, target = features(7, 0), features(5, 1, shift=0.4)
    queues = features(6, 2), features(6, 3, shift=0.2)
    weight = jnp.array(np.arange(6) < filled, jnp.float32)
    earlier = tuple(aligner.Rows(jnp.array(queue), weight) for queue in queues)
    found = aligner.mmd(jnp.array(source), jnp.array(target), unbiased=unbiased, earlier=earlier)
    expected = mmd_by_loop(
        np.concatenate([source, queues[0][:filled]]),
        np.concatenate([target, queues[1][:filled]]),
        unbiased=unbiased,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("unbiased", [False, True])
def test_rows_in_the_queue_do_not_weaken_the_gradient(unbiased: bool) -> None:
    """A queue of copies: its own rows get what each gets if all of them may move."""
    source, target = jnp.array(features(7, 0)), jnp.array(features(5, 1, shift=0.4))
    copies = 3

    def alone(target: jax.Array) -> jax.Array:
        tiled = jnp.tile(target, (1 + copies, 1))
        return aligner.mmd(jnp.tile(source, (1 + copies, 1)), tiled, unbiased=unbiased)

    def queued(target_now: jax.Array) -> jax.Array:
        rows = [jnp.tile(x, (copies, 1)) for x in (source, target)]
        earlier = tuple(aligner.Rows(x, jnp.ones(len(x))) for x in rows)
        return aligner.mmd(source, target_now, unbiased=unbiased, earlier=earlier)

    expected, found = (jax.jit(jax.value_and_grad(f))(target) for f in (alone, queued))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-5), found, expected)


def test_a_queue_keeps_the_latest_rows_in_front() -> None:
    queue = aligner.empty_queue(5, 3)
    batches = [{name: jnp.full((2, 3), n) for name in FEATURES} for n in (1.0, 2.0, 3.0)]
    filled = []
    for batch in batches:
        shifted = {name: -rows for name, rows in batch.items()}
        queue = aligner.updated_queue(queue, batch, shifted)
        filled.append(int(queue["filled"]))
    assert filled == [2, 4, 5]
    for name in FEATURES:
        assert queue["source"][name][:, 0].tolist() == [3, 3, 2, 2, 1]
        assert queue["target"][name][:, 0].tolist() == [-3, -3, -2, -2, -1]


def test_an_aligner_compares_with_the_filled_part_of_its_queue() -> None:
    source, target = outputs(6, 0), outputs(6, 50, 0.5)
    queue = aligner.updated_queue(
        aligner.empty_queue(9, 5),
        {name: source[name][:4] + 1 for name in FEATURES},
        {name: target[name][:4] for name in FEATURES},
    )
    found = aligner.Aligner("mmd").apply({}, source, target, jnp.float32(0.5), queue)
    rows = np.concatenate([source["loc"], source["loc"][:4] + 1])
    others = np.concatenate([target["loc"], target["loc"][:4]])
    expected = mmd_by_loop(rows, others, unbiased=False)
    np.testing.assert_allclose(found["object"], expected, rtol=1e-4)


def test_mmd_of_equal_sets_is_zero_and_grows_with_their_shift() -> None:
    source = jnp.array(features(40, 2))
    assert abs(aligner.mmd(source, source)) < 1e-5
    shifted = [float(aligner.mmd(source, source + by)) for by in (0.0, 0.3, 0.6, 1.2)]
    assert shifted == sorted(shifted)
    assert shifted[-1] > 0.3


def test_the_unbiased_mmd_of_one_distribution_is_zero_on_average() -> None:
    source, target = (jnp.stack([features(16, seed + n) for n in range(60)]) for seed in (0, 1000))
    found = jax.vmap(lambda a, b: aligner.mmd(a, b, unbiased=True))(source, target)
    biased = jax.vmap(aligner.mmd)(source, target)
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 4 * error
    assert np.mean(biased) > 10 * error


def test_mmd_pulls_the_target_towards_the_source() -> None:
    source = jnp.array(features(30, 3))
    gradient = jax.jit(jax.grad(lambda target: aligner.mmd(source, target)))(source + 2.0)
    assert (gradient.mean(axis=0) > 0).all()  # descent moves the target back


def test_mmd_of_one_repeated_point_has_a_finite_gradient() -> None:
    point = jnp.ones((4, 3))
    value, gradient = jax.jit(jax.value_and_grad(lambda target: aligner.mmd(point, target)))(point)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("queue", [0, 16])
def test_mmd_in_tiles_on_eight_devices_is_that_of_one(queue: int, unbiased: bool) -> None:
    source, target = features(32, 4), features(32, 5, shift=0.5)
    weight = jnp.array(np.arange(queue) < 11, jnp.float32)
    rows = tuple(aligner.Rows(jnp.array(features(queue, seed)), weight) for seed in (6, 7))
    earlier = rows if queue else None
    mesh = sharding.device_mesh()
    spread = sharding.global_batch(mesh, {"source": source, "target": target})

    def loss(source: jax.Array, target: jax.Array, tile: int) -> jax.Array:
        return aligner.mmd(source, target, unbiased=unbiased, earlier=earlier, tile=tile)

    def tiled(source: jax.Array, target: jax.Array) -> jax.Array:
        with sharding.mesh_context(mesh):
            return loss(source, target, 12)

    found = jax.jit(jax.value_and_grad(tiled, (0, 1)))(spread["source"], spread["target"])
    whole = jax.jit(jax.value_and_grad(lambda source, target: loss(source, target, 64), (0, 1)))
    expected = whole(jnp.array(source), jnp.array(target))
    # The value is what is left of three means between 1 and 5.
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), found[1], expected[1])


def test_memory_of_mmd_does_not_grow_with_the_square_of_the_batch() -> None:
    mesh = sharding.device_mesh()

    def temporary_bytes(rows: int) -> int:
        spread = sharding.global_batch(mesh, {"s": features(rows, 0), "t": features(rows, 1)})

        def loss(source: jax.Array, target: jax.Array) -> jax.Array:
            with sharding.mesh_context(mesh):
                return aligner.mmd(source, target, tile=64)

        program = jax.jit(jax.grad(loss, (0, 1))).lower(spread["s"], spread["t"]).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(4096) < 8 * 1.5 * temporary_bytes(512)  # all pairs: 64 times as much


def test_reversal_keeps_the_value_and_turns_the_gradient() -> None:
    x = jnp.array([1.0, -2.0])
    assert aligner.reverse_gradient(x, jnp.float32(0.3)).tolist() == x.tolist()
    gradient = jax.grad(lambda x: (aligner.reverse_gradient(x, jnp.float32(0.3)) ** 2).sum())(x)
    np.testing.assert_allclose(gradient, -0.3 * 2 * x, rtol=1e-6)


def test_the_reversal_grows_from_nothing_to_one() -> None:
    found = [float(aligner.reversal_coefficient(p)) for p in (0.0, 0.1, 0.5, 1.0)]
    np.testing.assert_allclose(found, [0.0, 0.462117, 0.986614, 0.999909], atol=1e-5)


def outputs(rows: int, seed: int, shift: float = 0.0) -> dict[str, jax.Array]:
    found = {name: jnp.array(features(rows, seed + n, shift)) for n, name in enumerate(FEATURES)}
    rng = np.random.default_rng(seed)
    return found | {"box_cxcywh": jnp.array(rng.uniform(0, 1, (rows, 4)), jnp.float32)}


def test_the_box_puts_the_feature_into_the_slot_of_its_cell() -> None:
    loc = jnp.array(features(4, 6, width=3))
    box = jnp.array([[0.1, 0.1, 0, 0], [0.9, 0.1, 0, 0], [0.3, 0.8, 0, 0], [1.0, 1.0, 0, 0]])
    found = np.asarray(aligner.feature_by_cell(loc, box)).reshape(4, 16, 3)
    for row, cell in enumerate([0, 3, 13, 15]):
        np.testing.assert_array_equal(found[row, cell], loc[row])
        assert not np.delete(found[row], cell, axis=0).any()


def test_the_mmd_aligner_sums_vectors_and_means() -> None:
    source, target = outputs(12, 0), outputs(12, 50, 0.5)
    found = aligner.Aligner("mmd").apply({}, source, target, jnp.float32(0.5))
    for term, names in [
        ("image", FEATURES[:2]),
        ("text", FEATURES[2:4]),
        ("object", FEATURES[4:]),
    ]:
        expected = sum(
            mmd_by_loop(np.asarray(source[name]), np.asarray(target[name]), unbiased=False)
            for name in names
        )
        np.testing.assert_allclose(found[term], expected, rtol=1e-4)


@pytest.mark.parametrize("kind", ["adversarial", "conditional_adversarial"])
def test_discriminators_learn_the_domain_and_features_unlearn_it(kind: str) -> None:
    source, target = outputs(64, 0), outputs(64, 50, 0.7)
    model = aligner.Aligner(kind, hidden=16)
    params = model.init(jax.random.key(0), source, target, jnp.float32(1))

    def loss(params: Any, target: dict[str, jax.Array]) -> jax.Array:
        return sum(model.apply(params, source, target, jnp.float32(1)).values())

    step = jax.jit(lambda p: jax.tree.map(lambda x, g: x - 0.1 * g, p, jax.grad(loss)(p, target)))
    before = loss(params, target)
    assert before == pytest.approx(3 * np.log(2), abs=0.5)
    for _ in range(200):
        params = step(params)
    after = loss(params, target)
    assert after < 0.7 * before
    # Behind the reversal, descent on the same loss makes the domains harder to tell apart.
    turned = jax.jit(jax.grad(loss, argnums=1))(params, target)
    moved = {name: x - 0.5 * turned[name] * len(x) for name, x in target.items()}
    moved["box_cxcywh"] = target["box_cxcywh"]
    assert loss(params, moved) > after


def test_nothing_is_reversed_at_the_start_of_the_stage() -> None:
    source, target = outputs(8, 0), outputs(8, 50)
    model = aligner.Aligner("adversarial", hidden=4)
    params = model.init(jax.random.key(0), source, target, jnp.float32(0))

    def loss(target: dict[str, jax.Array]) -> jax.Array:
        return sum(model.apply(params, source, target, jnp.float32(0)).values())

    gradient = jax.jit(jax.grad(loss))(target)
    for name in FEATURES:
        np.testing.assert_array_equal(gradient[name], 0.0)
