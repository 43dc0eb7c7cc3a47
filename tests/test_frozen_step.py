"""The gradient step where training leaves parts of the extractors as they are."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from date_jax import job, sharding
from date_jax.benchmarks import step as step_benchmark
from date_jax.benchmarks.flops import matmul_flops
from date_jax.date import adaptive, between_steps, supervised
from date_jax.networks.bert import TextExtractor
from date_jax.partition import merged, partition
from date_jax.run import progress
from date_jax.step import State, loss_of_trained, optimizer, train_step
from date_jax.tasks import TASKS
from tests.date.test_tasks import plain_view
from tests.test_train_step import ROWS, VOCAB, batch_of, domain, first_state


@pytest.fixture
def config(tiny_config: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> ConfigDict:
    """Extractors of which only the ends are trained; every update moves something."""
    monkeypatch.setattr("date_jax.augment.strong_view", plain_view)
    tiny_config.batch_size = 8
    tiny_config.model.rows_at_once = 0
    tiny_config.model.text.layers = 2
    tiny_config.model.image.train, tiny_config.model.text.train = "head", "last_1"
    tiny_config.optim.update(warmup=0.0, backbone_scale=0.5)
    return tiny_config


class Trained(NamedTuple):
    """The states before and after two steps on the source, the first as host arrays."""

    before: State
    after: State
    key: jax.Array


def source_of(config: ConfigDict, seed: int) -> dict[str, Any]:
    return {"source": domain(config, seed, boxes=True)}


def supervised_learner(config: ConfigDict) -> Any:
    return supervised.learner(config, VOCAB, jnp.arange(VOCAB, dtype=jnp.int32))


def two_steps(config: ConfigDict, mesh: jax.sharding.Mesh) -> Trained:
    step = train_step(config, supervised_learner(config), mesh, source_of(config, 0))
    state = step.init()
    before = jax.device_get(state.replace(rng=jnp.zeros(())))
    key = jax.random.wrap_key_data(np.asarray(jax.random.key_data(state.rng)))
    update = step.update.lower(state, sharding.global_batch(mesh, source_of(config, 0))).compile()
    for seed in range(2):
        state, _ = update(state, sharding.global_batch(mesh, source_of(config, seed)))
    return Trained(before, state, key)


def paths(tree: Any) -> set[str]:
    """The paths of all parameters of the network that have a leaf anywhere in a tree."""
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return {name[name.index("['model']") :] for name in names if "['model']" in name}


def difference(one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), one, other)


def is_same(one: Any, other: Any) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, jax.device_get(one), jax.device_get(other)))


def test_training_an_end_on_eight_devices_is_training_all_on_one_with_no_gradient_below_it(
    config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sharding, "_MIN_SHARDED", 256)  # so that tiny parameters are cut too
        before, after, key = two_steps(config, sharding.device_mesh(2))
    assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(after.frozen))
    # The oracle: the gradient of all, 0 where nothing is trained, and the optimizer on all of it.
    learner, tx = supervised_learner(config), optimizer(config)
    ones = jax.tree.map(lambda _: 1.0, before.params)
    zeros = jax.tree.map(lambda _: 0.0, before.frozen)
    is_trained = merged(ones, zeros)
    params = merged(before.params, before.frozen)
    opt_state = tx.init(params)
    gradient_of = jax.jit(jax.grad(learner.loss, has_aux=True))
    for seed in range(2):
        begin = {"step": jnp.int32(seed), "rng": jax.random.fold_in(key, seed)}
        gradient, _ = gradient_of(params, before.memory, source_of(config, seed), **begin)
        gradient = jax.tree.map(jnp.multiply, gradient, is_trained)
        updates, opt_state = tx.update(gradient, opt_state, params)
        trained, _ = partition(optax.apply_updates(params, updates), is_trained)
        params = merged(trained, before.frozen)
    # The averages of the gradients behind the clip by their norm, and where they have led.
    average, _ = partition(optax.tree.get(opt_state, "mu"), is_trained)
    gap = difference(optax.tree.get(after.opt_state, "mu"), average)
    assert optax.tree.norm(gap) < 1e-4 * optax.tree.norm(average)
    expected, _ = partition(params, is_trained)
    moved = optax.tree.norm(difference(expected, before.params))
    # Not each alone: what has no gradient (the keys' biases) Adam moves by the noise in its zeros.
    assert optax.tree.norm(difference(after.params, expected)) < 2e-2 * moved

    # Nothing but `frozen` holds what is frozen, and that is what it was.
    assert is_same(after.frozen, before.frozen)
    frozen = paths(after.frozen)
    assert any("'word_embedding'" in path for path in frozen)
    for tree in (after.params, after.opt_state, after.ema, after.memory):
        assert not paths(tree) & frozen
    assert paths(after.params) == paths(after.opt_state) == paths(after.ema)


def test_a_frozen_extractor_costs_its_forward_pass_alone(config: ConfigDict) -> None:
    config.model.rows_at_once = 4
    config.model.image.update(depths=(4,), heads=(4,), kind="vit", width=128)

    def flops(train: str) -> float:
        config.model.image.train = config.model.text.train = train
        learner, mesh = supervised_learner(config), sharding.device_mesh()
        shapes = train_step(config, learner, mesh, source_of(config, 0)).shapes
        loss = jax.grad(functools.partial(loss_of_trained, learner), has_aux=True)
        gradient = functools.partial(loss, step=jnp.int32(0), rng=jax.random.key(0))
        arguments = shapes.params, shapes.frozen, shapes.memory, source_of(config, 0)
        return matmul_flops(gradient, *arguments)

    # Forward and twice as much backward; in chunks forward comes twice, but for what is frozen.
    everything, nothing = flops("all"), flops("none")
    assert nothing < 0.4 * everything
    assert nothing < flops("last_1") < everything


def test_the_compiled_step_has_no_backward_pass_of_a_frozen_extractor(config: ConfigDict) -> None:
    config.model.image.update(depths=(2,), heads=(2,), kind="vit", width=128)
    mesh = sharding.device_mesh(1, jax.devices()[:1])

    def flops(train: str) -> float:
        config.model.image.train = config.model.text.train = train
        step = train_step(config, supervised_learner(config), mesh, source_of(config, 0))
        lowered = step.update.lower(step.shapes, source_of(config, 0))
        program = lowered.compile({"xla_backend_optimization_level": 0})
        return program.cost_analysis()["flops"]

    assert flops("none") < 0.45 * flops("all")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_takes_a_step_with_frozen_extractors(
    task: str, request: pytest.FixtureRequest
) -> None:
    fixture = {"capture": "tiny_capture", "same_style": "tiny_same_style"}.get(task, "tiny_config")
    config = request.getfixturevalue(fixture)
    config.task = task
    for kind in {"image", "text"} & {*config.model}:
        config.model[kind].train = "none"
    learner = learner_of_any(config)
    step = train_step(config, learner, sharding.device_mesh(), TASKS[task].example(config))
    frozen = paths(step.shapes.frozen)
    assert {path.split("'")[3] for path in frozen} == {
        f"{kind}_extractor" for kind in {"image", "text"} & {*config.model}
    }
    assert not frozen & paths((step.shapes.params, step.shapes.opt_state, step.shapes.ema))
    state, metrics = jax.eval_shape(step.update, step.shapes, TASKS[task].example(config))
    assert jax.tree.structure(state) == jax.tree.structure(step.shapes)
    assert "gradient_norm" in metrics


def learner_of_any(config: ConfigDict) -> Any:
    from date_jax.data.tokenizer import tokenizer_of_texts

    texts = ["a striped red mug", "the blue bag", "one green lamp on the left", "the shoe"]
    tokenizer = tokenizer_of_texts(texts, size=200, length=config.data.text_length)
    return TASKS[config.task].learner(config, tokenizer, {})


def test_a_frozen_teacher_remembers_what_is_trained_and_draws_with_all(
    config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.pseudo_boxes.teacher = "frozen"
    mesh = sharding.device_mesh()
    learner = adaptive.learner(config, VOCAB, jnp.arange(VOCAB, dtype=jnp.int32), ROWS)
    state = first_state(train_step(config, learner, mesh, batch_of(config, 0)), mesh)
    assert jax.tree.structure(state.memory.sharded["teacher"]) == jax.tree.structure(state.params)

    # A refresh, of which only the networks that it draws and ranks with are looked at.
    seen: list[Any] = []

    def table_maker(*_: Any, **__: Any) -> Any:
        def table(params: Any, teacher: Any, *_: Any) -> Any:
            seen.extend((params, teacher))
            return jax.device_get(state.memory.replicated["pseudo_boxes"]), {}

        return table

    monkeypatch.setattr(between_steps, "table_maker", table_maker)
    monkeypatch.setattr(between_steps, "split_names", lambda *_: [])
    between = between_steps.between(config, None, learner, mesh, folder=Path(), say=print)
    start = next(step for step in range(config.steps) if between.due(step))
    average = jax.tree.map(lambda x: x + 1, state.params)
    change = between.run(state.replace(ema=average), start, bool)
    assert is_same(seen[0], merged(state.params, state.frozen))
    assert is_same(seen[1], merged(average, state.frozen))
    assert is_same(change.memory.sharded["teacher"], average)


def test_a_benchmark_tells_the_step_from_one_that_trains_all(
    config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = sharding.device_mesh(1, jax.devices()[:1])
    config.task, config.data.target = "date", ""
    config.model.image.train = config.model.text.train = "none"
    quick = functools.partial(step_benchmark.compiled_step, options=step_benchmark.QUICK)
    monkeypatch.setattr(step_benchmark, "compiled_step", quick)
    # No step is run: how long one takes here says nothing.
    monkeypatch.setattr(step_benchmark, "steps_in_turn", lambda *_: lambda: ())
    frozen = step_benchmark.compiled_step(config, mesh)
    batches = step_benchmark.random_batches(config, mesh)
    report = step_benchmark.against_full_training(config, mesh, frozen, batches, rounds=2)
    assert report["memory_ratio"] < 1
    assert report["time_ratio"] > 0
    counts = report["trained_parameters"], report["frozen_parameters"]
    shapes = frozen.step.shapes
    assert sum(counts) == sum(x.size for x in jax.tree.leaves((shapes.ema, shapes.frozen)))


def test_frozen_layers_drop_no_units() -> None:
    def outputs(frozen: int, *, train: bool) -> Any:
        options: dict[str, Any] = {"vocab_size": 9, "layers": 2, "width": 8, "heads": 2}
        model = TextExtractor(**options, max_length=4, dropout=0.5, frozen=frozen)
        text, mask = jnp.arange(8).reshape(2, 4), jnp.ones((2, 4), bool)
        params = model.init(jax.random.key(0), text, mask)
        rngs = {"dropout": jax.random.key(1)}
        return model.apply(params, text, mask, train=train, rngs=rngs)

    assert is_same(outputs(2, train=True), outputs(0, train=False))
    assert not is_same(outputs(1, train=True), outputs(0, train=False))
    assert not is_same(outputs(1, train=True), outputs(0, train=True))


def test_a_network_that_would_stay_random_is_told(config: ConfigDict) -> None:
    config.model.image.train, config.model.text.train = "none", "all"
    step = train_step(
        config, supervised_learner(config), sharding.device_mesh(), source_of(config, 0)
    )
    frozen = step.shapes.frozen
    warnings = job.warnings_of_frozen(config.model, frozen, {})
    assert len(warnings) == 1
    assert "config.model.image.train=none keeps" in warnings[0]
    # What a published file has not is [REP], which `head` would train.
    published = {
        f"image_extractor/{name}" for name in names_of_extractor(frozen) if "rep" not in name
    }
    (warning,) = job.warnings_of_frozen(config.model, frozen, published)
    assert "keeps 2 arrays of random numbers, e.g. rep; name weights" in warning
    assert not job.warnings_of_frozen(
        config.model,
        frozen,
        published | {"image_extractor/rep", "image_extractor/stage1_block0/rep_bias"},
    )


def names_of_extractor(params: Any) -> Any:
    return flatten_dict(params["model"]["image_extractor"], sep="/")


def test_the_console_says_how_much_is_trained(config: ConfigDict, tmp_path: Path) -> None:
    step = train_step(
        config, supervised_learner(config), sharding.device_mesh(), source_of(config, 0)
    )
    trained, frozen = step.shapes.params, step.shapes.frozen
    count, frozen_count = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (trained, frozen))
    head, modules = progress.parameter_lines(trained, frozen, tmp_path / "parameters.txt")
    assert head == (
        f"{count + frozen_count:,} parameters: {count:,} trained, {frozen_count:,} frozen "
        "(all of them: parameters.txt)"
    )
    assert " frozen), " in modules
    before, _, after = (tmp_path / "parameters.txt").read_text().partition("Frozen:")
    assert "patch_embedding" in after
    assert "patch_embedding" not in before
