"""Recall of proposals, by hand."""

import numpy as np

from date_jax.capture import proposal_recall


def test_recall_of_proposals_counts_the_true_boxes_that_are_met() -> None:
    true = np.array([[[0.3, 0.3, 0.2, 0.2], [0.7, 0.7, 0.2, 0.4], [0, 0, 0, 0]]], np.float32)
    mask = np.array([[True, True, False]])
    proposed = np.array([[[0.2, 0.2, 0.4, 0.4], [0.6, 0.5, 0.7, 0.69], [0, 0, 1, 1]]], np.float32)
    found = proposal_recall.metrics(proposed, true, mask)
    assert found["boxes"] == 2
    assert found["proposal_recall_at_10"] == 0.5
    second = 0.1 * 0.19 / (0.2 * 0.4)
    assert abs(found["proposal_iou"] - (1 + second) / 2) < 1e-5
    nothing = proposal_recall.metrics(proposed, true, np.zeros((1, 3), bool))
    assert nothing == {"boxes": 0.0}
