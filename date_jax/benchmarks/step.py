"""The real training step on random batches: seconds, memory, share of the machine's matmul peak."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from date_jax import augment, optim, sharding
from date_jax.benchmarks import measure, profile
from date_jax.benchmarks.flops import matmul_flops
from date_jax.data.domains import split_names
from date_jax.data.tokenizer import SPECIAL, Tokenizer
from date_jax.date.aligner import FEATURES, Aligner
from date_jax.date.supervised import cooperation_terms
from date_jax.pairs.tiles import map_chunks
from date_jax.step import Step, optimizer, train_step
from date_jax.task import Learner
from date_jax.tasks import TASKS

TARGETS = 4096  # rows of the table of pseudo boxes
QUICK = {"xla_backend_optimization_level": 0}  # for what is not run; the program is the same


def random_domain(config: ConfigDict, rng: np.random.Generator, words: int) -> dict[str, Any]:
    """One domain's batch."""
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
    """The same config for batches of another size."""
    changed = config.copy_and_resolve_references()
    changed.batch_size = batch_size
    return changed


def without_loops(config: ConfigDict) -> ConfigDict:
    """The same step, layers and rows side by side: an analysis counts a loop's inside once."""
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        changed.model.update(scan=False, remat=False, rows_at_once=0)
    return changed


def batch_shapes(config: ConfigDict) -> dict[str, Any]:
    """The shapes of `random_batch`."""
    return TASKS[config.task].example(config)


def learner_of(config: ConfigDict) -> Learner:
    """The config's learner for as many made-up words as its vocabulary may have."""
    words = [f"word{n}" for n in range(config.data.vocab_size - len(SPECIAL))]
    tokenizer = Tokenizer([*SPECIAL, *words], length=config.data.text_length)
    sizes = dict.fromkeys(split_names(config.data.target, "train"), TARGETS)
    return TASKS[config.task].learner(config, tokenizer, sizes)


def learner_and_step(config: ConfigDict, mesh: jax.sharding.Mesh) -> tuple[Learner, Any]:
    """The learner and its step, for batches like `random_batch`'s."""
    learner = learner_of(config)
    return learner, train_step(config, learner, mesh, batch_shapes(config))


class Compiled(NamedTuple):
    """A step ready to run.

    Attributes:
        learner, step: see `learner_and_step`.
        batch: shapes of what it takes beside the state.
        program: what XLA made of `step.update`.
        seconds: that XLA took.
    """

    learner: Learner
    step: Step
    batch: dict[str, Any]
    program: Any
    seconds: float


def compiled(
    config: ConfigDict, mesh: jax.sharding.Mesh, options: dict[str, Any] | None = None
) -> Compiled:
    """The step, compiled for the devices of a mesh, which need not be here.

    Args:
        options: of the compiler.
    """
    learner, step = learner_and_step(config, mesh)
    shapes = batch_shapes(config)
    batch = sharding.sharded_shapes(
        shapes, jax.tree.map(lambda _: sharding.row_sharding(mesh), shapes)
    )
    lowered = step.update.lower(step.shapes, batch)
    begun = time.perf_counter()
    program = lowered.compile(options)
    return Compiled(learner, step, batch, program, time.perf_counter() - begun)


def no_swaps(words: int) -> jax.Array:
    """The table of words that a mirrored picture changes, where none does."""
    return jnp.arange(words, dtype=jnp.int32)


