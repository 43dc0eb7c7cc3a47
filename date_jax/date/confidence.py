"""The confidence of a box: how likely its IoU with the true box is 0.5 or more.

DATE draws one box for any pair, also where the picture does not show the product. Two things tell a
good box from a bad one: close-ups of a good box show the queried product, by the image seeker, and
in them the network finds that box again. A logistic regression makes one number of both.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from date_jax import augment, boxes
from date_jax.errors import DataError
from date_jax.task import Batch, Params

FILE = "calibration.json"  # in the folder of a run, or of its export
MARGINS = (1.0, 1.5, 2.0)  # sides of the close-ups, by the longer side of the box
NAMES = (
    "similarity",
    *(f"similarity_close_up_{margin}" for margin in MARGINS),
    *(f"agreement_close_up_{margin}" for margin in MARGINS),
)
_PENALTY = 1.0  # of the squared coefficients: that of half a row's evidence for each
_STEPS = 100  # of Newton's method, which needs about 10


class Calibration(NamedTuple):
    """A logistic regression from the features of a box to its confidence.

    Attributes:
        names: of the features, in the order of the arrays.
        mean, scale: `[F]`, by which features are brought to mean 0 and deviation 1.
        coefficients: `[F]`, of these.
        intercept: the log-odds of a row whose features are all at their mean.
        splits: those that it was fitted on.
        rows: how many pairs these gave, those of absent products among them.
    """

    names: tuple[str, ...]
    mean: Float[np.ndarray, " F"]
    scale: Float[np.ndarray, " F"]
    coefficients: Float[np.ndarray, " F"]
    intercept: float
    splits: tuple[str, ...] = ()
    rows: int = 0


def features(apply: Callable[..., Any], params: Params, batch: Batch) -> Float[Array, "B F"]:
    """The features of the box that the network draws for each pair, named by NAMES.

    - `similarity`: the cosine of query and picture;
    - `similarity_close_up_M`: that of the query and a square window around the box, M times its
      longer side;
    - `agreement_close_up_M`: the IoU of the box and the one that is drawn in that window.

    Args:
        apply: of `network.Date`.
        params: the learner's.
        batch: with `image`, `text` and `text_mask`.
    """
    pixels = batch["image"].astype(jnp.float32) / 255.0
    rows = pixels.shape[0]  # not len(), for an exported program has any number
    unchanged = jnp.zeros(rows, bool), jnp.ones(rows), pixels.mean(axis=(1, 2))

    def outputs(image: Array) -> tuple[Array, Array]:
        """The box in a view, and the cosine of query and view."""
        inputs = augment.normalised_pixels(image), batch["text"], batch["text_mask"]
        named = apply({"params": params["model"]}, *inputs)
        cosine = (named["query_embedding"] * named["image_embedding"]).sum(axis=-1)
        return named["box_cxcywh"], cosine

    # The box whose features these are.
    box, similarity = outputs(pixels)
    corners = jnp.clip(boxes.xyxy(box), 0.0, 1.0)

    # What its close-ups show. A loop, for the network to be compiled once for all of them.
    def close_up(window: Array) -> tuple[Array, Array]:
        box_in_window, cosine = outputs(augment.resampled_image(pixels, window, *unchanged))
        seen = boxes.xyxy(augment.original_box(box_in_window, window, unchanged[0]))
        return cosine, boxes.iou(jnp.clip(seen, 0.0, 1.0), corners)

    windows = jnp.stack([augment.close_up_window(box, margin) for margin in MARGINS])
    close_similarity, agreement = jax.lax.map(close_up, windows)
    columns = [similarity, *close_similarity, *agreement]
    return jnp.stack(columns, axis=1).astype(jnp.float32)


def fit(
    values: Float[np.ndarray, "N F"],
    is_right: Bool[np.ndarray, " N"],
    weight: Float[np.ndarray, " N"],
    *,
    names: Sequence[str] = NAMES,
    splits: Sequence[str] = (),
) -> Calibration:
    """The logistic regression of `is_right` on features, by Newton's method in float64.

        minimise Σ_n w_n [log(1 + exp(z_n)) - y_n z_n] + |c|² / 2,   z = c · (x - mean) / scale + b

    Args:
        values: features of boxes.
        is_right: y; whether the box has an IoU of 0.5 or more with the true box.
        weight: w, 0 or more.
        names: of the features.
        splits: where the rows are from.

    Example: a feature of 1 where a box is right, of -1 where it is wrong, 100 times each.

        >>> telling = np.repeat([[1.0], [-1.0]], 100, axis=0)
        >>> calibration = fit(telling, telling[:, 0] > 0, np.ones(200), names=("telling",))
        >>> probability(calibration, telling[[0, -1]]).round(2)
        array([0.98, 0.02])
    """
    # Features of one scale, so that one penalty suits them all.
    x, y = np.asarray(values, np.float64), np.asarray(is_right, np.float64)
    share = weight / weight.sum()
    mean = share @ x
    scale = np.sqrt(share @ (x - mean) ** 2) + 1e-6
    design = np.concatenate([(x - mean) / scale, np.ones((len(x), 1))], axis=1)
    # The intercept is hardly penalised: enough for it to be finite where all boxes are wrong.
    penalty = np.append(np.full(x.shape[1], _PENALTY), 1e-3)

    def cost(c: np.ndarray) -> float:
        z = design @ c
        return float(weight @ (np.logaddexp(0.0, z) - y * z) + penalty @ c**2 / 2)

    # Newton's step, halved until it gains: the cost is convex, so this ends in its minimum.
    c = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        p = _sigmoid(design @ c)
        gradient = design.T @ (weight * (p - y)) + penalty * c
        curvature = (design.T * (weight * p * (1 - p))) @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        while cost(c - step) > cost(c) and np.abs(step).max() > 1e-12:
            step = step / 2
        c = c - step
        if np.abs(step).max() < 1e-10:
            break
    return Calibration(tuple(names), mean, scale, c[:-1], float(c[-1]), tuple(splits), len(x))


def probability(
    calibration: Calibration, values: Float[np.ndarray, "N F"]
) -> Float[np.ndarray, " N"]:
    """The confidence of boxes, in float64: how likely their IoU with the true box is >= 0.5.

    Args:
        calibration: of `fit` or `read`.
        values: of `features`; what is not finite gives NaN.
    """
    x = (np.asarray(values, np.float64) - calibration.mean) / calibration.scale
    return np.where(
        np.isfinite(x).all(axis=1),
        _sigmoid(x @ calibration.coefficients + calibration.intercept),
        np.nan,
    )


def _sigmoid(z: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """The logistic function, without overflow."""
    return 0.5 * (1.0 + np.tanh(z / 2))


def write(calibration: Calibration, path: Path) -> None:
    """Writes a calibration as JSON, with the features by name."""
    columns = calibration.mean, calibration.scale, calibration.coefficients
    content = {
        "of": "the probability that a box has an IoU of 0.5 or more with the true box",
        "splits": list(calibration.splits),
        "rows": calibration.rows,
        "intercept": calibration.intercept,
        "features": {
            name: {"mean": float(mean), "scale": float(scale), "coefficient": float(coefficient)}
            for name, mean, scale, coefficient in zip(calibration.names, *columns, strict=True)
        },
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def read(folder: Path) -> Calibration | None:
    """The calibration in the folder of a run or of an export; None where there is no such file.

    A run has it once it is finished. One that finished under an earlier version writes it when its
    training command is run again, which trains nothing and evaluates once more.

    Raises:
        DataError: the file is damaged, or of other features than this version computes.
    """
    path = folder / FILE
    if not path.exists():
        return None
    advice = "run the training command again: a finished run only writes what it keeps"
    try:
        content = json.loads(path.read_text())
        table = content["features"]
        mean, scale, coefficients = (
            np.array([row[key] for row in table.values()], np.float64)
            for key in ("mean", "scale", "coefficient")
        )
        calibration = Calibration(
            names=tuple(table),
            mean=mean,
            scale=scale,
            coefficients=coefficients,
            intercept=float(content["intercept"]),
            splits=tuple(content["splits"]),
            rows=int(content["rows"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read ({error})\n  {advice}") from error
    if calibration.names != NAMES:
        raise DataError(f"{path}: its features are not those of this version\n  {advice}")
    return calibration


def scorer(folder: Path) -> Callable[[np.ndarray], np.ndarray] | None:
    """The function from features `[N F]` to confidences `[N]` of a run; None without a calibration.

    Raises:
        DataError: see `read`.
    """
    calibration = read(folder)
    return None if calibration is None else partial(probability, calibration)
