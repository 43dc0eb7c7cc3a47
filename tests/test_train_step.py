"""The gradient step with the real, tiny task, on batches made by hand."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from date_jax import sharding
from date_jax.date import adaptive
from date_jax.step import State, Step, train_step
from tests.date.test_tasks import plain_view

ROWS = 30  # of the target's training split
VOCAB = 50


def domain(config: ConfigDict, seed: int, *, boxes: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows, side, length = config.batch_size, config.data.image_size, config.data.text_length
    batch = {
        "image": rng.integers(0, 255, (rows, side, side, 3), np.uint8),
        "text": rng.integers(5, VOCAB, (rows, length)).astype(np.int32),
        "text_mask": np.arange(length)[None] < rng.integers(3, length, (rows, 1)),
        "product_id": rng.integers(0, 9, rows).astype(np.int32),
        "index": rng.integers(0, ROWS, rows).astype(np.int32),
        "mask": np.ones(rows, bool),
    }
    if boxes:
        batch["box_cxcywh"] = rng.uniform(0.3, 0.6, (rows, 4)).astype(np.float32)
        batch["box_mask"] = rng.random(rows) < 0.8
    return batch


def batch_of(config: ConfigDict, seed: int) -> dict[str, Any]:
    return {
        "source": domain(config, seed, boxes=True),
        "target": domain(config, seed + 100, boxes=False),
    }


def step_on(config: ConfigDict, mesh: jax.sharding.Mesh) -> Step:
    learner = adaptive.learner(config, VOCAB, jnp.arange(VOCAB, dtype=jnp.int32), ROWS)
    return train_step(config, learner, mesh, batch_of(config, 0))


def first_state(step: Step, mesh: jax.sharding.Mesh) -> State:
    """The state before the first step, as it would be in stage 3: half of the rows have a box."""
    state, rng = step.init(), np.random.default_rng(7)
    table = {
        "box_cxcywh": rng.uniform(0.3, 0.6, (ROWS, 4)).astype(np.float32),
        "weight": (np.arange(ROWS) % 2).astype(np.float32),
    }
    replicated = {
        **state.memory.replicated,
        "pseudo_boxes": sharding.device_arrays(table, sharding.replicated_sharding(mesh)),
    }
    return dataclasses.replace(state, memory=state.memory._replace(replicated=replicated))


def steps(config: ConfigDict, mesh: jax.sharding.Mesh, count: int) -> tuple[State, list[dict]]:
    step = step_on(config, mesh)
    state, metrics = first_state(step, mesh), []
    given = sharding.global_batch(mesh, batch_of(config, 0))
    update = step.update.lower(state, given).compile()
    for seed in range(count):
        state, each = update(state, sharding.global_batch(mesh, batch_of(config, seed)))
        metrics.append(jax.device_get(each))
    return state, metrics


def bytes_on_a_device(tree: Any) -> int:
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def test_eight_devices_learn_what_one_learns(
    tiny_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "_MIN_SHARDED", 256)  # so that tiny parameters are cut too
    tiny_config.aligner.queue = 24
    many, many_metrics = steps(tiny_config, sharding.device_mesh(2), 3)
    one, one_metrics = steps(tiny_config, sharding.device_mesh(1, jax.devices()[:1]), 3)
    cut = [leaf for leaf in jax.tree.leaves(many.params) if not leaf.is_fully_replicated]
    assert len(cut) > 5
    for of_many, of_one in ((many.params, one.params), (many.opt_state, one.opt_state)):
        assert bytes_on_a_device(of_many) < 0.6 * bytes_on_a_device(of_one)
    for of_many, of_one in zip(many_metrics, one_metrics, strict=True):
        assert of_many.keys() == of_one.keys()
        for name, value in of_one.items():
            assert of_many[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
    # Not each alone: what has no gradient (the keys' biases) Adam moves by the noise in its zeros.
    apart = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), many.params, one.params)
    assert optax.tree.norm(apart) < 1e-4 * optax.tree.norm(jax.device_get(one.params))
    queue, expected = (state.memory.replicated["queue"] for state in (many, one))
    assert int(queue["filled"]) == int(expected["filled"]) == 24
    for side in ("source", "target"):
        for name, rows in expected[side].items():
            np.testing.assert_allclose(queue[side][name], rows, 1e-4, 1e-4)


def test_a_batch_in_chunks_has_the_loss_and_gradient_of_the_whole_in_less_memory(
    tiny_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Views are made before a batch is cut, and are half of what there is to compile.
    monkeypatch.setattr("date_jax.augment.strong_view", plain_view)
    mesh = sharding.device_mesh(devices=jax.devices()[:2])
    tiny_config.batch_size = 32
    found, taken = {}, {}
    for rows in (0, 3):  # 3 does not divide the 16 of a device: 2 are taken
        tiny_config.model.rows_at_once = rows
        step = step_on(tiny_config, mesh)
        given = sharding.global_batch(mesh, batch_of(tiny_config, 0))
        update = step.update.lower(step.shapes, given).compile()
        taken[rows] = update.memory_analysis().temp_size_in_bytes
        state, metrics = update(first_state(step, mesh), given)
        found[rows] = jax.device_get((state.opt_state, metrics))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), found[3], found[0])
    assert taken[3] < 0.6 * taken[0]


def test_an_update_that_is_not_finite_is_left_out(
    tiny_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("date_jax.augment.strong_view", plain_view)
    mesh = sharding.device_mesh()
    step = step_on(tiny_config, mesh)
    state = first_state(step, mesh)
    before = jax.device_get(state.params)
    poisoned = batch_of(tiny_config, 0)
    poisoned["source"]["box_cxcywh"][:] = np.nan
    state, metrics = step.update(state, sharding.global_batch(mesh, poisoned))
    assert bool(metrics["skipped"])
    assert int(state.step) == 1
    for tree in (state.params, state.ema):
        assert jax.tree.all(jax.tree.map(np.array_equal, jax.device_get(tree), before))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(jax.device_get(state.opt_state)))
    # The optimizer counts the updates that its averages hold, the state all steps.
    state, metrics = step.update(state, sharding.global_batch(mesh, batch_of(tiny_config, 1)))
    assert not bool(metrics["skipped"])
    assert int(state.step) == 2
    counts = [int(count) for _, count in optax.tree.get_all_with_path(state.opt_state, "count")]
    assert counts == [1, 1]  # of Adam, and of the learning rate's schedule


def test_memory_lives_where_the_learner_says(
    tiny_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "_MIN_SHARDED", 256)
    mesh = sharding.device_mesh(2)
    tiny_config.aligner.queue = 24
    assert not step_on(tiny_config, mesh).shapes.memory.sharded
    tiny_config.pseudo_boxes.teacher = "frozen"
    shapes = step_on(tiny_config, mesh).shapes
    assert shapes.memory.replicated.keys() == {"pseudo_boxes", "queue"}
    for leaf in jax.tree.leaves(shapes.memory.replicated):
        assert leaf.sharding.is_fully_replicated
    # A frozen teacher is cut as the parameters are.
    teacher = shapes.memory.sharded["teacher"]
    assert jax.tree.map(lambda leaf: leaf.sharding, teacher) == jax.tree.map(
        lambda leaf: leaf.sharding, shapes.params
    )
