"""The check of PG-DA's own boxes before it adapts: how many of them are likely right.

Nobody knows the target's boxes. The network's confidence in its own boxes is calibrated on the
source's validation rows, whose boxes are known (see `calibration`), and its mean over the target's
rows is the share of boxes that are right there, as far as the network can tell.
"""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from date_jax.data import pipeline
from date_jax.date import batches, calibration, confidence, evaluation
from date_jax.task import Learner, Params, ShouldStop

Estimate = Callable[[Params, np.ndarray, ShouldStop], float]


def estimator(
    config: ConfigDict, corpus: pipeline.Corpus, learner: Learner, mesh: jax.sharding.Mesh
) -> Estimate:
    """The function `(params, features, should_stop) -> share` of boxes that are likely right.

    `features` are `confidence_features` `[N F]` of the target's rows, drawn with `params`. Make it
    once: its first use compiles.
    """
    with_picture = {**learner.predict, "picture": evaluation.picture_hash}
    answers = calibration.answer_reader(config, corpus, with_picture, mesh)
    splits = calibration.fitted_splits(config, corpus)

    def estimate(
        params: Params, features: Float[np.ndarray, "N F"], should_stop: ShouldStop
    ) -> float:
        fitted = [answers(name, params, should_stop, is_strong=True) for name in splits]
        calibrated = calibration.calibration_of(fitted, splits)
        return 0.0 if calibrated is None else expected_precision(calibrated, features)

    return estimate


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
    again = f"asks again at step {next_step}" if next_step < config.steps else "never did"
    return (
        f"step {step} | self-check: {share}, but {least:.0%} are needed "
        f"(config.pseudo_boxes.self_check): the run goes on as source_only and {again}"
    )
