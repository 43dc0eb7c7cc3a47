"""PG-DA: grounding learnt where boxes are known (source), carried to where they are not (target).

After DATE (2304.03669). Three stages, told apart by what the batch and the memory hold:

    1  {source}            L_obj(S) + λ_img L_img(S)
    2  {source, target}    + λ_img L_img(T) + λ_DA L_DA(S, T)
    3  the same            + λ_PO L_pobj(T), on rows whose pseudo box has a weight above 0, times
                           their share of the batch

The weight of L_obj(S) is the same in all stages, as is that of L_img(S). A run that checks itself
(`config.pseudo_boxes.self_check`) has the terms of stage 1 alone until its check is passed.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from date_jax import augment
from date_jax.data.domains import split_names
from date_jax.date import (
    aligner,
    batches,
    between_steps,
    evaluation,
    network,
    rules,
    supervised,
    teacher,
)
from date_jax.date.network import Date
from date_jax.networks import extractors, freezing
from date_jax.partition import partition
from date_jax.task import Aux, Batch, Learner, Memory, Params, Task


def learner(config: ConfigDict, vocab_size: int, swap_table: Array, target_rows: int) -> Learner:
    """PG-DA as pure functions; see the module's text for the losses.

    The memory holds

    - `pseudo_boxes`: `box_cxcywh [N 4]` and `weight [N]` of the target's training rows, 0 = no box;
      and `deviation [N 4]` where `config.pseudo_boxes.soft` distils distributions;
    - `adapts`: 1 where the last self-check was passed, else 0; of runs that check themselves;
    - `queue`: features of earlier batches, where the aligner has one;
    - `teacher`: parameters of a frozen teacher, zeros before stage 3; those that are trained, as
      the others never differ from the network's.

    Args:
        vocab_size: of the tokenizer.
        swap_table: int `[vocab_size]`, token id → token id under a mirror.
        target_rows: N.
    """
    model = Date(config.model, vocab_size, config.data.text_length)
    forward = network.training_forward(model, config, swap_table)
    alignment = aligner.build(config.aligner)
    apply: Callable[..., Any] = model.apply  # Flax types its result too widely to use
    align: Callable[..., Any] | None = None if alignment is None else alignment.apply
    begin, end = batches.align_start(config), config.steps
    is_soft = config.pseudo_boxes.get("soft", False)
    hidden_share = config.pseudo_boxes.get("mask", 0.0)

    def init(rng: Array, batch: Batch) -> tuple[Params, Memory]:
        model_key, aligner_key = jax.random.split(rng)
        row = extractors.one_row(batch["source"])
        params = {"model": model.init(model_key, *row)["params"]}
        if alignment is not None:
            outputs = apply({"params": params["model"]}, *row)
            variables = alignment.init(aligner_key, outputs, outputs, jnp.zeros(()))
            params["aligner"] = variables.get("params", {})
        return params, first_memory(params)

    def first_memory(params: Params) -> Memory:
        replicated: dict[str, Any] = {"pseudo_boxes": empty_table(target_rows, is_soft)}
        if batches.checks_itself(config):
            replicated["adapts"] = jnp.zeros(())
        if config.aligner.queue:
            replicated["queue"] = aligner.empty_queue(config.aligner.queue, config.model.width)
        # A frozen teacher is the average network at the start of stage 3; until then, zeros.
        sharded = {}
        if config.pseudo_boxes.teacher == "frozen":
            trained, _ = partition(params, freezing.trained_mask(config.model, params))
            sharded["teacher"] = jax.tree.map(jnp.zeros_like, trained)
        return Memory(replicated, sharded)

    def loss(
        params: Params, memory: Memory, batch: Batch, *, step: Array, rng: Array
    ) -> tuple[Float[Array, ""], Aux]:
        # Stage 1: L_coop on the source.
        source_key, target_key = jax.random.split(rng)
        source = batch["source"]
        source_out, box = forward(params, source, supervised.true_box(source), step, source_key)
        terms: dict[str, Any] = supervised.cooperation_terms(source_out, source, box, config)
        total = terms["loss"]
        if "target" not in batch:
            return total, Aux(terms, memory)

        # Stage 2: the target's pairs, in views that keep the pseudo box where there is one.
        target, table = batch["target"], memory.replicated["pseudo_boxes"]
        weight, pseudo_box = (table[name][target["index"]] for name in ("weight", "box_cxcywh"))
        focus = jnp.where(weight[:, None] > 0, pseudo_box, jnp.array(augment.NO_BOX))
        # A share of the image tokens is hidden from whoever learns from a pseudo box.
        token_mask = None
        if hidden_share:
            mask_key = jax.random.fold_in(target_key, 1)
            shape = len(weight), math.prod(supervised.view_grid(config))
            shown = jax.random.bernoulli(mask_key, 1 - hidden_share, shape)
            token_mask = shown | (weight <= 0)[:, None]
        target_out, target_box = forward(
            params, target, focus, step, target_key, token_mask=token_mask
        )
        weight = weight * target_out["box_seen"]
        terms["target_image"] = supervised.image_loss(target_out, target, config.image_seeker)
        adaptation = config.image_seeker.target_weight * terms["target_image"]

        # Where the target's words are, which needs no box; so it precedes any check.
        for term in supervised.places_loss(target_out, target, config.image_seeker).values():
            terms["target_word_places"] = term
            total = total + term

        # Stage 2: both domains' features alike, those of earlier batches among them.
        if align is not None:
            progress = (step - begin) / max(end - begin, 1)
            queue = memory.replicated.get("queue")
            variables = {"params": params["aligner"]}
            for name, term in align(variables, source_out, target_out, progress, queue).items():
                terms[f"align_{name}"] = term
                share = 1.0 if name == "object" else config.aligner[f"{name}_weight"]
                adaptation = adaptation + config.aligner.weight * share * term
            if queue is not None:
                queue = aligner.updated_queue(queue, source_out, target_out)
                memory = memory._replace(replicated={**memory.replicated, "queue": queue})

        # A run that has not passed its own check learns nothing of this.
        total = total + adaptation * memory.replicated.get("adapts", 1.0)

        # Stage 3: the boxes that the teacher drew, and how certain it was.
        deviation = None
        if is_soft:
            deviation = jnp.where(weight[:, None] > 0, table["deviation"][target["index"]], 0.0)
        pseudo_terms = supervised.box_terms(
            target_out, target_box, weight, config, deviation=deviation
        )
        terms["pseudo"] = pseudo_terms["total"]
        # The mean over the selected rows counts by their share: few boxes, small say.
        terms["pseudo_share"] = (weight > 0).mean()
        total = total + config.pseudo_boxes.weight * terms["pseudo_share"] * terms["pseudo"]
        return total, Aux({**terms, "loss": total}, memory)

    predict = network.predictions(model) | teacher.predictions(model, config, swap_table)
    return Learner(init, loss, predict)


def empty_table(rows: int, is_soft: bool) -> dict[str, Float[Array, "N ..."]]:
    """The pseudo boxes before the first refresh: the same box for each row, and none weighs."""
    rows = max(rows, 1)  # without a target one row that nobody reads: Orbax saves no empty array
    table = {"box_cxcywh": jnp.full((rows, 4), 0.5), "weight": jnp.zeros(rows)}
    return table | {"deviation": jnp.zeros((rows, 4))} if is_soft else table


def _learner(config: ConfigDict, tokenizer: Any, sizes: Mapping[str, int]) -> Learner:
    rows = sum(sizes.get(name, 0) for name in split_names(config.data.target, "train"))
    return learner(config, *batches.vocabulary(tokenizer), rows)


TASK = Task(
    contradictions=rules.adaptation_contradictions,
    load=evaluation.load_adaptive,
    learner=_learner,
    example=batches.adaptive_example,
    batches=batches.adaptive_batches,
    evaluator=evaluation.evaluator,
    highlight=evaluation.highlight,
    terms=(*supervised.TASK.terms, "target_image", "pseudo"),
    columns=evaluation.COLUMNS,
    answer=network.ANSWER,
    between=between_steps.between,
    kept=batches.adaptive_kept,
    card=supervised.CARD._replace(
        training=lambda config: (
            f"`{config.method}`, domains `{config.data.source}` to `{config.data.target}`"
        )
    ),
)
