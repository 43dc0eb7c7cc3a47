"""Seconds of parts of DATE's training step, each compiled alone and with its gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from date_jax import augment, optim, sharding
from date_jax.benchmarks import measure
from date_jax.date.aligner import FEATURES, Aligner
from date_jax.date.supervised import cooperation_terms
from date_jax.pairs.tiles import map_chunks
from date_jax.partition import merged
from date_jax.step import Step, optimizer
from date_jax.task import Learner

SCALE, BIAS = 14.3, -10.0  # with which the image seeker begins


class Subject(NamedTuple):
    """The step whose parts are measured.

    Attributes:
        config: of the run.
        mesh: of `sharding.device_mesh`.
        learner: whose forward pass is measured.
        params: of all networks, on the mesh.
        batch: of one domain, with boxes, on the mesh.
    """

    config: ConfigDict
    mesh: jax.sharding.Mesh
    learner: Learner
    params: Any
    batch: dict[str, jax.Array]


def seconds_of_parts(
    config: ConfigDict,
    mesh: jax.sharding.Mesh,
    learner: Learner,
    step: Step,
    batches: dict[str, Any],
    *,
    rounds: int,
) -> dict[str, float]:
    """Median seconds of each part; they need not add up, since XLA joins neighbours.

    Args:
        batches: one of each domain, on the mesh.
        rounds: that count of each.
    """
    # Real parameters and a real batch; outputs are random, so that losses need no forward pass.
    state = step.init()
    params = merged(state.params, state.frozen)
    subject = Subject(config, mesh, learner, params, batches["source"])
    outputs = random_outputs(config, mesh)
    tx = optimizer(config)

    def seconds(function: Callable[..., Any], *args: Any) -> float:
        """Median seconds of a call, compiled."""
        program = jax.jit(function).lower(*args).compile()
        return measure.seconds(lambda: program(*args), rounds=rounds, warm_up=2).median

    def update(params: Any, opt_state: Any) -> Any:
        """The optimizer's part, for a gradient of the parameters' own values."""
        updates, opt_state = tx.update(params, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def average(ema: Any, params: Any) -> Any:
        """The moving average of the parameters."""
        return optim.moving_average(ema, params, step=jnp.int32(1), decay=config.optim.ema)

    # The forward pass up to three outputs: what a box needs beyond both extractors is the fusion.
    image, text, box = (
        seconds(gradient_of_prediction(subject, name), subject.params, subject.batch)
        for name in ("image_embedding", "query_embedding", "box_cxcywh")
    )
    has_aligner = len(batches) == 2 and config.aligner.kind != "none"
    aligner = seconds(gradient_of_aligner(subject), outputs) if has_aligner else 0.0

    # Of the rest each domain has its share; optimizer and average come once a step.
    domains = len(batches)
    return {
        "augmentation": domains * seconds(view(subject), subject.batch),
        "image extractor": domains * image,
        "text extractor": domains * text,
        "fusion": domains * max(0.0, box - image - text),
        "losses": domains * seconds(gradient_of_losses(subject), outputs),
        "aligner": aligner,
        "optimizer": seconds(update, state.params, state.opt_state),
        "moving average": seconds(average, state.ema, state.params),
    }


def random_outputs(config: ConfigDict, mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Random numbers in the shapes of the network's outputs `[B ...]`, on the mesh."""
    rng = np.random.default_rng(1)
    names = (*FEATURES, "query_embedding", "image_embedding")
    outputs = {name: rng.standard_normal((config.batch_size, config.model.width)) for name in names}
    outputs |= {"box_cxcywh": rng.uniform(0.2, 0.6, (config.batch_size, 4))}
    return sharding.global_batch(mesh, {name: x.astype(np.float32) for name, x in outputs.items()})


def view(subject: Subject) -> Callable[[Any], Any]:
    """The augmentation of a batch, as in the last step, where it is strongest."""
    unchanged = jnp.arange(subject.config.data.vocab_size, dtype=jnp.int32)

    def strong_view(batch: Any) -> Any:
        return augment.strong_view(
            batch,
            batch["box_cxcywh"],
            step=jnp.int32(subject.config.steps),
            rng=jax.random.key(0),
            config=subject.config,
            swap_table=unchanged,
        )

    return strong_view


def gradient_of_prediction(subject: Subject, name: str) -> Callable[[Any, Any], Any]:
    """The forward and backward pass through what one prediction needs."""

    def prediction(params: Any, rows: Any, _: Any) -> dict[str, jax.Array]:
        return {name: subject.learner.predict[name](params, rows)}

    def total(params: Any, batch: Any) -> jax.Array:
        with sharding.mesh_context(subject.mesh):
            at_once = subject.config.model.rows_at_once
            outputs = map_chunks(prediction, params, batch, at_once=at_once)
        return outputs[name].astype(jnp.float32).sum()

    return jax.grad(total)


def gradient_of_losses(subject: Subject) -> Callable[[Any], Any]:
    """The losses on boxes and embeddings, and back to these."""

    def loss(outputs: Any) -> jax.Array:
        seeker = {"scale": jnp.float32(SCALE), "bias": jnp.float32(BIAS)}
        box = subject.batch["box_cxcywh"]
        return cooperation_terms(outputs | seeker, subject.batch, box, subject.config)["loss"]

    return _on_mesh(jax.grad(loss), subject.mesh)


def gradient_of_aligner(subject: Subject) -> Callable[[Any], Any]:
    """The aligner between two domains' features, and back to these."""
    settings = subject.config.aligner

    def loss(outputs: Any) -> Any:
        # The target's features are those of the source, moved a little.
        aligner = Aligner(settings.kind, settings.unbiased, settings.hidden)
        target = {name: x + 0.1 for name, x in outputs.items()}
        params = {"params": subject.params["aligner"]}
        terms: Any = aligner.apply(params, outputs, target, jnp.float32(0.5))
        return sum(terms.values())

    return _on_mesh(jax.grad(loss), subject.mesh)


def _on_mesh(function: Callable[[Any], Any], mesh: jax.sharding.Mesh) -> Callable[[Any], Any]:
    """A form of `function` that is traced where the mesh is known."""

    def with_mesh(outputs: Any) -> Any:
        with sharding.mesh_context(mesh):
            return function(outputs)

    return with_mesh
