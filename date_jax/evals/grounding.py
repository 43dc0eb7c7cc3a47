"""How well boxes are found: Acc@0.5 is TransVG's Pr@1 (2104.08541). On the host, in float64."""

import numpy as np
from jaxtyping import Bool, Float


def clamped_xyxy(cxcywh: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    """Corners of normalised boxes, cut at the border of the picture."""
    cxcywh = np.asarray(cxcywh, np.float64)
    centre, half = cxcywh[:, :2], cxcywh[:, 2:] / 2
    return np.clip(np.concatenate([centre - half, centre + half], axis=1), 0.0, 1.0)


def clamped_iou(
    a_cxcywh: Float[np.ndarray, "N 4"], b_cxcywh: Float[np.ndarray, "N 4"]
) -> Float[np.ndarray, " N"]:
    """Intersection over union, pair by pair, of the boxes' parts inside the picture."""
    a, b = clamped_xyxy(a_cxcywh), clamped_xyxy(b_cxcywh)
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    overlap = np.prod(np.maximum(high - low, 0.0), axis=1)
    union = np.prod(a[:, 2:] - a[:, :2], axis=1) + np.prod(b[:, 2:] - b[:, :2], axis=1) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def metrics(
    predicted_cxcywh: Float[np.ndarray, "N 4"],
    true_cxcywh: Float[np.ndarray, "N 4"],
    box_mask: Bool[np.ndarray, " N"],
) -> dict[str, float]:
    """`acc_at_0.5`, `acc_at_0.75`, `mean_iou` over the rows with a box, and `boxes`, their number.

    Without any such row only `boxes` is returned. An IoU of exactly the threshold is a hit.
    """
    iou = clamped_iou(predicted_cxcywh[box_mask], true_cxcywh[box_mask])
    if not len(iou):
        return {"boxes": 0.0}
    return {
        "acc_at_0.5": float(np.mean(iou >= 0.5)),
        "acc_at_0.75": float(np.mean(iou >= 0.75)),
        "mean_iou": float(np.mean(iou)),
        "boxes": float(len(iou)),
    }
