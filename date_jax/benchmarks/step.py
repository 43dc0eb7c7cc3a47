"""The real training step on random batches: seconds, memory, share of the machine's matmul peak."""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from date_jax import sharding
from date_jax.benchmarks import measure, parts, profile
from date_jax.benchmarks.flops import matmul_flops
from date_jax.data.domains import split_names
from date_jax.data.tokenizer import SPECIAL, WordPieces
from date_jax.networks.layouts import KINDS
from date_jax.step import Step, loss_of_trained, train_step
from date_jax.task import Learner
from date_jax.tasks import TASKS

TARGETS = 4096  # rows of the table of pseudo boxes
QUICK = {"xla_backend_optimization_level": 0}  # for what is not run; the program is the same


def random_domain(config: ConfigDict, rng: np.random.Generator, words: int) -> dict[str, Any]:
    """The part of a batch that is of one domain, without boxes, of random numbers."""
    rows = config.batch_size
    side, length = config.data.image_size, config.data.text_length
    return {
        "image": rng.integers(0, 256, (rows, side, side, 3), np.uint8),
        "text": rng.integers(5, words, (rows, length)).astype(np.int32),
        "text_mask": np.arange(length)[None] < rng.integers(3, length + 1, (rows, 1)),
        "product_id": rng.integers(0, 10 * rows, rows).astype(np.int32),
        "index": rng.integers(0, TARGETS, rows).astype(np.int32),
        "mask": np.ones(rows, bool),
    }


def random_batch(config: ConfigDict, seed: int, words: int) -> dict[str, Any]:
    """A training batch in the shapes of the config's last stage, of random numbers."""
    # The same numbers whatever is drawn after them: the target comes last.
    rng = np.random.default_rng(seed)
    source = random_domain(config, rng, words)
    rows = len(source["image"])
    source["box_cxcywh"] = rng.uniform(0.3, 0.6, (rows, 4)).astype(np.float32)
    source["box_mask"] = np.ones(rows, bool)
    batch = {"source": source}
    if "target" not in batch_shapes(config):
        return batch
    return batch | {"target": random_domain(config, rng, words)}


def with_batch(config: ConfigDict, batch_size: int) -> ConfigDict:
    """A copy of a config for batches of another size."""
    copy = config.copy_and_resolve_references()
    copy.batch_size = batch_size
    return copy


def without_loops(config: ConfigDict) -> ConfigDict:
    """A copy of a config, layers and rows side by side: an analysis counts a loop's inside once."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.model.update(scan=False, remat=False, rows_at_once=0)
    return copy


def batch_shapes(config: ConfigDict) -> dict[str, Any]:
    """The shapes of a training batch of the config's task, such as `random_batch` has."""
    return TASKS[config.task].example(config)


def learner_of(config: ConfigDict) -> Learner:
    """The config's learner for as many made-up words as its vocabulary may have."""
    # Words that no mirror changes, and a row of memory for each target that a batch may name.
    words = [f"word{n}" for n in range(config.data.vocab_size - len(SPECIAL))]
    tokenizer = WordPieces([*SPECIAL, *words], length=config.data.text_length)
    sizes = dict.fromkeys(split_names(config.data.target, "train"), TARGETS)
    return TASKS[config.task].learner(config, tokenizer, sizes)


def learner_and_step(config: ConfigDict, mesh: jax.sharding.Mesh) -> tuple[Learner, Any]:
    """The learner of a config and its training step, for batches like those of `random_batch`."""
    learner = learner_of(config)
    return learner, train_step(config, learner, mesh, batch_shapes(config))


class Compiled(NamedTuple):
    """A step ready to run.

    Attributes:
        learner, step: see `learner_and_step`.
        batch: shapes of what it takes besides the state.
        program: what XLA made of `step.update`.
        seconds: that XLA took.
    """

    learner: Learner
    step: Step
    batch: dict[str, Any]
    program: Any
    seconds: float


def compiled_step(
    config: ConfigDict, mesh: jax.sharding.Mesh, options: dict[str, Any] | None = None
) -> Compiled:
    """The step, compiled for the devices of a mesh; these need not be here.

    Args:
        config: of the run.
        mesh: of `sharding.device_mesh`.
        options: of the compiler.
    """
    learner, step = learner_and_step(config, mesh)
    shapes = batch_shapes(config)
    batch = sharding.sharded_shapes(
        shapes, jax.tree.map(lambda _: sharding.row_sharding(mesh), shapes)
    )
    # Only XLA's time counts: tracing is the same for all devices.
    lowered = step.update.lower(step.shapes, batch)
    begun = time.perf_counter()
    program = lowered.compile(options)
    return Compiled(learner, step, batch, program, time.perf_counter() - begun)


