"""How far probabilities can be believed: log loss, calibration error with its bins, temperature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse, special

from tunewright.metrics.labels import is_right, label_set, ratio, with_count
from tunewright.records import Prediction

Array = NDArray[np.float64]
NUM_BINS = 15
SMALLEST = float(np.finfo(np.float64).eps)
MOST_TEMPERATURE = 20.0
PRIOR_DEVIATION = 0.5
"""Of log temperature: with few rows it stays near 0, where nothing is changed."""


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


def fit_temperature(logits_NK: Array, truth: NDArray[np.int64]) -> float:
    """The number that logits are to be divided by, so that probabilities fit what came true.

    truth: (N,) class numbers, or (N, K) of 0 and 1 where rows have several labels. Least log loss
    under a normal prior on log temperature (Guo et al. 2017, "On Calibration of Modern Neural
    Networks"; the prior keeps few rows, or rows without a mistake, from an extreme).
    """
    logits_NK = np.asarray(logits_NK, dtype=np.float64)
    rows = np.arange(len(logits_NK))

    def cost(log_temperature: float) -> float:
        scaled_NK = logits_NK / math.exp(log_temperature)
        if truth.ndim == 2:
            losses = np.logaddexp(0.0, scaled_NK) - truth * scaled_NK
        else:
            losses = special.logsumexp(scaled_NK, axis=1) - scaled_NK[rows, truth]
        return float(losses.sum()) + 0.5 * (log_temperature / PRIOR_DEVIATION) ** 2

    reach = math.log(MOST_TEMPERATURE)
    found = optimize.minimize_scalar(cost, bounds=(-reach, reach), method="bounded")
    return math.exp(float(found.x))


def best_temperature(predictions: Sequence[Prediction], labels: Sequence[str]) -> float:
    """fit_temperature from probabilities alone, on the rows whose labels are known."""
    index = {label: position for position, label in enumerate(labels)}
    several = any(isinstance(row.reference, tuple) for row in predictions)
    rows = [row for row in predictions if several or str(row.reference) in index]
    given = np.array([row.probabilities for row in rows], dtype=np.float64)
    shares_NK = np.clip(given.reshape(len(rows), len(labels)), SMALLEST, 1 - SMALLEST)
    if not several:
        truth = np.array([index[str(row.reference)] for row in rows], dtype=np.int64)
        return fit_temperature(np.log(shares_NK), truth)
    truth_NK = np.zeros(shares_NK.shape, dtype=np.int64)
    for number, row in enumerate(rows):
        known = [index[label] for label in label_set(row.reference) if label in index]
        truth_NK[number, known] = 1
    return fit_temperature(special.logit(shares_NK), truth_NK)


def with_temperature(predictions: Sequence[Prediction], temperature: float) -> list[Prediction]:
    """The same answers with the confidences that logits divided by `temperature` give."""
    warmed = []
    for row in predictions:
        assert row.probabilities is not None
        given = np.clip(np.array(row.probabilities, dtype=np.float64), SMALLEST, 1 - SMALLEST)
        if isinstance(row.reference, tuple):
            shares = special.expit(special.logit(given) / temperature)
            confidence = float(np.maximum(shares, 1 - shares).min())
        else:
            shares = special.softmax(np.log(given) / temperature)
            confidence = float(shares.max())
        warmed.append(replace(row, probabilities=tuple(shares.tolist()), confidence=confidence))
    return warmed
