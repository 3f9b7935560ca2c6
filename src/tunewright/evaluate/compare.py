"""Two systems on the same rows: by how much, how sure, and in one of three words.

Right-or-wrong metrics: exact McNemar. All others: approximate randomisation (whole groups change
sides where rows come in groups) beside a paired bootstrap interval. The words better and worse
need both: p below .05 and an interval that leaves zero out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.errors import DataError
from tunewright.evaluate.score import Gauge, make_gauges
from tunewright.metrics import stats
from tunewright.metrics.table import Metric, find_metric, lacks
from tunewright.records import Comparison, Prediction, VerdictWord

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Found:
    delta: float
    ci95: stats.Interval
    p_value: float
    test: str
    minimum_detectable: float


def compare(
    a: Sequence[Prediction],
    b: Sequence[Prediction],
    metric: str,
    *,
    labels: Sequence[str],
    seed: int,
    num_resamples: int | None = None,
) -> Comparison:
    """System a against system b on the same rows, matched by id.

    Raises DataError when the rows, their references or what the metric needs don't match;
    RecipeError for an unknown metric.
    """
    chosen = find_metric(metric)
    a, b = _matched(a, b)
    for rows in (a, b):
        if lacks(chosen, rows):
            raise DataError(
                f"comparison: {rows[0].system} gives no {chosen.needs} and {metric} needs it; "
                "compare by another metric"
            )
    units = stats.find_units([row.group for row in a])
    count = num_resamples or stats.num_resamples_for(len(a))
    if chosen.yes_no:
        found = _compare_shares(chosen, a, b, labels, units, count, seed)
    else:
        found = _compare_values(chosen, a, b, labels, units, count, seed)
    return Comparison(
        a=a[0].system,
        b=b[0].system,
        metric=metric,
        delta=found.delta,
        ci95=found.ci95,
        p_value=found.p_value,
        test=found.test,
        n=len(a),
        minimum_detectable=found.minimum_detectable,
        verdict=_word(found, higher_is_better=chosen.higher_is_better),
    )


def discordance(a: Sequence[Prediction], b: Sequence[Prediction], metric: str) -> tuple[int, int]:
    """(rows that only a, rows that only b) got right, for a right-or-wrong metric."""
    a, b = _matched(a, b)
    difference = _right(find_metric(metric), a, ()) - _right(find_metric(metric), b, ())
    return int((difference > 0).sum()), int((difference < 0).sum())


def _matched(
    a: Sequence[Prediction], b: Sequence[Prediction]
) -> tuple[list[Prediction], list[Prediction]]:
    """Both in the order of a. Raises DataError unless ids and references agree."""
    if not a or not b:
        raise DataError("comparison: no rows to compare; give predictions of both systems")
    by_id = {row.id: row for row in b}
    ids = {row.id for row in a}
    if len(ids) != len(a) or len(by_id) != len(b):
        raise DataError("comparison: a row id stands twice; predict every row once per system")
    if ids != by_id.keys():
        only_a, only_b = sorted(ids - by_id.keys()), sorted(by_id.keys() - ids)
        example = (only_a + only_b)[0]
        raise DataError(
            f"comparison: {len(only_a)} rows only in {a[0].system}, {len(only_b)} only in "
            f"{b[0].system} (row {example}); evaluate both systems on the same data"
        )
    matched = [by_id[row.id] for row in a]
    for mine, theirs in zip(a, matched, strict=True):
        if mine.reference != theirs.reference or mine.references != theirs.references:
            raise DataError(
                f"comparison: row {mine.id} has two different references; "
                "evaluate both systems on the same data"
            )
    return list(a), matched


def _compare_shares(
    metric: Metric,
    a: Sequence[Prediction],
    b: Sequence[Prediction],
    labels: Sequence[str],
    units: stats.Units,
    count: int,
    seed: int,
) -> _Found:
    """Right-or-wrong rows: exact McNemar, or sign flips of whole groups."""
    difference = _right(metric, a, labels) - _right(metric, b, labels)
    n, delta = len(difference), float(difference.mean())
    ci95 = stats.paired_share_interval(difference, units)
    only_a, only_b = int((difference > 0).sum()), int((difference < 0).sum())
    if not units.clustered:
        test = f"exact McNemar ({only_a} : {only_b})"
        least = stats.detectable_share(n, (only_a + only_b) / n)
        return _Found(delta, ci95, stats.exact_mcnemar(only_a, only_b), test, least)
    flipped = [
        difference @ (1 - 2 * swaps_nB) / n for swaps_nB in stats.swap_weights(units, count, seed)
    ]
    p_value = stats.randomisation_p(delta, np.concatenate(flipped))
    error = (ci95[1] - ci95[0]) / 2 / stats.t_quantile(units.count - 1)
    test = f"cluster permutation ({units.count} groups, {count} draws)"
    return _Found(delta, ci95, p_value, test, stats.detectable(error, units.count))


def _compare_values(
    metric: Metric,
    a: Sequence[Prediction],
    b: Sequence[Prediction],
    labels: Sequence[str],
    units: stats.Units,
    count: int,
    seed: int,
) -> _Found:
    """Any other metric: approximate randomisation, and a paired bootstrap interval."""
    gauge_a = make_gauges({"a": metric}, a, labels)["a"]
    gauge_b = make_gauges({"b": metric}, b, labels)["b"]
    delta = gauge_a.value - gauge_b.value
    draws = np.concatenate(
        [
            gauge_a.read(weights_nB) - gauge_b.read(weights_nB)
            for weights_nB in stats.bootstrap_weights(units, count, seed)
        ]
    )
    ci95 = stats.percentile_interval(draws, units.count)
    swapped = _swapped(metric, gauge_a, gauge_b, [*a, *b], labels, units, count, seed + 1)
    p_value = stats.randomisation_p(delta, swapped)
    kept = draws[np.isfinite(draws)]
    error = float(kept.std(ddof=1)) if len(kept) > 1 else math.nan
    unit = f"{units.count} groups" if units.clustered else "rows"
    test = f"approximate randomisation ({unit}, {count} draws)"
    return _Found(delta, ci95, p_value, test, stats.detectable(error, units.count))


def _swapped(
    metric: Metric,
    gauge_a: Gauge,
    gauge_b: Gauge,
    both: Sequence[Prediction],
    labels: Sequence[str],
    units: stats.Units,
    count: int,
    seed: int,
) -> Array:
    """Differences after the two answers of random units have changed places."""
    parts: list[Array] = []
    if metric.weighted is not None:
        read = metric.weighted(both, labels)
        for swaps_nB in stats.swap_weights(units, count, seed):
            kept_nB = 1 - swaps_nB
            as_a, as_b = np.vstack([kept_nB, swaps_nB]), np.vstack([swaps_nB, kept_nB])
            parts.append(read(as_a) - read(as_b))
        return np.concatenate(parts)
    rows_a: Any = gauge_a.rows
    rows_b: Any = gauge_b.rows
    change = (rows_b - rows_a).T
    sums_a, sums_b = rows_a.sum(axis=0), rows_b.sum(axis=0)
    for swaps_nB in stats.swap_weights(units, count, seed):
        moved = (change @ swaps_nB).T
        parts.append(gauge_a.value_of(sums_a + moved) - gauge_b.value_of(sums_b - moved))
    return np.concatenate(parts)


def _right(metric: Metric, predictions: Sequence[Prediction], labels: Sequence[str]) -> Array:
    assert metric.rows is not None
    rows: Any = metric.rows(predictions, labels)
    return np.asarray(rows[:, 0], dtype=np.float64)


def _word(found: _Found, *, higher_is_better: bool) -> VerdictWord:
    low, high = found.ci95
    if not found.p_value < stats.ALPHA or not (low > 0 or high < 0):
        return "cannot tell"
    return "better" if (found.delta > 0) == higher_is_better else "worse"
