"""Scores of one system, each with a 95 % interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tunewright.errors import DataError
from tunewright.metrics import stats
from tunewright.metrics.labels import rarer_label
from tunewright.metrics.table import Metric, Rows, find_metric, is_label_output, lacks
from tunewright.records import Prediction, Result, Score

Array = NDArray[np.float64]
MAX_JACKKNIFE_BYTES = 16_000_000


@dataclass(frozen=True)
class Gauge:
    """A metric made ready over one set of rows, to be read for any weighting of them.

    rows: what each row adds, (n, k), where the metric has it; else `weighted` is set.
    support: rows that bear on the value; a perfect score is only as sure as they are many.
    """

    metric: Metric
    value: float
    rows: Rows | None
    weighted: Callable[[Array], Array] | None
    support: int

    def read(self, weights_nB: Array) -> Array:
        """The metric's value for each column of weights."""
        if self.weighted is not None:
            return self.weighted(weights_nB)
        return self.value_of((_transposed(self.rows) @ weights_nB).T)

    def value_of(self, sums: Array) -> Array:
        """The metric's value for sums of rows, (..., k)."""
        assert self.metric.value is not None
        return self.metric.value(np.asarray(sums, dtype=np.float64))


def make_gauges(
    metrics: Mapping[str, Metric], predictions: Sequence[Prediction], labels: Sequence[str]
) -> dict[str, Gauge]:
    """A gauge per metric; metrics that read the same rows share them."""
    shared: dict[Any, Rows] = {}
    gauges = {}
    for name, metric in metrics.items():
        if metric.weighted is not None:
            read = metric.weighted(predictions, labels)
            value = float(read(np.ones((len(predictions), 1)))[0])
            support = _rank_support(predictions, labels)
            gauges[name] = Gauge(metric, value, None, read, support)
            continue
        assert metric.rows is not None and metric.value is not None
        if metric.rows not in shared:
            shared[metric.rows] = metric.rows(predictions, labels)
        rows = shared[metric.rows]
        value = float(metric.value(np.asarray(rows.sum(axis=0), dtype=np.float64)))
        gauges[name] = Gauge(metric, value, rows, None, _rows_support(rows))
    return gauges


def score(
    predictions: Sequence[Prediction],
    metrics: Sequence[str],
    *,
    labels: Sequence[str],
    seed: int,
    num_resamples: int | None = None,
) -> Result:
    """Score one system's predictions on one split.

    Shares of right rows get Wilson's interval, everything else a bootstrap over rows, or over
    groups where rows come in groups. Metrics that need what the predictions lack (probabilities,
    confidence, likelihoods) are left out; a value that is undefined on these rows is nan.
    Raises DataError without rows, RecipeError for unknown metric names.
    """
    if not predictions:
        raise DataError("evaluation: no rows to score; give a larger validation or test share")
    chosen = {name: find_metric(name) for name in dict.fromkeys(metrics)}
    usable = {name: metric for name, metric in chosen.items() if not lacks(metric, predictions)}
    gauges = make_gauges(usable, predictions, labels)
    units = stats.find_units([row.group for row in predictions])
    resampled = {name: gauge for name, gauge in gauges.items() if not gauge.metric.yes_no}
    count = num_resamples or stats.num_resamples_for(len(predictions))
    replicates = _replicate(resampled, units, count, seed)
    n = len(predictions)
    scores = {
        name: Score(name, gauge.value, _interval(gauge, units, replicates.get(name)), n)
        for name, gauge in gauges.items()
    }
    return Result(predictions[0].system, predictions[0].split, n, scores)


def _accelerate(gauge: Gauge, units: stats.Units) -> float:
    """BCa's acceleration, from leaving each unit out; 0 for ranks, where that is too dear."""
    return stats.acceleration_of(_leave_one_out(gauge, units))


def _leave_one_out(gauge: Gauge, units: stats.Units) -> Array:
    if gauge.rows is None:
        return np.empty(0)
    by_unit = _sum_by_unit(gauge.rows, units)
    total = np.asarray(gauge.rows.sum(axis=0), dtype=np.float64)
    step = max(1, MAX_JACKKNIFE_BYTES // (8 * len(total)))
    parts = []
    for start in range(0, units.count, step):
        part: Any = by_unit[start : start + step]
        dense = part.toarray() if sparse.issparse(part) else part
        parts.append(gauge.value_of(total - dense))
    return np.concatenate(parts)


def _sum_by_unit(rows: Rows, units: stats.Units) -> Any:
    if not units.clustered:
        return rows
    n = len(units.of_row)
    members = sparse.csr_array((np.ones(n), (units.of_row, np.arange(n))), shape=(units.count, n))
    return members @ rows


def _replicate(
    gauges: Mapping[str, Gauge], units: stats.Units, count: int, seed: int
) -> dict[str, Array]:
    """Values of each gauge over the same bootstrap resamples."""
    if not gauges:
        return {}
    parts: dict[str, list[Array]] = {name: [] for name in gauges}
    transposed = {id(g.rows): _transposed(g.rows) for g in gauges.values() if g.rows is not None}
    for weights_nB in stats.bootstrap_weights(units, count, seed):
        sums = {key: (rows @ weights_nB).T for key, rows in transposed.items()}
        for name, gauge in gauges.items():
            known = sums.get(id(gauge.rows)) if gauge.rows is not None else None
            values = gauge.read(weights_nB) if known is None else gauge.value_of(known)
            parts[name].append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def _interval(gauge: Gauge, units: stats.Units, replicates: Array | None) -> stats.Interval:
    if replicates is None:
        dense: Any = gauge.rows
        return stats.share_interval(np.asarray(dense[:, 0], dtype=np.float64), units)
    if gauge.metric.inflated:
        return stats.inflated_interval(gauge.value, replicates)
    skew = _accelerate(gauge, units)
    low, high = stats.bootstrap_interval(gauge.value, replicates, units.count, acceleration=skew)
    return _never_certain(gauge, units, low, high)


def _never_certain(gauge: Gauge, units: stats.Units, low: float, high: float) -> stats.Interval:
    """Widen an interval that has no width because every row is right, or every row is wrong.

    No resample of faultless rows shows a fault; how many faults could have been missed follows
    from the number of rows that bear on the metric, as for a share (Wilson).
    """
    least, most = gauge.metric.range
    if low != high or least is None or most is None or gauge.value not in (least, most):
        return (low, high)
    share = (gauge.value - least) / (most - least)
    ends = stats.wilson_interval(share, min(gauge.support, units.count))
    return (least + (most - least) * ends[0], least + (most - least) * ends[1])


def _transposed(rows: Any) -> Any:
    return sparse.csr_array(rows.T) if sparse.issparse(rows) else np.ascontiguousarray(rows.T)


def _rows_support(rows: Any) -> int:
    if sparse.issparse(rows):
        return int((np.diff(rows.indptr) > 0).sum())
    return int((rows != 0).any(axis=1).sum())


def _rank_support(predictions: Sequence[Prediction], labels: Sequence[str]) -> int:
    """Rows of the rarer label: a ranking is only as sure as its smaller side; all for numbers."""
    if not is_label_output(predictions[0].reference):
        return len(predictions)
    rare = rarer_label(predictions, labels)
    return sum(row.reference == rare for row in predictions) or len(predictions)
