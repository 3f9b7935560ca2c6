"""Metrics of one operating point: what is found at a bearable price of errors.

Each is a function of weights_nB (one resample per column) to B values, as rank metrics are. The
point is chosen anew in every resample from the very rows that are judged; a threshold that was
fixed beforehand is `decide.threshold`'s business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tunewright.metrics.calibration import confidences_of
from tunewright.metrics.labels import (
    Weighted,
    average_precision_of,
    mean_over_labels,
    ratio,
    scored_labels,
    weight_by_threshold,
)
from tunewright.records import Prediction

Array = NDArray[np.float64]


def recall_at_fpr(
    predictions: Sequence[Prediction], labels: Sequence[str], *, at: float
) -> Weighted:
    """Share of the rarer label's rows found while at most `at` of the others raise a false alarm.

    More than two labels: mean over labels, one against the rest. Needs probabilities.
    """
    area = partial(_recall_of, most_false=at)
    return partial(mean_over_labels, scored_labels(predictions, labels), area)


def pr_auc_at_rate(
    predictions: Sequence[Prediction], labels: Sequence[str], *, at: float
) -> Weighted:
    """Average precision as it would be if the rarer label made up a share `at` of all rows.

    The other rows are weighted, not drawn: right where the mix was changed by choosing rows by
    label alone, as when rare cases were gathered. Needs probabilities.
    """
    area = partial(_precision_at_rate, rate=at)
    return partial(mean_over_labels, scored_labels(predictions, labels), area)


def coverage_at_precision(
    predictions: Sequence[Prediction], labels: Sequence[str], *, at: float
) -> Weighted:
    """Largest share of rows, the surest first, of which at least `at` are answered right.

    The rest is handed to a person. 0 where not even the surest answers are right so often.
    """
    confidence, right = confidences_of(predictions)
    return partial(_coverage_of, confidence, right > 0, least_right=at)


def _recall_of(
    scores: Array, positive: NDArray[np.bool_], weights_nB: Array, *, most_false: float
) -> Array:
    positive_TB, negative_TB = weight_by_threshold(scores, positive, weights_nB)
    found_TB, false_TB = np.cumsum(positive_TB, axis=0), np.cumsum(negative_TB, axis=0)
    allowed_TB = false_TB <= most_false * false_TB[-1] + 1e-9
    best = np.where(allowed_TB, found_TB, 0.0).max(0)
    return ratio(best, found_TB[-1], empty=math.nan)


def _precision_at_rate(
    scores: Array, positive: NDArray[np.bool_], weights_nB: Array, *, rate: float
) -> Array:
    rare, others = weights_nB[positive].sum(0), weights_nB[~positive].sum(0)
    factor = ratio(rare * (1 - rate), others * rate)
    return average_precision_of(scores, positive, np.where(positive[:, None], 1.0, factor)
                                * weights_nB)  # fmt: skip


def _coverage_of(
    confidence: Array, right: NDArray[np.bool_], weights_nB: Array, *, least_right: float
) -> Array:
    right_TB, wrong_TB = weight_by_threshold(confidence, right, weights_nB)
    all_TB = np.cumsum(right_TB + wrong_TB, axis=0)
    good_TB = np.cumsum(right_TB, axis=0) >= least_right * all_TB - 1e-9
    best = np.where(good_TB, all_TB, 0.0).max(0)
    return ratio(best, all_TB[-1], empty=math.nan)


AT: dict[str, tuple[str, Callable[..., Weighted]]] = {
    "recall_at_fpr": ("recall of the rarer label at this false-alarm rate", recall_at_fpr),
    "pr_auc_at_rate": ("average precision, the rarer label being this share", pr_auc_at_rate),
    "coverage_at_precision": ("share answered at this precision", coverage_at_precision),
}
"""By name: what it says, and the metric. The number stands in brackets: recall_at_fpr[0.01]."""
