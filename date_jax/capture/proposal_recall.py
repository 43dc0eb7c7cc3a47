"""Measures of proposed boxes: how many of a picture's products have one. On the host."""

import numpy as np
from jaxtyping import Bool, Float

from date_jax.evals import grounding

AT = 10  # proposals of a picture, at most
HIT = 0.5  # IoU


def best_iou(
    proposed_xyxy: Float[np.ndarray, "N R 4"], true_cxcywh: Float[np.ndarray, "N M 4"]
) -> Float[np.ndarray, "N M"]:
    """The largest IoU of each true box with one of the picture's first AT proposals."""
    true = grounding.clamped_xyxy(true_cxcywh)
    proposed = np.clip(proposed_xyxy[:, :AT].astype(np.float64), 0.0, 1.0)
    return grounding.iou(true[:, :, None], proposed[:, None]).max(axis=-1)


def metrics(
    proposed_xyxy: Float[np.ndarray, "N R 4"],
    true_cxcywh: Float[np.ndarray, "N M 4"],
    box_mask: Bool[np.ndarray, "N M"],
) -> dict[str, float]:
    """The measures of pictures' proposals against their true boxes, by name.

    Args:
        proposed_xyxy: best first.
        true_cxcywh: normalised boxes.
        box_mask: False = no box.

    Returns:
        `proposal_recall_at_10`, the share of true boxes that a proposal meets with an IoU of HIT;
        `proposal_iou`, the mean of the best IoUs; `boxes`, the number of true ones. Without any
        only `boxes`.
    """
    # Only the true boxes that there are, of all pictures together.
    iou = best_iou(proposed_xyxy, true_cxcywh)[box_mask]
    if not len(iou):
        return {"boxes": 0.0}
    return {
        f"proposal_recall_at_{AT}": float((iou >= HIT).mean()),
        "proposal_iou": float(iou.mean()),
        "boxes": float(len(iou)),
    }
