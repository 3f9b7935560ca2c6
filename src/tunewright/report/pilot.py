"""What `pilot` found, for people: the learning curve on the terminal and as a small page.

Both read the document of pilot.json, so a page can be drawn again from the file alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from tunewright.figures import (
    metric_title,
    show_delta,
    show_interval,
    show_number,
    show_seconds,
    show_value,
    system_title,
)
from tunewright.report import charts
from tunewright.report.shell import render_page

if TYPE_CHECKING:
    from rich.console import Console

COLOURS = {"GO": "green", "MORE DATA": "yellow", "STOP": "red"}
SIGNS = {"GO": ("good", "✓"), "MORE DATA": ("open", "…"), "STOP": ("bad", "✕")}
WIDTH = 40


def print_pilot(document: Mapping[str, Any], console: Console) -> None:
    """The answer, its reasons, the curve, what more rows would bring, and the price."""
    from rich.markup import escape

    answer = str(document["answer"])
    base = escape(str(document["base_model"]))
    console.print(f"[bold {COLOURS[answer]}]{answer}[/]  {base}, {document['task']}")
    for reason in document["because"]:
        console.print(f"  {reason}", markup=False)
    for line in draw_curve(document):
        console.print(line, markup=False, soft_wrap=True)
    for line in (*_more_lines(document), *_price_lines(document)):
        console.print(line, markup=False)


def draw_curve(document: Mapping[str, Any], *, width: int = WIDTH) -> list[str]:
    """One line per pilot, forecast and baseline: rows, a dot within its interval, the figure."""
    metric = str(document["metric"])
    rows = [
        (show_number(p["num_rows"]), p["value"], p["ci95"], "●", "")
        for p in document["points"]
    ]  # fmt: skip
    for made in (document["forecast"], *document["more"]):
        rows.append((show_number(made["num_rows"]), made["value"], made["band90"], "○", "forecast"))
    rivals = [
        (system_title(item["name"]), item["value"], (item["value"], item["value"]), "|", "baseline")
        for item in document["baselines"]
    ]
    ends = [end for row in (*rows, *rivals) for end in row[2] if end is not None]
    low, high = min(ends), max(ends)
    high = high if high > low else low + 1e-9
    lines = [f"{metric_title(metric)} by training rows"]
    labels = max(len(row[0]) for row in (*rows, *rivals))
    for label, value, interval, dot, note in (*rows, *rivals):
        place = partial(_column, low=low, high=high, width=width)
        cells = [" "] * width
        for at in range(place(interval[0]), place(interval[1]) + 1):
            cells[at] = "─" if dot != "|" else " "
        cells[place(value)] = dot
        lines.append(
            f"  {label:>{labels}} {''.join(cells)} {show_value(metric, value)}"
            f" {show_interval(metric, interval) if dot != '|' else ''} {note}".rstrip()
        )
    return lines


def _column(value: float, *, low: float, high: float, width: int) -> int:
    return min(width - 1, max(0, round((width - 1) * (value - low) / (high - low))))


def _more_lines(document: Mapping[str, Any]) -> list[str]:
    metric, made = str(document["metric"]), document["forecast"]
    lines = []
    if made["monotone"]:
        worth = show_delta(metric, _signed(document, made["per_doubling"]))
        lines.append(f"Twice the rows at {show_number(made['num_rows'])}: {worth}, by the slope")
    for item in document["more"]:
        gain = show_delta(metric, _signed(document, item["gain"]))
        lines.append(f"{show_number(item['num_rows'])} rows: {gain} over all rows")
    return lines


def _signed(document: Mapping[str, Any], gain: float) -> float:
    return gain if document["higher_is_better"] else -gain


def _price_lines(document: Mapping[str, Any]) -> list[str]:
    cost, check = document["cost"], document.get("rate_check")
    lines = [
        f"The pilots took {show_seconds(cost['seconds'])}; the whole run would take about "
        f"{show_seconds(cost['full_seconds'])} to train"
    ]
    if check is not None:
        lines.append(f"Learning rate {document['learning_rate']:.2g}: {check['reason']}")
    lines += (document.get("benefit") or {}).get("because", ())
    return lines


def make_pilot_page(document: Mapping[str, Any]) -> str:
    """The whole of pilot.html: answer, curve with its band, table, price; no request is made."""
    metric = str(document["metric"])
    tone, sign = SIGNS[str(document["answer"])]
    return render_page(
        "pilot.html.j2",
        document=document,
        tone=tone,
        sign=sign,
        metric=metric_title(metric),
        curve=_curve(document, metric),
        rows=_table(document, metric),
        notes=[*_more_lines(document), *_price_lines(document)],
    )


def _curve(document: Mapping[str, Any], metric: str) -> Any:
    points = [(math.log2(p["num_rows"]), float(p["value"])) for p in document["points"]]
    made = [document["forecast"], *document["more"]]
    ahead = [points[-1], *((math.log2(f["num_rows"]), float(f["value"])) for f in made)]
    edges = [
        [points[-1], *((math.log2(f["num_rows"]), float(f["band90"][side])) for f in made)]
        for side in (0, 1)
    ]
    across = (points[0][0], ahead[-1][0])
    lines = [
        charts.Line("pilots", tuple(points), dots=True),
        charts.Line("forecast", tuple(ahead), tone="s2", dots=True),
        *(charts.Line("band", tuple(edge), tone="s2", faint=True) for edge in edges),
        *(
            charts.Line(
                system_title(item["name"]), tuple((x, float(item["value"])) for x in across),
                tone="s3", faint=True,
            )
            for item in document["baselines"]
        ),
    ]  # fmt: skip
    return charts.line_chart(
        f"{metric_title(metric)} by doublings of the training rows", lines,
        write=partial(show_value, metric),
    )  # fmt: skip


def _table(document: Mapping[str, Any], metric: str) -> Sequence[tuple[str, str, str, str]]:
    rows = [
        ("pilot", show_number(p["num_rows"]), show_value(metric, p["value"]),
         show_interval(metric, p["ci95"]))
        for p in document["points"]
    ]  # fmt: skip
    rows += [
        ("forecast", show_number(f["num_rows"]), show_value(metric, f["value"]),
         show_interval(metric, f["band90"]))
        for f in (document["forecast"], *document["more"])
    ]  # fmt: skip
    rows += [
        (system_title(item["name"]), "all", show_value(metric, item["value"]), "")
        for item in document["baselines"]
    ]
    return rows
