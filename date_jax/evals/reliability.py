"""How far a confidence can be trusted: calibration, and the risk that is left when it decides.

On the host, in float64. Rows whose confidence is NaN are the caller's to leave out.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

BINS = 10


class Reliability(NamedTuple):
    """The rows by their confidence, in bins of one width from 0 to 1.

    Attributes:
        rows: in each bin.
        confidence: their mean confidence; NaN in an empty bin.
        accuracy: the share of them that is right; NaN in an empty bin.
    """

    rows: Int[np.ndarray, " K"]
    confidence: Float[np.ndarray, " K"]
    accuracy: Float[np.ndarray, " K"]


def reliability(
    confidence: Float[np.ndarray, " N"], is_right: Bool[np.ndarray, " N"], *, bins: int = BINS
) -> Reliability:
    """The reliability table (1706.04599); a confidence of 1 belongs to the last bin.

    Args:
        confidence: in [0, 1].
        is_right: whether the answer was right.
        bins: K.
    """
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    rows = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, values, minlength=bins) for values in (confidence, is_right))
    with np.errstate(invalid="ignore"):
        return Reliability(rows, *(total / rows for total in sums))


def calibration_error(
    confidence: Float[np.ndarray, " N"], is_right: Bool[np.ndarray, " N"], *, bins: int = BINS
) -> float:
    """The expected calibration error (ECE, 1706.04599).

        ECE = Σ_k rows_k / N · |accuracy_k - confidence_k|

    Example: four answers at 0.9 of which two are right.

        >>> calibration_error(np.full(4, 0.9), np.array([True, True, False, False]))
        0.4
    """
    table = reliability(confidence, is_right, bins=bins)
    gap = np.abs(table.accuracy - table.confidence)
    return float(np.nansum(table.rows * gap) / table.rows.sum())


def risk_coverage_area(
    confidence: Float[np.ndarray, " N"], is_right: Bool[np.ndarray, " N"]
) -> float:
    """The area under the risk-coverage curve (1705.08500): the mean error over all coverages.

    At coverage k / N the k most confident answers are given, and the risk is the share of wrong
    ones among them. Of equal confidences the wrong ones come first. Random confidences have the
    share of wrong answers as their area.

    Example: the one wrong answer of four comes last, so that the risks are 0, 0, 0 and 1/4.

        >>> risk_coverage_area(np.array([0.9, 0.8, 0.7, 0.1]), np.array([1, 1, 1, 0], bool))
        0.0625
    """
    is_wrong = ~is_right[np.lexsort((is_right, -confidence))]
    return float(np.mean(np.cumsum(is_wrong) / np.arange(1, len(is_wrong) + 1)))


def roc_area(higher: Float[np.ndarray, " N"], lower: Float[np.ndarray, " M"]) -> float:
    """The area under the ROC curve: the share of pairs where `higher`'s value is above `lower`'s.

    Pairs of equal values count half.
    """
    order = np.sort(lower)
    below, up_to = (np.searchsorted(order, higher, side) for side in ("left", "right"))
    return float(np.mean(below + up_to) / (2 * len(lower)))
