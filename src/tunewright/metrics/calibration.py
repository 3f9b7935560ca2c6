"""How far probabilities can be believed: log loss, and the calibration error with its bins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tunewright.metrics.labels import is_right, label_set, ratio, with_count
from tunewright.records import Prediction

Array = NDArray[np.float64]
NUM_BINS = 15
SMALLEST = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Bin:
    """Rows of like confidence: their mean confidence beside the share of them that was right."""

    lo: float
    hi: float
    confidence: float
    accuracy: float
    count: int


def log_loss_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> Array:
    """(n, 2): minus the log of the probability given to the truth in nats, and 1.

    Multi-label: mean over the labels of the loss of each yes-or-no. Probabilities are kept within
    [eps, 1 - eps], so one sure and wrong answer costs 36 nats, not infinity.
    """
    index = {label: position for position, label in enumerate(labels)}
    given = np.array([row.probabilities for row in predictions], dtype=np.float64)
    probabilities = np.clip(given.reshape(len(predictions), -1), SMALLEST, 1 - SMALLEST)
    losses = np.full(len(predictions), -math.log(SMALLEST))
    for row, prediction in enumerate(predictions):
        true = [index[label] for label in label_set(prediction.reference) if label in index]
        if isinstance(prediction.reference, tuple):
            yes = np.isin(np.arange(len(labels)), true)
            losses[row] = -np.log(np.where(yes, probabilities[row], 1 - probabilities[row])).mean()
        elif true:
            losses[row] = -math.log(probabilities[row, true[0]])
    return with_count(losses)


def confidences_of(predictions: Sequence[Prediction]) -> tuple[Array, Array]:
    """(confidence, right) of each row; right is 1 where the answer equals the reference."""
    confidence = np.array([row.confidence for row in predictions], dtype=np.float64)
    right = [is_right(row) for row in predictions]
    return confidence, np.array(right, dtype=np.float64)


def bin_edges(confidence: Array, *, equal_width: bool = False) -> Array:
    """Inner edges of at most 15 bins of equal mass (equal confidences stay together) or width."""
    if equal_width:
        return np.linspace(0, 1, NUM_BINS + 1)[1:-1]
    inner = np.quantile(confidence, np.linspace(0, 1, NUM_BINS + 1)[1:-1], method="lower")
    return np.unique(inner)


def ece_rows(
    predictions: Sequence[Prediction], labels: Sequence[str], *, equal_width: bool = False
) -> sparse.csr_array:
    """(n, 3 * 15): confidence, right and 1, each in the column of the row's bin."""
    confidence, right = confidences_of(predictions)
    place = np.searchsorted(bin_edges(confidence, equal_width=equal_width), confidence)
    n = len(confidence)
    columns = np.concatenate([place, NUM_BINS + place, 2 * NUM_BINS + place])
    values = np.concatenate([confidence, right, np.ones(n)])
    rows = np.tile(np.arange(n), 3)
    return sparse.csr_array((values, (rows, columns)), shape=(n, 3 * NUM_BINS))


def ece_of(sums: Array) -> Array:
    """Expected calibration error: mean over rows of |confidence - accuracy| of their bin."""
    confidence, right = sums[..., :NUM_BINS], sums[..., NUM_BINS : 2 * NUM_BINS]
    count = sums[..., 2 * NUM_BINS :]
    return ratio(np.abs(confidence - right).sum(-1), count.sum(-1), empty=math.nan)


def bins_of(confidence: Array, right: Array, *, equal_width: bool = False) -> tuple[Bin, ...]:
    """The filled bins, from low confidence to high. Confidence and accuracy are within 0 ... 1."""
    place = np.searchsorted(bin_edges(confidence, equal_width=equal_width), confidence)
    bins = []
    for number in np.unique(place):
        inside = place == number
        bins.append(
            Bin(
                lo=float(confidence[inside].min()),
                hi=float(confidence[inside].max()),
                confidence=float(confidence[inside].mean()),
                accuracy=float(right[inside].mean()),
                count=int(inside.sum()),
            )
        )
    return tuple(bins)
