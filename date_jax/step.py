"""One gradient step over the mesh, and the state it changes. Needs no input pipeline."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array
from ml_collections import ConfigDict

from date_jax import optim, sharding
from date_jax.networks.freezing import trained_mask
from date_jax.networks.layouts import published_mask
from date_jax.partition import merged, partition
from date_jax.task import Aux, Batch, Learner, Memory, Params


@flax.struct.dataclass
class State:
    """All that training changes. The fields are `Any`: they hold shapes and shardings too.

    Attributes:
        step: int32, steps done; skipped updates count.
        params: the learner's that are trained; `partition.merged(params, frozen)` are all.
        opt_state: the optimizer's.
        rng: the run's key, never changed; step n uses `fold_in(rng, n)`.
        ema: moving average of `params`, which is what is evaluated.
        memory: the learner's, see `task.Memory`.
        frozen: the learner's parameters that no step changes, see `freezing.trained_mask`. They
            have no place in `opt_state`, in `ema` and in the gradient.
    """

    step: Any
    params: Any
    opt_state: Any
    rng: Any
    ema: Any
    memory: Any
    frozen: Any = dataclasses.field(default_factory=dict)


def initial_state(
    config: ConfigDict, learner: Learner, tx: optax.GradientTransformation, batch: Any
) -> State:
    """The state before the first step; traced, so that every array is born where it will live.

    Args:
        batch: the shapes of a training batch.
    """
    init_key, rng = jax.random.split(jax.random.key(config.seed))
    params, memory = learner.init(init_key, batch)
    params, frozen = partition(params, trained_mask(config.model, params))
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        rng=rng,
        ema=jax.tree.map(jnp.array, params),
        memory=memory,
        frozen=frozen,
    )


def loss_of_trained(
    learner: Learner,
    params: Params,
    frozen: Params,
    memory: Memory,
    batch: Batch,
    *,
    step: Array,
    rng: Array,
) -> tuple[Array, Aux]:
    """The learner's loss as a function of the parameters that are trained, see `task.Loss`.

    Its gradient needs no backward pass through layers below the lowest trained one.
    """
    return learner.loss(merged(params, frozen), memory, batch, step=step, rng=rng)


def updated_state(
    state: State,
    batch: Batch,
    *,
    learner: Learner,
    tx: optax.GradientTransformation,
    decay: float,
) -> tuple[State, dict[str, Array]]:
    """The state after one gradient step, and the loss's terms.

    An update that is not finite is left out: only the step is counted. AdamW's count stays with the
    updates that its averages hold, as their correction needs it, and the learning rate goes by that
    count. After 10 such steps of 1,000, a cosine ends at 0.0003 of its peak, not at 0.

    Args:
        decay: of the moving average.
    """
    # The gradient, under the key of this step.
    rng = jax.random.fold_in(state.rng, state.step)
    loss_of = jax.value_and_grad(functools.partial(loss_of_trained, learner), has_aux=True)
    (loss, aux), gradient = loss_of(
        state.params, state.frozen, state.memory, batch, step=state.step, rng=rng
    )
    # The update, and the average that is evaluated.
    updates, opt_state = tx.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = optim.moving_average(state.ema, params, step=state.step, decay=decay)
    # One number that is not finite spoils all that follows, so such a step changes nothing.
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(norm) & jnp.isfinite(loss)
    before = (state.params, state.opt_state, state.ema, state.memory)
    params, opt_state, ema, memory = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), (params, opt_state, ema, aux.memory), before
    )
    state = dataclasses.replace(
        state, step=state.step + 1, params=params, opt_state=opt_state, ema=ema, memory=memory
    )
    return state, aux.metrics | {"gradient_norm": norm, "skipped": ~finite}


def learning_rates(config: ConfigDict) -> optax.Schedule:
    """The learning rate by step that `config.optim` asks for, over `config.steps`."""
    return optim.learning_rate_schedule(
        peak=config.optim.learning_rate,
        steps=config.steps,
        warmup=config.optim.warmup,
        schedule=config.optim.schedule,
    )


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimizer that `config.optim` asks for."""
    return optim.optimizer(
        learning_rates(config),
        beta2=config.optim.beta2,
        weight_decay=config.optim.weight_decay,
        clip=config.optim.clip,
        backbone_scale=config.optim.backbone_scale,
        backbone_mask=published_mask,
    )


class Step(NamedTuple):
    """The training step of a learner on a mesh.

    Attributes:
        shapes: of the state, each with the sharding it lives in.
        init: `() -> State`, before the first step.
        update: `(state, batch) -> (state, metrics)`; the state given is used up.
    """

    shapes: State
    init: Callable[[], State]
    update: Callable[[State, Batch], tuple[State, dict[str, Array]]]


def train_step(config: ConfigDict, learner: Learner, mesh: jax.sharding.Mesh, batch: Batch) -> Step:
    """The step of `learner`, compiled when it is first called.

    Args:
        batch: the shapes of a training batch; values do not matter.
    """
    tx = optimizer(config)

    def init() -> State:
        return initial_state(config, learner, tx, batch)

    # Where each array lives: cut over the devices, but for what a learner wants whole on each.
    shapes = jax.eval_shape(init)
    replicated = sharding.replicated_sharding(mesh)
    shardings = sharding.tree_shardings(mesh, shapes)
    memory = shardings.memory._replace(
        replicated=jax.tree.map(lambda _: replicated, shapes.memory.replicated)
    )
    shardings = dataclasses.replace(shardings, memory=memory)

    def update(state: State, batch: Batch) -> tuple[State, dict[str, Array]]:
        with sharding.mesh_context(mesh):
            return updated_state(state, batch, learner=learner, tx=tx, decay=config.optim.ema)

    # An update overwrites the state that it takes, or two states would lie in memory.
    return Step(
        shapes=sharding.sharded_shapes(shapes, shardings),
        init=jax.jit(init, out_shardings=shardings),
        update=jax.jit(update, donate_argnums=0, out_shardings=(shardings, replicated)),
    )
