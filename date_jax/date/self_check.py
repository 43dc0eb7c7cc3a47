"""The check of PG-DA's own boxes before it adapts: how many of them are likely right.

Nobody knows the target's boxes. The teacher's confidence in its boxes is calibrated on the source's
validation rows, whose boxes are known, and its mean over the target's rows is the share of boxes
that are right there, as far as the network can tell.

The confidence is that of `confidence`, fitted as at the end of a run. It looks at close-ups, so
where a run has only kept features it is fitted on what the teacher draws from these: the agreement
of its two views, and how wide its distribution is where it has one.
"""

from collections.abc import Callable, Mapping

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from date_jax.data import pipeline
from date_jax.date import batches, calibration, confidence, evaluation
from date_jax.evals import grounding
from date_jax.evals.collect import collector
from date_jax.task import Learner, Params, ShouldStop

Estimate = Callable[[Params, Mapping[str, np.ndarray], ShouldStop], float]


def columns(corpus: pipeline.Corpus, learner: Learner) -> tuple[str, ...]:
    """The names of the predictions on the target's rows that a check reads."""
    if corpus.features is None:
        return ("confidence_features",)
    return ("agreement", *(name for name in ("pseudo_deviation",) if name in learner.predict))


def estimator(
    config: ConfigDict, corpus: pipeline.Corpus, learner: Learner, mesh: jax.sharding.Mesh
) -> Estimate:
    """The function `(params, rows, should_stop) -> share` of boxes that are likely right.

    `rows` are the target's, with `columns` drawn by `params`. Make it once: its first use compiles.
    """
    names, splits = columns(corpus, learner), calibration.fitted_splits(config, corpus)
    if "agreement" in names:
        fit = _fit_of_kept_features(config, corpus, learner, mesh, splits)
    else:
        fit = _fit_of_pictures(config, corpus, learner, mesh, splits)

    def estimate(params: Params, rows: Mapping[str, np.ndarray], should_stop: ShouldStop) -> float:
        calibrated = fit(params, should_stop) if splits else None
        return 0.0 if calibrated is None else expected_precision(calibrated, _values(rows, names))

    return estimate


def _values(rows: Mapping[str, np.ndarray], names: tuple[str, ...]) -> Float[np.ndarray, "N F"]:
    """The features of each row, side by side; of a deviation its mean."""
    parts = [rows[name] for name in names]
    if "confidence_features" in names:
        return parts[0]
    return np.stack([part if part.ndim == 1 else part.mean(axis=1) for part in parts], axis=1)


def _fit_of_pictures(
    config: ConfigDict,
    corpus: pipeline.Corpus,
    learner: Learner,
    mesh: jax.sharding.Mesh,
    splits: list[str],
) -> Callable[[Params, ShouldStop], confidence.Calibration | None]:
    """The calibration of the confidence on the source's pictures; None where it has no row."""
    with_picture = {**learner.predict, "picture": evaluation.picture_hash}
    answers = calibration.answer_reader(config, corpus, with_picture, mesh)

    def fit(params: Params, should_stop: ShouldStop) -> confidence.Calibration | None:
        fitted = [answers(name, params, should_stop, is_strong=True) for name in splits]
        return calibration.calibration_of(fitted, splits)

    return fit


def _fit_of_kept_features(
    config: ConfigDict,
    corpus: pipeline.Corpus,
    learner: Learner,
    mesh: jax.sharding.Mesh,
    splits: list[str],
) -> Callable[[Params, ShouldStop], confidence.Calibration | None]:
    """The same from kept features of the source's rows and of their other view."""
    names = columns(corpus, learner)
    predict = {name: learner.predict[name] for name in ("pseudo_box_cxcywh", *names)}
    collect = collector(predict, mesh, rows_at_once=config.model.rows_at_once)

    def fit(params: Params, should_stop: ShouldStop) -> confidence.Calibration | None:
        size, share = config.eval.batch_size, pipeline.Share.here()
        rows_of_splits = pipeline.eval_batches(
            corpus, splits, batch_size=size, boxes=True, share=share
        )
        rows = collect(params, rows_of_splits, should_stop=should_stop)
        return calibration_of_agreement(rows, names, splits)

    return fit


def calibration_of_agreement(
    rows: Mapping[str, np.ndarray], names: tuple[str, ...], splits: list[str]
) -> confidence.Calibration | None:
    """The calibration of hits on what the teacher draws; None where no row has a true box.

    Args:
        rows: `pseudo_box_cxcywh`, `true_box_cxcywh` `[N 4]`, `box_mask` `[N]` and `names`.
        names: of the features.
        splits: where the rows are from.
    """
    known, values = rows["box_mask"], _values(rows, names)
    if not known.any():
        return None
    hit = grounding.clamped_iou(rows["pseudo_box_cxcywh"], rows["true_box_cxcywh"]) >= 0.5
    weight = np.ones(int(known.sum()))
    return confidence.fit(values[known], hit[known], weight, names=names, splits=splits)


def expected_precision(
    calibrated: confidence.Calibration, features: Float[np.ndarray, "N F"]
) -> float:
    """The mean confidence of some boxes; one whose features are not finite is wrong."""
    return float(np.nan_to_num(confidence.probability(calibrated, features)).mean())


def line(config: ConfigDict, step: int, expected: float) -> str:
    """What the console says of a check before step `step`."""
    least, target = config.pseudo_boxes.self_check, config.data.target
    share = f"{expected:.0%} of the boxes on {target} seem right"
    if expected >= least:
        return f"step {step} | self-check: {share}, {least:.0%} are needed: the run adapts"
    next_step = batches.next_refresh(config, step)
    again = f"and asks again at step {next_step}" if next_step < config.steps else "to its end"
    return (
        f"step {step} | self-check: {share}, but {least:.0%} are needed "
        f"(config.pseudo_boxes.self_check): the run goes on as source_only, {again}"
    )
