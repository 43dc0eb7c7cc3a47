"""One gradient step over the mesh, and the state it changes. Needs no input pipeline."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array
from ml_collections import ConfigDict

from date_jax import optim, sharding
from date_jax.date import aligner
from date_jax.task import Batch, Task


@flax.struct.dataclass
class State:
    """All that training changes. The fields are `Any`: they hold shapes and shardings too.

    Attributes:
        step: int32, steps done; skipped updates count.
        params: the network's.
        opt_state: the optimizer's.
        rng: the run's key, never changed; step n uses `fold_in(rng, n)`.
        ema: moving average of `params`, which is what is evaluated.
        pseudo_boxes: `box_cxcywh [N 4]` and `weight [N]` of the target's training rows.
        teacher: parameters of the frozen teacher; None where `ema` teaches.
        queue: features of earlier batches for the aligner; None where it looks at one batch.
    """

    step: Any
    params: Any
    opt_state: Any
    rng: Any
    ema: Any
    pseudo_boxes: Any
    teacher: Any
    queue: Any


def initial_state(
    config: ConfigDict, task: Task, tx: optax.GradientTransformation, batch: Any, table: Any
) -> State:
    """The state before the first step; traced, so that every array is born where it will live.

    Args:
        batch: zeros, or shapes, like a training batch.
        table: the pseudo boxes to begin with.
    """
    init_key, rng = jax.random.split(jax.random.key(config.seed))
    params = task.init(init_key, batch)
    frozen = "pseudo_boxes" in config and config.pseudo_boxes.teacher == "frozen"
    rows = config.aligner.queue if "aligner" in config else 0
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        rng=rng,
        ema=jax.tree.map(jnp.array, params),
        pseudo_boxes=jax.tree.map(jnp.asarray, table),
        teacher=jax.tree.map(jnp.array, params) if frozen else None,
        queue=aligner.empty_queue(rows, config.model.width) if rows else None,
    )


def updated(
    state: State, batch: Batch, *, task: Task, tx: optax.GradientTransformation, decay: float
) -> tuple[State, dict[str, Array]]:
    """One gradient step, and the loss's terms. An update that is not finite is left out.

    Args:
        decay: of the moving average.
    """
    rng = jax.random.fold_in(state.rng, state.step)
    joined = with_pseudo_boxes(batch, state.pseudo_boxes)
    if state.queue is not None:
        joined = {**joined, "queue": state.queue}
    (loss, metrics), gradient = jax.value_and_grad(task.loss, has_aux=True)(
        state.params, joined, step=state.step, rng=rng
    )
    features = metrics.pop("features", None)
    queue = state.queue if features is None else aligner.remembered(state.queue, features)
    updates, opt_state = tx.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = optim.moving_average(state.ema, params, step=state.step, decay=decay)
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(norm) & jnp.isfinite(loss)
    old = (state.params, state.opt_state, state.ema, state.queue)
    params, opt_state, ema, queue = jax.tree.map(
        lambda after, before: jnp.where(finite, after, before), (params, opt_state, ema, queue), old
    )
    state = dataclasses.replace(
        state, step=state.step + 1, params=params, opt_state=opt_state, ema=ema, queue=queue
    )
    return state, metrics | {"gradient_norm": norm, "skipped": ~finite}


def with_pseudo_boxes(batch: Batch, table: dict[str, Array]) -> Batch:
    """The batch with each target row's entry of the table."""
    if "target" not in batch:
        return batch
    index = batch["target"]["index"]
    joined = {
        "pseudo_box_cxcywh": table["box_cxcywh"][index],
        "pseudo_weight": table["weight"][index],
    }
    return {**batch, "target": {**batch["target"], **joined}}


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """What `config.optim` asks for over `config.steps`."""
    schedule = optim.learning_rate_schedule(
        peak=config.optim.learning_rate,
        steps=config.steps,
        warmup=config.optim.warmup,
        schedule=config.optim.schedule,
    )
    return optim.optimizer(
        schedule,
        beta2=config.optim.beta2,
        weight_decay=config.optim.weight_decay,
        clip=config.optim.clip,
        backbone_scale=config.optim.backbone_scale,
    )


class Step(NamedTuple):
    """What a mesh and a task make of a training step.

    Attributes:
        shapes: of the state, each with the sharding it lives in.
        init: `() -> State`, before the first step.
        update: `(state, batch) -> (state, metrics)`; the state given is used up.
    """

    shapes: State
    init: Callable[[], State]
    update: Callable[[State, Batch], tuple[State, dict[str, Array]]]


def train_step(
    config: ConfigDict, task: Task, mesh: jax.sharding.Mesh, batch: Batch, table: Any
) -> Step:
    """The step of `task`, compiled when it is first called.

    Args:
        batch: arrays in the shapes of a training batch; their values do not matter.
        table: the pseudo boxes to begin with.
    """
    tx = optimizer(config)

    def init() -> State:
        return initial_state(config, task, tx, batch, table)

    shapes = jax.eval_shape(init)
    shardings = sharding.tree_shardings(mesh, shapes)
    # Read by index, and compared, from every row of the batch.
    whole = {
        name: jax.tree.map(lambda _: sharding.replicated_sharding(mesh), getattr(shapes, name))
        for name in ("pseudo_boxes", "queue")
    }
    shardings = dataclasses.replace(shardings, **whole)

    def update(state: State, batch: Batch) -> tuple[State, dict[str, Array]]:
        with sharding.mesh_context(mesh):
            return updated(state, batch, task=task, tx=tx, decay=config.optim.ema)

    return Step(
        shapes=sharding.sharded_shapes(shapes, shardings),
        init=jax.jit(init, out_shardings=shardings),
        update=jax.jit(
            update, donate_argnums=0, out_shardings=(shardings, sharding.replicated_sharding(mesh))
        ),
    )
