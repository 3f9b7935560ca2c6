"""Scores and comparisons as the page shows them: tables, dots with whiskers, and their axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunewright import figures
from tunewright.errors import RecipeError
from tunewright.figures import known
from tunewright.records import Comparison, Report, Result
from tunewright.report import charts
from tunewright.report.text import say_comparison

WORDS = {"better": ("good", "▲"), "worse": ("bad", "▼"), "cannot tell": ("open", "◇")}


def result_group(report: Report, split: str, results: Sequence[Result]) -> dict[str, Any]:
    """The systems measured on one split: a chart of the deciding metric, and all figures."""
    metric = report.primary_metric
    names = list(dict.fromkeys(name for result in results for name in result.metrics))
    names.sort(key=lambda name: name != metric)
    return {
        "split": split,
        "n": max(result.n for result in results),
        "chart": _whiskers(metric, results),
        "metrics": [(figures.metric_title(name), direction(name)) for name in names],
        "rows": [_result_row(result, names) for result in results],
    }


def _result_row(result: Result, names: Sequence[str]) -> dict[str, Any]:
    cells = []
    for name in names:
        score = result.metrics.get(name)
        cells.append(
            {
                "sort": score.value if score and known(score.value) else "",
                "value": figures.show_value(name, score.value if score else None),
                "interval": figures.show_interval(name, score.ci95) if score else "",
            }
        )
    return {
        "system": figures.system_title(result.system),
        "tuned": result.system == "tuned",
        "n": result.n,
        "cells": cells,
    }


def _whiskers(metric: str, results: Sequence[Result]) -> dict[str, Any] | None:
    """Dot and whiskers per system on the deciding metric; None when fewer than two have it."""
    scored = [(r, r.metrics[metric]) for r in results if metric in r.metrics]
    scored = [(r, score) for r, score in scored if known(score.value)]
    if len(scored) < 2:
        return None
    centre = next((s.value for r, s in scored if r.system == "tuned"), scored[0][1].value)
    items = [(_or(s.ci95[0], s.value), s.value, _or(s.ci95[1], s.value)) for _, s in scored]
    scale = charts.focus_scale(items, centre)
    rows = [
        {
            "name": figures.system_title(result.system),
            "tuned": result.system == "tuned",
            "svg": charts.whisker(
                score.value, score.ci95, scale, tone="s1" if result.system == "tuned" else "s0"
            ),
            "value": figures.show_value(metric, score.value),
            "interval": figures.show_interval(metric, score.ci95),
        }
        for result, score in scored
    ]
    return {"rows": rows, "axis": charts.scale_axis(scale, lambda v: metric_tick(metric, v))}


def metric_tick(metric: str, value: float, *, delta: bool = False) -> str:
    """What an axis of this metric shows at a value."""
    text = figures.show_tick(float(f"{100 * value:.6g}") if figures.is_share(metric) else value)
    return f"+{text}" if delta and value > 0 else text


def direction(metric: str) -> str:
    """ "higher is better" or "lower is better"; empty for a metric that nobody knows."""
    from tunewright.metrics.table import find_metric

    try:
        higher = find_metric(metric).higher_is_better
    except RecipeError:
        return ""
    return "higher is better" if higher else "lower is better"


def _or(value: float, other: float) -> float:
    return value if known(value) else other


def forests(report: Report) -> list[dict[str, Any]]:
    """One forest plot per metric, the deciding metric first."""
    names = list(dict.fromkeys(item.metric for item in report.comparisons))
    names.sort(key=lambda name: name != report.primary_metric)
    return [_forest(name, [c for c in report.comparisons if c.metric == name]) for name in names]


def _forest(metric: str, items: Sequence[Comparison]) -> dict[str, Any]:
    reach = [(_or(c.ci95[0], c.delta), c.delta, _or(c.ci95[1], c.delta)) for c in items]
    smallest = min(max(abs(low), abs(high)) for low, _, high in reach)
    near = [item for item in reach if abs(item[1]) <= 6 * smallest]
    scale = charts.make_scale([0.0, *(end for item in near for end in item)])
    rows = [
        {
            "item": item,
            "names": (figures.system_title(item.a), figures.system_title(item.b)),
            "says": say_comparison(item),
            "tone": WORDS[item.verdict][0],
            "sign": WORDS[item.verdict][1],
            "svg": charts.whisker(
                item.delta, item.ci95, scale, tone=WORDS[item.verdict][0], zero=True,
                hidden=item.minimum_detectable, height=48,
            ),
            "delta": figures.show_delta(metric, item.delta),
            "interval": figures.show_delta_interval(metric, item.ci95),
            "p": figures.show_p(item.p_value),
            "detectable": figures.show_delta(metric, item.minimum_detectable).lstrip("+"),
        }
        for item in items
    ]  # fmt: skip
    axis = charts.scale_axis(scale, lambda value: metric_tick(metric, value, delta=True))
    unit = "percentage points" if figures.is_share(metric) else figures.metric_title(metric)
    return {
        "metric": figures.metric_title(metric),
        "unit": unit,
        "direction": direction(metric),
        "rows": rows,
        "axis": axis,
    }
