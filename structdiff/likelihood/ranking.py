"""How well a number of samples tells two kinds apart, such as outliers by their likelihood.

References:
    The Meaning and Use of the Area under a Receiver Operating Characteristic (ROC) Curve (Hanley
    and McNeil, 1982). https://doi.org/10.1148/radiology.143.1.7063747
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["auroc"]


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """The chance that a sample of the kind has a higher score than one that is not.

    This is the area under the curve of true against false positives; equal scores count half.

    Arguments:
        scores: A number of each sample, `(samples,)`; it may be infinite.
        labels: Whether each is of the kind, booleans or 0 and 1.

    Raises:
        ValueError: If the shapes differ, a score is NaN, a label is neither 0 nor 1, or one of the
            two kinds has no sample.

    Example:
        >>> auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
        0.75
    """
    score, label = np.asarray(scores, np.float64), np.asarray(labels)
    if score.ndim != 1 or label.shape != score.shape:
        msg = f"scores and labels must both be (samples,), got {score.shape} and {label.shape}"
        raise ValueError(msg)
    if np.isnan(score).any() or not np.isin(label, (0, 1)).all():
        msg = "scores must not be NaN, and labels must be 0 or 1: drop the samples that have none"
        raise ValueError(msg)
    kind, others = score[label == 1], np.sort(score[label == 0])
    if not len(kind) or not len(others):
        msg = f"labels must name both kinds, got {len(kind)} samples of one, {len(others)} of none"
        raise ValueError(msg)
    below, upto = (np.searchsorted(others, kind, side) for side in ("left", "right"))
    return float((below + upto).mean() / (2 * len(others)))
