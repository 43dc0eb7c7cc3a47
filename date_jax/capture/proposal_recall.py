"""How many of a picture's products have a proposed box. On the host."""

import numpy as np
from jaxtyping import Bool, Float

from date_jax.evals.grounding import clamped_xyxy

AT = 10  # proposals of a picture, at most
HIT = 0.5  # IoU


def best_iou(
    proposed_xyxy: Float[np.ndarray, "N R 4"], true_cxcywh: Float[np.ndarray, "N M 4"]
) -> Float[np.ndarray, "N M"]:
    """Of each true box the largest IoU with one of the picture's first AT proposals."""
    true = clamped_xyxy(true_cxcywh.reshape(-1, 4)).reshape(*true_cxcywh.shape)[:, :, None]
    proposed = np.clip(proposed_xyxy[:, None, :AT].astype(np.float64), 0.0, 1.0)
    low, high = (
        np.maximum(true[..., :2], proposed[..., :2]),
        np.minimum(true[..., 2:], proposed[..., 2:]),
    )
    both = np.prod(np.maximum(high - low, 0.0), axis=-1)
    areas = [np.prod(np.maximum(b[..., 2:] - b[..., :2], 0.0), axis=-1) for b in (true, proposed)]
    union = areas[0] + areas[1] - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0).max(axis=-1)


def metrics(
    proposed_xyxy: Float[np.ndarray, "N R 4"],
    true_cxcywh: Float[np.ndarray, "N M 4"],
    mask: Bool[np.ndarray, "N M"],
) -> dict[str, float]:
    """`proposal_recall_at_10`: the share of true boxes that a proposal meets with an IoU of HIT;
    `proposal_iou`: the mean of the best IoUs; `boxes`: how many.

    Args:
        mask: which of the true boxes there are.
    """
    iou = best_iou(proposed_xyxy, true_cxcywh)[mask]
    if not len(iou):
        return {"boxes": 0.0}
    return {
        f"proposal_recall_at_{AT}": float((iou >= HIT).mean()),
        "proposal_iou": float(iou.mean()),
        "boxes": float(len(iou)),
    }
