"""PG-DA: grounding learnt where boxes are known (source), carried to where they are not (target).

After DATE (2304.03669). Three stages, each told apart by what the loop puts in the batch:

    1  {source}            L_obj(S) + λ_img L_img(S)
    2  {source, target}    + λ_img L_img(T) + λ_DA L_DA(S, T)
    3  the same            + λ_PO L_pobj(T), on rows whose `pseudo_weight` is above 0, times their
                           share of the batch

The weight of L_obj(S) is the same in all stages, as is that of L_img(S).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from ml_collections import ConfigDict

from date_jax import augment
from date_jax.date import supervised as date
from date_jax.date.aligner import FEATURES, Aligner
from date_jax.networks import extractors
from date_jax.task import Batch, Params, Task


def adapts(config: ConfigDict) -> bool:
    """Whether the run ever sees its target; `source_only` and supervised tasks do not."""
    return "stages" in config and config.method != "source_only"


def align_start(config: ConfigDict) -> int:
    """First step of stage 2; runs without a target stay in stage 1."""
    return int(config.stages.align * config.steps) if adapts(config) else config.steps


def pseudo_start(config: ConfigDict) -> int:
    """First step at which pseudo boxes may be made."""
    return int(config.stages.pseudo * config.steps) if adapts(config) else config.steps


def build(config: ConfigDict, vocab_size: int, swap_table: Array) -> Task:
    """PG-DA as three pure functions; see the module's text for the losses."""
    model = date.Date(config.model, vocab_size, config.data.text_length)
    kind = config.aligner.kind
    aligner = (
        None if kind == "none" else Aligner(kind, config.aligner.unbiased, config.aligner.hidden)
    )
    apply: Callable[..., Any] = model.apply  # Flax types its result too widely to use
    align: Callable[..., Any] | None = aligner.apply if aligner is not None else None
    forward = date.training_view(model, config, swap_table)
    begin, end = align_start(config), config.steps

    def init(rng: Array, batch: Batch) -> Params:
        model_key, aligner_key = jax.random.split(rng)
        image, text, text_mask = extractors.one_row(batch["source"])
        params = {"model": model.init(model_key, image, text, text_mask)["params"]}
        if aligner is not None:
            out = apply({"params": params["model"]}, image, text, text_mask)
            variables = aligner.init(aligner_key, out, out, jnp.zeros(()))
            params["aligner"] = variables.get("params", {})
        return params

    def loss(
        params: Params, batch: Batch, *, step: Array, rng: Array
    ) -> tuple[Array, dict[str, Array]]:
        source_key, target_key = jax.random.split(rng)
        source = batch["source"]
        out, box = forward(params, source, date.known_box(source), step, source_key)
        terms: dict[str, Any] = date.source_losses(out, source, box, config)
        total = terms["loss"]
        if "target" not in batch:
            return total, terms

        target = batch["target"]
        weight = target["pseudo_weight"]
        known = jnp.where(
            weight[:, None] > 0, target["pseudo_box_cxcywh"], jnp.array(augment.NO_BOX)
        )
        target_out, target_box = forward(params, target, known, step, target_key)
        terms["target_image"] = date.image_loss(target_out, target, config.image_seeker)
        total = total + config.image_seeker.target_weight * terms["target_image"]
        if align is not None:
            progress = (step - begin) / max(end - begin, 1)
            variables = {"params": params["aligner"]}
            queue = batch.get("queue")
            if queue is not None:
                sides = {"source": out, "target": target_out}
                features = {
                    side: {name: jax.lax.stop_gradient(found[name]) for name in FEATURES}
                    for side, found in sides.items()
                }
                terms["features"] = features
            for name, term in align(variables, out, target_out, progress, queue).items():
                terms[f"align_{name}"] = term
                share = 1.0 if name == "object" else config.aligner[f"{name}_weight"]
                total = total + config.aligner.weight * share * term
        terms["pseudo"] = date.box_loss(
            target_out["box_cxcywh"], target_box, weight, config.object_seeker
        )
        # The mean over the selected rows counts by their share: few boxes, small say.
        terms["pseudo_share"] = (weight > 0).mean()
        total = total + config.pseudo_boxes.weight * terms["pseudo_share"] * terms["pseudo"]
        return total, {**terms, "loss": total}

    return Task(init, loss, date.predictions(model, config, swap_table))