def run(config: ConfigDict, *, rounds: int) -> dict[str, Any]:
    """Compiles and times the step that training runs.

    Args:
        config: validated.
        rounds: steps that count, after three that warm up.
    """
    mesh = sharding.device_mesh(config.mesh.fsdp)
    words = config.data.vocab_size
    learner, step, _, program, compile_seconds = compiled(config, mesh)
    batches = [sharding.global_batch(mesh, random_batch(config, n, words)) for n in range(3)]
    state = step.init()
    turn = 0

    def one() -> Any:
        nonlocal state, turn
        state, metrics = program(state, batches[turn % 3])
        turn += 1
        return metrics

    taken = measure.seconds(one, rounds=rounds)
    peak_bytes = measure.peak_bytes()
    examples = config.batch_size * len(batches[0])
    flops = step_flops(config, step, batches[0])
    peak = measure.matmul_peak(jnp.dtype(config.model.dtype), mesh)
    return {
        "step_seconds": taken._asdict(),
        "examples_per_second": examples / taken.median,
        "examples_per_second_per_device": examples / taken.median / mesh.size,
        "flops_per_step": flops,
        "matmul_peak_flops_per_second": peak,
        "mfu": flops / taken.median / peak,
        "compile_seconds": compile_seconds,
        "bytes_per_device": measure.bytes_per_device(program),
        "peak_bytes": peak_bytes,
        "profile": profile.of_calls(program, one),
        "parts": parts(config, mesh, learner, step, batches[0], rounds=max(3, rounds // 4)),
    }


def step_flops(config: ConfigDict, step: Step, batch: Any) -> float:
    """Of the matrix products of one step, without the layers that are done twice to save memory."""
    learner = learner_of(without_loops(config))

    def gradient(params: Any, memory: Any, batch: Any) -> Any:
        begin = {"step": jnp.zeros((), jnp.int32), "rng": jax.random.key(0)}
        return jax.grad(learner.loss, has_aux=True)(params, memory, batch, **begin)

    return matmul_flops(gradient, step.shapes.params, step.shapes.memory, batch)


def parts(
    config: ConfigDict,
    mesh: jax.sharding.Mesh,
    learner: Learner,
    step: Step,
    batches: dict[str, Any],
    *,
    rounds: int,
) -> dict[str, float]:
    """Seconds of parts of the step, each alone and with its gradient; they need not add up, since
    XLA joins neighbours.

    Args:
        batches: one of each domain, on the mesh.
        rounds: that count of each.
    """
    batch, domains = batches["source"], len(batches)
    unchanged = no_swaps(config.data.vocab_size)
    state = step.init()
    params = state.params

    def timed(function: Callable[..., Any], *args: Any) -> float:
        program = jax.jit(function).lower(*args).compile()
        return measure.seconds(lambda: program(*args), rounds=rounds, warm_up=2).median

    def embedded(name: str) -> Callable[..., Any]:
        def of(params: Any, rows: Any, _: Any) -> dict[str, jax.Array]:
            return {name: learner.predict[name](params, rows)}

        def total(params: Any, batch: Any) -> jax.Array:
            with sharding.mesh_context(mesh):
                found = map_chunks(of, params, batch, at_once=config.model.rows_at_once)
            return found[name].astype(jnp.float32).sum()

        return jax.grad(total)

    def view(batch: Any) -> Any:
        at = {"step": jnp.int32(config.steps), "rng": jax.random.key(0)}
        return augment.strong_view(
            batch, batch["box_cxcywh"], **at, config=config, swap_table=unchanged
        )

    rng = np.random.default_rng(1)
    values = (*FEATURES, "query_embedding", "image_embedding")
    made = {name: rng.standard_normal((config.batch_size, config.model.width)) for name in values}
    made |= {"box_cxcywh": rng.uniform(0.2, 0.6, (config.batch_size, 4))}
    out = sharding.global_batch(mesh, {name: x.astype(np.float32) for name, x in made.items()})

    def supervised(out: Any) -> Any:
        seeker = {"scale": jnp.float32(14.3), "bias": jnp.float32(-10.0)}
        terms = cooperation_terms(out | seeker, batch, batch["box_cxcywh"], config)
        return terms["loss"]

    def aligned(out: Any) -> Any:
        align = Aligner(config.aligner.kind, config.aligner.unbiased, config.aligner.hidden)
        moved = {name: x + 0.1 for name, x in out.items()}
        terms: Any = align.apply({"params": params["aligner"]}, out, moved, jnp.float32(0.5))
        return sum(terms.values())

    def on_mesh(loss: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def gradient(out: Any) -> Any:
            with sharding.mesh_context(mesh):
                return jax.grad(loss)(out)

        return gradient

    def averaged(average: Any, params: Any) -> Any:
        return optim.moving_average(average, params, step=jnp.int32(1), decay=config.optim.ema)

    tx = optimizer(config)

    def updated(params: Any, opt_state: Any) -> Any:
        updates, opt_state = tx.update(params, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    image = timed(embedded("image_embedding"), params, batch)
    text = timed(embedded("query_embedding"), params, batch)
    whole = timed(embedded("box_cxcywh"), params, batch)
    has_aligner = domains == 2 and config.aligner.kind != "none"
    return {
        "augmentation": domains * timed(view, batch),
        "image extractor": domains * image,
        "text extractor": domains * text,
        "fusion": domains * max(0.0, whole - image - text),
        "losses": domains * timed(on_mesh(supervised), out),
        "aligner": timed(on_mesh(aligned), out) if has_aligner else 0.0,
        "optimizer": timed(updated, params, state.opt_state),
        "moving average": timed(averaged, state.ema, params),
    }
