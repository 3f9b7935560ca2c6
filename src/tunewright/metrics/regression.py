"""Metrics of numbers: mean errors, explained variance, correlation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tunewright.metrics.labels import ratio
from tunewright.records import Output, Prediction

Array = NDArray[np.float64]
Weighted = Callable[[Array], Array]


def numbers_of(predictions: Sequence[Prediction]) -> tuple[Array, Array]:
    """(predicted, true) as floats; what is no number becomes nan."""
    predicted = np.array([_number(row.prediction) for row in predictions])
    true = np.array([_number(row.reference) for row in predictions])
    return predicted, true


def moment_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> Array:
    """(n, 8): |error|, error squared, t, t squared, p, p squared, p x t, and 1.

    t and p are true and predicted values, less the mean of all true ones: large values far from
    zero would lose their digits in the squares.
    """
    predicted, true = numbers_of(predictions)
    error = predicted - true
    centre = np.nanmean(true) if np.isfinite(true).any() else 0.0
    p, t = predicted - centre, true - centre
    return np.column_stack([np.abs(error), error**2, t, t**2, p, p**2, p * t, np.ones(len(t))])


def mae_of(sums: Array) -> Array:
    """Mean absolute error, in the unit of the target."""
    return ratio(sums[..., 0], sums[..., 7], empty=math.nan)


def rmse_of(sums: Array) -> Array:
    """Root of the mean squared error, in the unit of the target."""
    return np.sqrt(ratio(sums[..., 1], sums[..., 7], empty=math.nan))


def r2_of(sums: Array) -> Array:
    """Share of the variance explained: 1 perfect, 0 as good as the mean, below 0 worse."""
    spread = sums[..., 3] - ratio(sums[..., 2] ** 2, sums[..., 7])
    result: Array = 1 - ratio(sums[..., 1], _no_dust(spread, sums[..., 3]), empty=math.nan)
    return result


def pearson_of(sums: Array) -> Array:
    """Linear correlation, -1 ... 1; nan when either side never varies."""
    n = sums[..., 7]
    shared = sums[..., 6] - ratio(sums[..., 2] * sums[..., 4], n)
    true = _no_dust(sums[..., 3] - ratio(sums[..., 2] ** 2, n), sums[..., 3])
    predicted = _no_dust(sums[..., 5] - ratio(sums[..., 4] ** 2, n), sums[..., 5])
    return ratio(shared, np.sqrt(true * predicted), empty=math.nan)


def spearman(predictions: Sequence[Prediction], labels: Sequence[str]) -> Weighted:
    """Rank correlation, -1 ... 1, as a function of weights_nB; ties share their mean rank."""
    predicted, true = numbers_of(predictions)
    return partial(_spearman_of, predicted, true)


def _spearman_of(predicted: Array, true: Array, weights_nB: Array) -> Array:
    if not (np.isfinite(predicted).all() and np.isfinite(true).all()):
        return np.full(weights_nB.shape[1], math.nan)
    total = weights_nB.sum(0)
    ranks_p = _ranks(predicted, weights_nB) - (total + 1) / 2
    ranks_t = _ranks(true, weights_nB) - (total + 1) / 2
    shared = (weights_nB * ranks_p * ranks_t).sum(0)
    spread = (weights_nB * ranks_p**2).sum(0) * (weights_nB * ranks_t**2).sum(0)
    return ratio(shared, np.sqrt(spread), empty=math.nan)


def _ranks(values: Array, weights_nB: Array) -> Array:
    """Mean rank of each row in each resample, as if it stood there as often as its weight says."""
    distinct, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(distinct)))
    weight_TB = np.add.reduceat(weights_nB[order], starts, axis=0)
    ranks_TB = np.cumsum(weight_TB, axis=0) - (weight_TB - 1) / 2
    ranks_nB: Array = ranks_TB[place]
    return ranks_nB


def _no_dust(spread: Array, scale: Array) -> Array:
    """Variance sums with rounding errors taken for the zeros that they are."""
    result: Array = np.where(spread > 1e-12 * np.abs(scale), spread, 0.0)
    return result


def _number(output: Output) -> float:
    return float(output) if isinstance(output, int | float) else math.nan