def run(config: ConfigDict, *, rounds: int) -> dict[str, Any]:
    """The report on the step that training runs: seconds, memory, flops, parts.

    Args:
        config: validated.
        rounds: steps that count, after three that warm up.
    """
    mesh = sharding.device_mesh(config.mesh.fsdp)
    compiled = compiled_step(config, mesh)
    batches = random_batches(config, mesh)
    next_step = steps_in_turn(compiled, batches)
    # Memory is read before anything else needs some.
    seconds = measure.seconds(next_step, rounds=rounds)
    peak_bytes = measure.peak_bytes()

    # MFU: the flops that the mathematics asks for, over what the machine could do in that time.
    examples = config.batch_size * len(batches[0])
    flops = step_flops(config, compiled.step, batches[0])
    peak = measure.matmul_peak(jnp.dtype(config.model.dtype), mesh)
    report = {
        "step_seconds": seconds._asdict(),
        "examples_per_second": examples / seconds.median,
        "examples_per_second_per_device": examples / seconds.median / mesh.size,
        "flops_per_step": flops,
        "matmul_peak_flops_per_second": peak,
        "mfu": flops / seconds.median / peak,
        "compile_seconds": compiled.seconds,
        "bytes_per_device": measure.bytes_per_device(compiled.program),
        "peak_bytes": peak_bytes,
        "profile": profile.profile_of(compiled.program, next_step),
    }
    # Parts are measured with the gradient of all parameters, so a frozen one would look too slow.
    if jax.tree.leaves(compiled.step.shapes.frozen):
        other = against_full_training(config, mesh, compiled, batches, rounds=rounds)
        return report | {"against_full_training": other}
    in_parts = parts.seconds_of_parts(
        config, mesh, compiled.learner, compiled.step, batches[0], rounds=max(3, rounds // 4)
    )
    return report | {"parts": in_parts}


def random_batches(config: ConfigDict, mesh: jax.sharding.Mesh) -> list[dict[str, Any]]:
    """Three batches on the mesh, as one alone might stay in a cache."""
    words = config.data.vocab_size
    return [sharding.global_batch(mesh, random_batch(config, seed, words)) for seed in range(3)]


def steps_in_turn(compiled: Compiled, batches: Sequence[Any]) -> Callable[[], Any]:
    """The function that makes the next step of training, as the loop does; gives its metrics."""
    state, turn = compiled.step.init(), 0

    def next_step() -> Any:
        nonlocal state, turn
        state, metrics = compiled.program(state, batches[turn % len(batches)])
        turn += 1
        return metrics

    return next_step


def against_full_training(
    config: ConfigDict,
    mesh: jax.sharding.Mesh,
    frozen: Compiled,
    batches: Sequence[Any],
    *,
    rounds: int,
) -> dict[str, Any]:
    """Seconds and bytes of a step that leaves something as it is, and of one that trains all.

    Args:
        frozen: the former, of `config`.
        rounds: in each both take a step, in turns.
    """
    everything = config.copy_and_resolve_references()
    for kind in KINDS:
        everything.model[kind].train = "all"
    full = compiled_step(everything, mesh)
    # A machine that grows slower is unfair to neither.
    sides = [steps_in_turn(compiled, batches) for compiled in (frozen, full)]
    times = [
        [measure.seconds(side, rounds=1, warm_up=0 if turn else 2).median for side in sides]
        for turn in range(rounds)
    ]
    memory = [measure.bytes_per_device(compiled.program) for compiled in (frozen, full)]
    taken = [sizes["arguments"] + sizes["temporary"] for sizes in memory]
    shapes = frozen.step.shapes
    return {
        "trained_parameters": sum(leaf.size for leaf in jax.tree.leaves(shapes.params)),
        "frozen_parameters": sum(leaf.size for leaf in jax.tree.leaves(shapes.frozen)),
        "step_seconds": statistics.median(ours for ours, _ in times),
        "full_step_seconds": statistics.median(theirs for _, theirs in times),
        "time_ratio": statistics.median(ours / theirs for ours, theirs in times),
        "bytes_per_device": taken[0],
        "full_bytes_per_device": taken[1],
        "memory_ratio": taken[0] / taken[1],
    }


def step_flops(config: ConfigDict, step: Step, batch: Any) -> float:
    """The flops of the matrix products of one step.

    A layer that is computed twice, to save memory, counts once.
    """
    learner = learner_of(without_loops(config))

    def gradient(params: Any, frozen: Any, memory: Any, batch: Any) -> Any:
        """The gradient of the loss, which is all of a step that has products."""
        begin = {"step": jnp.zeros((), jnp.int32), "rng": jax.random.key(0)}
        loss = functools.partial(loss_of_trained, learner)
        return jax.grad(loss, has_aux=True)(params, frozen, memory, batch, **begin)

    shapes = step.shapes
    return matmul_flops(gradient, shapes.params, shapes.frozen, shapes.memory, batch)
