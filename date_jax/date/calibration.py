"""The calibration of DATE's confidence at the end of a run, and the measures of it.

It is fitted on the validation split of the source alone, whose boxes are known. Every picture is
asked twice: for its own product, and for one that it does not show, where no box is right. It is
asked in a strong view, as in training: what is learnt from pictures as they are is too timid on
those of another domain.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer
from ml_collections import ConfigDict

from date_jax import augment
from date_jax.data import pipeline
from date_jax.data.domains import split_names
from date_jax.date import confidence
from date_jax.date.confidence import Calibration
from date_jax.evals import grounding, reliability
from date_jax.evals.collect import Predict, collector
from date_jax.task import Batch, Params, ShouldStop

ABSENT_WEIGHT = 0.1  # of a pair whose product is absent: one for ten pairs that belong together
_ROWS = 4096  # of a split, or a few more, that are answered; a share to three digits
_TRIES = 100  # distances at which another query is looked for


class Answers(NamedTuple):
    """The features of the boxes of one split, each picture asked twice.

    Rows without a true box, or with features that are not finite, are left out.

    Attributes:
        present: `[N F]`, of the pairs as they are.
        is_right: `[N]`, whether their boxes have an IoU of 0.5 or more.
        absent: `[M F]`, of the same pictures with queries for products that they do not show.
    """

    present: Float[np.ndarray, "N F"]
    is_right: Bool[np.ndarray, " N"]
    absent: Float[np.ndarray, "M F"]


def fitted_splits(config: ConfigDict, corpus: pipeline.Corpus) -> list[str]:
    """The splits that a run's confidence is fitted on: those of the source for validation.

    Splits without boxes are left out; and all of them where the run learns no boxes.
    """
    if not config.object_seeker.weight:
        return []
    names = [name for name in split_names(config.data.source, "val") if name in corpus.splits]
    return [name for name in names if corpus.splits[name].records.has_box().any()]


def strong_batch(
    batch: Batch, config: ConfigDict, swap_table: Int[Array, " V"]
) -> tuple[Batch, Float[Array, "B 4"]]:
    """The batch with its pictures in strong views, and the true boxes there.

    The view of a row of the split is the same in whatever batch it comes; see
    `augment.strong_view`.
    """
    true = jnp.where(batch["box_mask"][:, None], batch["box_cxcywh"], jnp.array(augment.NO_BOX))
    rows = {name: batch[name] for name in ("image", "text", "text_mask")}

    # A row at a time, each with a key for itself.
    def view(row: Batch, box: Array, index: Array) -> tuple[Batch, Array]:
        one = jax.tree.map(lambda x: x[None], (row, box))
        key = jax.random.fold_in(jax.random.key(0), index)
        options = {"step": jnp.asarray(config.steps), "config": config, "swap_table": swap_table}
        return jax.tree.map(lambda x: x[0], augment.strong_view(*one, rng=key, **options))

    strong, box = jax.vmap(view)(rows, true, batch["index"])
    return {**batch, **strong, "image": augment.pixels_of_view(strong["image"])}, box


def answer_reader(
    config: ConfigDict, corpus: pipeline.Corpus, predict: Predict, mesh: jax.sharding.Mesh
) -> Callable[..., Answers]:
    """The function `(split, params, should_stop, is_strong) -> Answers`; may raise Preempted.

    Make it once: its first use compiles. With `is_strong` the pictures are seen in strong views.
    Of a split with more than _ROWS rows only every second batch, every third and so on is asked.

    Args:
        config: the run's.
        corpus: of `pipeline.load`.
        predict: `confidence_features`, `box_cxcywh` and `picture`, see `evaluation.picture_hash`.
        mesh: the pictures are spread over it.
    """
    swap_table = jnp.asarray(corpus.tokenizer.swap_table())

    # Features, predicted and true box as one array, so that the view is made once for all of them.
    def answer(params: Params, batch: Batch) -> Float[Array, "B ..."]:
        plain = batch["image"], batch["text"], batch["box_cxcywh"]
        strong, box = strong_batch(batch, config, swap_table)
        image, text, true = (
            jnp.where(batch["is_strong"].reshape(-1, *[1] * (x.ndim - 1)), view, x)
            for view, x in zip((strong["image"], strong["text"], box), plain, strict=True)
        )
        batch = {**batch, "image": image, "text": text}
        boxes = predict["box_cxcywh"](params, batch), true
        return jnp.concatenate([predict["confidence_features"](params, batch), *boxes], axis=1)

    columns = {"answer": answer, "picture": predict["picture"]}
    collect = collector(columns, mesh, rows_at_once=config.model.rows_at_once)

    def batches(name: str, query_row: Int[np.ndarray, " N"], is_strong: bool) -> Iterator[Batch]:
        """The batches of a split on this process, each picture with the query of `query_row`."""
        split, batch_size = corpus.splits[name], config.eval.batch_size
        stride = -(-split.size // max(_ROWS, batch_size))
        # Close-ups are cut out of pictures, also where their features are kept.
        rows = pipeline.eval_batches(
            corpus,
            [name],
            batch_size=batch_size,
            boxes=True,
            share=pipeline.Share.here(),
            features=False,
        )
        for batch in itertools.islice(rows, 0, None, stride):
            asked = query_row[batch["index"]]
            query = {"text": split.text[asked], "text_mask": split.text_mask[asked]}
            yield {**batch, **query, "is_strong": np.full(len(asked), is_strong)}

    def answers(
        name: str, params: Params, should_stop: ShouldStop, *, is_strong: bool = False
    ) -> Answers:
        # Each picture with its own query.
        split = corpus.splits[name]
        query_row = np.arange(split.size)
        own = batches(name, query_row, is_strong)
        rows = collect(params, own, should_stop=should_stop)
        # The same pictures, each with the query of another.
        index = rows["index"]
        other = absent_query_rows(rows["picture"], rows["product_id"], split.text[index])
        has_other = other >= 0
        query_row[index[has_other]] = index[other[has_other]]
        others = batches(name, query_row, is_strong)
        absent = collect(params, others, should_stop=should_stop)["answer"]
        # Rows that have a true box, and predictions.
        values, box, true = np.split(rows["answer"], [-8, -4], axis=1)
        is_present = rows["box_mask"] & np.isfinite(values).all(axis=1)
        is_absent = rows["box_mask"] & has_other & np.isfinite(absent).all(axis=1)
        is_right = grounding.clamped_iou(box, true) >= 0.5
        return Answers(values[is_present], is_right[is_present], absent[is_absent, :-8])

    return answers


def absent_query_rows(
    picture: Integer[np.ndarray, "N 2"],
    product_id: Int[np.ndarray, " N"],
    text: Int[np.ndarray, "N T"],
) -> Int[np.ndarray, " N"]:
    """For each row another row whose query asks for what its picture does not show; -1 for none.

    Neither the product nor the text of that row belongs to the picture, in any of the rows that
    the picture has. The choice is random, and the same each time.

    Args:
        picture: a number of the picture, in two halves.
        product_id: of the rows.
        text: token ids of their queries.
    """
    count = len(product_id)
    _, picture_id = np.unique(picture, axis=0, return_inverse=True)
    _, product = np.unique(product_id, return_inverse=True)
    _, query = np.unique(text, axis=0, return_inverse=True)
    # A picture and what belongs to it, as one number.
    pairs_shown = [picture_id * count + kind for kind in (product, query)]

    # Rows at a random distance, and another distance for those whose pictures show that product.
    rows, query_row = np.arange(count), np.full(count, -1)
    for offset in np.random.default_rng(0).permutation(np.arange(1, count))[:_TRIES]:
        open_rows = rows[query_row < 0]
        if not len(open_rows):
            break
        other = (open_rows + offset) % count
        is_shown = [
            np.isin(picture_id[open_rows] * count + kind[other], pairs)
            for kind, pairs in zip((product, query), pairs_shown, strict=True)
        ]
        is_absent = ~np.any(is_shown, axis=0)
        query_row[open_rows[is_absent]] = other[is_absent]
    return query_row


def calibration_of(answers: list[Answers], splits: list[str]) -> Calibration | None:
    """The calibration that fits the answers of some splits; None where they have no row.

    A pair whose product is absent weighs ABSENT_WEIGHT: the confidence then means what it says
    where about one pair in eleven asks for something that is not there.
    """
    if not sum(len(part.is_right) for part in answers):
        return None
    present, is_right, absent = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    return confidence.fit(
        np.concatenate([present, absent]),
        np.concatenate([is_right, np.zeros(len(absent), bool)]),
        np.concatenate([np.ones(len(present)), np.full(len(absent), ABSENT_WEIGHT)]),
        splits=splits,
    )


def metrics(calibration: Calibration, answers: Answers) -> dict[str, float]:
    """The measures of a confidence on one split, by name; none without rows.

    - `confidence`: its mean, to compare with `acc_at_0.5`;
    - `ece` and `aurc`: see `reliability.calibration_error` and `reliability.risk_coverage_area`;
    - `absent_confidence`: its mean where the picture does not show the product;
    - `absent_auc`: the area under the ROC curve of pairs as they are against these.
    """
    if not len(answers.is_right):
        return {}
    present = confidence.probability(calibration, answers.present)
    values = {
        "confidence": float(present.mean()),
        "ece": reliability.calibration_error(present, answers.is_right),
        "aurc": reliability.risk_coverage_area(present, answers.is_right),
    }
    if len(answers.absent):
        absent = confidence.probability(calibration, answers.absent)
        values["absent_confidence"] = float(absent.mean())
        values["absent_auc"] = reliability.roc_area(present, absent)
    return values


def files(
    calibration: Calibration, name: str, answers: Answers
) -> dict[str, Callable[[Path], None]]:
    """`reliability_<name>.csv`: the reliability table of a split; no file without rows."""
    if not len(answers.is_right):
        return {}
    return {f"reliability_{name}.csv": functools.partial(_write_table, calibration, answers)}


def _write_table(calibration: Calibration, answers: Answers, path: Path) -> None:
    """Writes the reliability table, a line for each bin that has rows."""
    present = confidence.probability(calibration, answers.present)
    table = reliability.reliability(present, answers.is_right)
    lines = ["from,to,rows,confidence,right"]
    for place, (rows, mean, accuracy) in enumerate(zip(*table, strict=True)):
        if rows:
            low, high = place / reliability.BINS, (place + 1) / reliability.BINS
            lines.append(f"{low:.1f},{high:.1f},{rows},{mean:.3f},{accuracy:.3f}")
    path.write_text("\n".join(lines) + "\n")
