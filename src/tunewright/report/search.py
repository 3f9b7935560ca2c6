"""What `search` found, for people: the best settings, what mattered, and how it went.

Both views read the document of search.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from tunewright.figures import metric_title, show_number, show_seconds, show_value
from tunewright.report import charts
from tunewright.report.shell import render_page

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 24


def print_search(document: Mapping[str, Any], console: Console) -> None:
    """The whole answer on a console."""
    metric, best = str(document["metric"]), document["best"]
    if best is None:
        console.print("[bold]No trial was trained whole yet[/]")
    else:
        console.print(
            f"[bold green]Trial {best['number']}[/]: {metric_title(metric)} "
            f"{show_value(metric, best['value'])} on validation"
        )
        for key, value in best["params"].items():
            console.print(f"  {key}: {show_plain(value)}", markup=False)
    for reason in document["because"]:
        console.print(f"  {reason}", markup=False)
    for key, share in document["importance"].items():
        bar = "█" * max(1, round(WIDTH * share))
        console.print(f"  {bar:<{WIDTH}} {share:4.0%} {key}", markup=False)
    test = document["range_test"]
    if test is not None:
        console.print(
            f"Range test: learning rates from {test['low']:.2g} to {test['high']:.2g} work",
            markup=False,
        )
    console.print(
        f"{show_seconds(document['seconds'])}; the test split was used "
        f"{document['test_touched']} times",
        markup=False,
    )


def show_plain(value: Any) -> str:
    """A setting: numbers short, the rest as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def make_search_page(document: Mapping[str, Any]) -> str:
    """The whole of search.html; no request is made."""
    metric = str(document["metric"])
    return render_page(
        "search.html.j2",
        document=document,
        metric=metric_title(metric),
        value=show_value(metric, document["best"]["value"]) if document["best"] else "",
        params=[(k, show_plain(v)) for k, v in _best(document).items()],
        history=_history(document, metric),
        importance=[
            (key, f"{share:.0%}", charts.bar(share))
            for key, share in document["importance"].items()
        ],
        knobs=[(key, _scatter(document, metric, key)) for key in document["space"]],
        ramp=_ramp(document),
        rows=[_row(row, metric) for row in document["trials"]],
    )


def _best(document: Mapping[str, Any]) -> Mapping[str, Any]:
    best = document["best"]
    return best["params"] if best else {}


def _last(row: Mapping[str, Any]) -> float | None:
    if row["value"] is not None:
        return float(row["value"])
    return float(row["points"][-1]["value"]) if row["points"] else None


def _history(document: Mapping[str, Any], metric: str) -> Markup:
    """Every trial's last score, and the best whole training so far."""
    sign = 1.0 if document["higher_is_better"] else -1.0
    lines, best, so_far = [], -math.inf, []
    for row in document["trials"]:
        last = _last(row)
        if last is None:
            continue
        whole = row["value"] is not None
        tone = "s1" if whole else "s3"
        name = f"trial {row['number']}" + ("" if whole else f", {row['state']}")
        lines.append(charts.Line(name, ((float(row["number"]), last),), tone=tone))
        if whole:
            best = max(best, sign * last)
            so_far.append((float(row["number"]), sign * best))
    if so_far:
        lines.append(charts.Line("best so far", tuple(so_far), tone="s2"))
    return charts.line_chart("Score by trial", lines, write=partial(show_value, metric))


def _scatter(document: Mapping[str, Any], metric: str, key: str) -> Markup:
    """Score against one knob; logarithmic where the knob is."""
    knob = document["space"][key]
    names = [str(item) for item in knob["choices"]]
    lines = []
    for row in document["trials"]:
        last, value = _last(row), row["params"].get(key)
        if last is None or value is None:
            continue
        at = names.index(str(value)) if names else math.log10(value) if knob["log"] else value
        tone = "s1" if row["value"] is not None else "s3"
        name = f"trial {row['number']}: {show_plain(value)}"
        lines.append(charts.Line(name, ((float(at), last),), tone=tone))
    return charts.line_chart(f"Score by {key}", lines, write=partial(show_value, metric))


def _ramp(document: Mapping[str, Any]) -> Markup:
    test = document["range_test"]
    if test is None:
        return Markup("")
    points = tuple((math.log10(p["rate"]), float(p["loss"])) for p in test["curve"])
    return charts.line_chart("Loss by learning rate (powers of ten)", [charts.Line("loss", points)])


def _row(row: Mapping[str, Any], metric: str) -> tuple[str, str, str, str, str]:
    points = row["points"]
    return (
        str(row["number"]),
        row["state"],
        show_value(metric, _last(row)),
        show_number(points[-1]["num_rows"]) if points else "",
        ", ".join(f"{key.split('.')[-1]} {show_plain(v)}" for key, v in row["params"].items()),
    )
