"""Accuracy of predicted boxes: Acc@0.5 is TransVG's Pr@1 (2104.08541). On the host, in float64."""

import numpy as np
from jaxtyping import Bool, Float


def clamped_xyxy(cxcywh: Float[np.ndarray, "*N 4"]) -> Float[np.ndarray, "*N 4"]:
    """Corners of normalised boxes, cut at the border of the picture."""
    cxcywh = np.asarray(cxcywh, np.float64)
    centre, half = cxcywh[..., :2], cxcywh[..., 2:] / 2
    return np.clip(np.concatenate([centre - half, centre + half], axis=-1), 0.0, 1.0)


def iou(
    a_xyxy: Float[np.ndarray, "... 4"], b_xyxy: Float[np.ndarray, "... 4"]
) -> Float[np.ndarray, "..."]:
    """Intersection over union of two sets of boxes, pair by pair; 0 where both are empty.

    The two sets broadcast, so `iou(a[:, None], b[None])` is that of all pairs.
    """

    def area(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return np.prod(np.maximum(high - low, 0.0), axis=-1)  # a reversed box has none

    (a_low, a_high), (b_low, b_high) = ((x[..., :2], x[..., 2:]) for x in (a_xyxy, b_xyxy))
    overlap = area(np.maximum(a_low, b_low), np.minimum(a_high, b_high))
    union = area(a_low, a_high) + area(b_low, b_high) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def clamped_iou(
    a_cxcywh: Float[np.ndarray, "N 4"], b_cxcywh: Float[np.ndarray, "N 4"]
) -> Float[np.ndarray, " N"]:
    """Intersection over union, pair by pair, of the boxes' parts inside the picture."""
    return iou(clamped_xyxy(a_cxcywh), clamped_xyxy(b_cxcywh))


def metrics(
    predicted_cxcywh: Float[np.ndarray, "N 4"],
    true_cxcywh: Float[np.ndarray, "N 4"],
    box_mask: Bool[np.ndarray, " N"],
) -> dict[str, float]:
    """The measures of predicted boxes over the rows with a true box, by name.

    An IoU of exactly the threshold is a hit.

    Args:
        predicted_cxcywh, true_cxcywh: normalised boxes.
        box_mask: rows with a true box.

    Returns:
        `acc_at_0.5`, `acc_at_0.75`, `mean_iou`, and `boxes`, the number of these rows. Without any
        only `boxes`.
    """
    values = clamped_iou(predicted_cxcywh[box_mask], true_cxcywh[box_mask])
    if not len(values):
        return {"boxes": 0.0}
    return {
        "acc_at_0.5": float(np.mean(values >= 0.5)),
        "acc_at_0.75": float(np.mean(values >= 0.75)),
        "mean_iou": float(np.mean(values)),
        "boxes": float(len(values)),
    }
