"""The cost-benefit page, and the same figures as a section of the report. Drawn from plain values.

The page asks nothing of the network. Its sliders recompute in the page what decide/benefit.py
computed, from the quantiles of the error difference that travel with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from tunewright import figures
from tunewright.figures import known
from tunewright.report import charts
from tunewright.report.shell import render_page

VERDICTS = {
    "GO": ("good", "✓", "The money comes back, beyond reasonable doubt."),
    "PILOT": ("open", "…", "Not sure yet: find out more before spending all of it."),
    "STOP": ("bad", "✕", "The money does not come back."),
}
POINTS = 40
MOST_VOLUME = 3.0
"""How far beyond today's volume the break-even chart reaches, at least."""


def make_benefit_page(worth: Mapping[str, Any], title: str) -> str:
    """The whole of benefit.html. worth: as worth.worth_document gives it, through to_plain."""
    return render_page(
        "benefit.html.j2",
        styles=("report.css", "benefit.css"),
        script="benefit.js",
        **benefit_section(worth),
        title=title,
        sliders=_sliders(worth),
        state=json.dumps(_state(worth), separators=(",", ":")),
    )


def benefit_section(worth: Mapping[str, Any]) -> dict[str, Any]:
    """What the report's section and the page have in common; {} for an unexpected shape."""
    try:
        return {
            "word": worth["verdict"],
            "tone": VERDICTS[worth["verdict"]],
            "because": [str(text) for text in worth["because"]],
            "tiles": _tiles(worth),
            "tornado": _tornado(worth),
            "break_even": _break_even(worth),
            "rivals": _rivals(worth),
            "costs": [(row["what"], figures.show_usd(row["usd"])) for row in worth["costs"]],
            "monthly": [(row["what"], figures.show_usd(row["usd"])) for row in worth["monthly"]],
            "energy": _energy(worth),
            "knowing": [
                (row["what"], figures.show_usd(row["usd"]))
                for row in worth["worth_knowing"]
                if row["usd"] >= 0.005
            ],
            "sources": [str(text) for text in worth["sources"]],
            "alerts": [str(text) for text in worth["warnings"]],
        }
    except (KeyError, TypeError, ValueError):
        return {}


def _energy(worth: Mapping[str, Any]) -> str:
    """What training drew, where the recipe counts it; "" else."""
    kwh, co2 = worth.get("train_kwh"), worth.get("train_co2_kg")
    if not known(kwh):
        return ""
    carbon = f", {figures.show_number(co2)} kg of CO2" if known(co2) else ""
    return f"The training drew {figures.show_number(kwh)} kWh{carbon}."


def _tiles(worth: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    npv, even = worth["npv_usd"], worth["break_even_requests"]
    low, high = (money(end) for end in npv["ci95"])
    pay_back = worth["pay_back_months"]
    months = worth["stakes"]["months"]
    volume = figures.show_number(even["value"]) if known(even["value"]) else "none"
    return [
        (f"net present value, {months} months", money(npv["value"]), f"{low} to {high}"),
        ("positive with", f"{worth['probability_of_gain']:.1%}", "probability"),
        ("pays back in", f"{pay_back:.1f}" if known(pay_back) else "never", "months"),
        ("break-even", volume, "requests a month"),
    ]


def money(value: float | None) -> str:
    """ "−$1,250", "$1.2 million" for tables where space is short."""
    if not known(value):
        return figures.NOTHING
    size = abs(value)
    text = f"${size / 1e6:,.2f}M" if size >= 1e6 else figures.show_usd(size)
    return ("−" if value < 0 else "") + text


def _tornado(worth: Mapping[str, Any]) -> dict[str, Any] | None:
    rows = worth["tornado"]
    if not rows:
        return None
    ends = [end for row in rows for end in (row["npv_low"], row["npv_high"])]
    scale = charts.make_scale([0.0, *ends])
    drawn = []
    for row in rows:
        low, high = sorted((row["npv_low"], row["npv_high"]))
        drawn.append(
            {
                "name": row["name"],
                "svg": _span(low, high, scale),
                "range": f"{_figure(row['name'], row['low'])} to "
                f"{_figure(row['name'], row['high'])}",
                "npv": f"{money(row['npv_low'])} to {money(row['npv_high'])}",
            }
        )
    return {"rows": drawn, "axis": charts.scale_axis(scale, _short_money)}


def _span(low: float, high: float, scale: charts.Scale) -> Markup:
    """A bar from low to high, what lies below zero in the tone of losses."""
    drawn = [
        charts.el("line", x1=scale.at(t), x2=scale.at(t), y1=0, y2=34, class_="grid")
        for t in scale.ticks()
    ]
    for start, end, tone in ((low, min(high, 0.0), "bad"), (max(low, 0.0), high, "good")):
        if end > start:
            width = f"{100 * (scale.share(end) - scale.share(start)):.2f}%"
            place = {"x": scale.at(start), "y": 9, "width": width, "height": 16}
            drawn.append(charts.el("rect", **place, rx=2, class_=f"span {tone}"))
    drawn.append(charts.el("line", x1=scale.at(0), x2=scale.at(0), y1=0, y2=34, class_="zero"))
    return charts.el("svg", *drawn, class_="whisker", width="100%", height=34, aria_hidden="true")


def _figure(name: str, value: float) -> str:
    if name == "error difference":
        return f"{100 * value:+.1f} points".replace("-", "−")
    if name == "cost of an error" or " of " in name:  # a price
        return figures.show_usd(value)
    if name == "prices":
        return f"{value:.0%}"
    return figures.show_number(round(value))


def _short_money(value: float) -> str:
    size = abs(value)
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{'−' if value < 0 else ''}${size / limit:.3g}{unit}"
    return f"{'−' if value < 0 else ''}${size:.3g}"


def _break_even(worth: Mapping[str, Any]) -> Markup:
    """Net present value by requests a month, at the middle and at the ends of the error gain."""
    state = _state(worth)
    even = worth["break_even_requests"]["value"]
    today = state["requests"]
    most = max(MOST_VOLUME * today, 2.0 * even if known(even) and even < 50 * today else 0.0, 1.0)
    xs = [most * i / POINTS for i in range(POINTS + 1)]

    def line(gain: float) -> tuple[charts.Point, ...]:
        return tuple((x, net_present_value(state, requests=x, gain=gain)) for x in xs)

    low, high = worth["error_gain"]["ci95"]
    lines = [
        charts.Line("no gain, no loss", ((0.0, 0.0), (most, 0.0)), "s0", faint=True),
        charts.Line("upper end of the error difference", line(high), "s0"),
        charts.Line("middle", line(worth["error_gain"]["value"]), "s1"),
        charts.Line("lower end of the error difference", line(low), "s2"),
    ]
    now = (today, net_present_value(state, requests=today, gain=worth["error_gain"]["value"]))
    return charts.line_chart(
        "Net present value by requests a month; today's volume is ringed",
        lines, write=money, tick=_short_money, mark=now,
    )  # fmt: skip


def net_present_value(state: Mapping[str, Any], *, requests: float, gain: float) -> float:
    """The same sum as decide/benefit.py makes, from the page's state; benefit.js makes it too."""
    each = state["saved"] + gain * state["relevance"] * state["error_usd"]
    month = requests * each - state["month_usd"]
    return float(month * state["annuity"] - state["build_usd"])


def _state(worth: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that the sliders work on."""
    stakes, new, old = worth["stakes"], worth["options"]["new"], worth["options"]["old"]
    monthly = (1.0 + stakes["discount"]) ** (1.0 / 12.0)
    months = stakes["months"]
    annuity = months if monthly == 1.0 else (1.0 - monthly**-months) / (monthly - 1.0)
    saved = _request(old) - _request(new)
    saved += (old["latency_s"] - new["latency_s"]) * stakes["second_usd"]
    return {
        "requests": stakes["requests"]["value"],
        "error_usd": stakes["error_usd"]["value"],
        "gain": worth["error_gain"]["value"],
        "quantiles": worth.get("gain_quantiles") or [worth["error_gain"]["value"]],
        "relevance": stakes["relevance"],
        "saved": saved,
        "build_usd": new["build_usd"] - old["build_usd"],
        "month_usd": new["month_usd"] - old["month_usd"],
        "months": months,
        "monthly": monthly,
        "annuity": annuity,
    }


def _request(option: Mapping[str, Any]) -> float:
    fresh = option["input_tokens"] - option["cached_tokens"]
    tokens = fresh * option["input_usd"] + option["cached_tokens"] * option["cached_usd"]
    tokens += option["output_tokens"] * option["output_usd"]
    return float(tokens / 1e6 + option["request_usd"])


def _rivals(worth: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = sorted(worth["rivals"], key=lambda row: row["month_usd"])
    return [
        {
            "name": row["title"],
            "tuned": row["name"] == "tuned",
            "old": row["name"] == worth["against"],
            "cells": [
                (f"{100 * row['error']:.1f} %", row["error"], "" if row["measured"] else "given"),
                (figures.show_usd(row["request_usd"]), row["request_usd"], ""),
                (money(row["errors_usd"]), row["errors_usd"], ""),
                (money(row["month_usd"]), row["month_usd"], ""),
                (money(row["build_usd"]), row["build_usd"], ""),
            ],
        }
        for row in rows
    ]


def _sliders(worth: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, label, least, most, start; the first three move on a logarithmic scale."""
    state = _state(worth)
    low, high = worth["error_gain"]["ci95"]
    reach = max(0.02, 1.5 * max(abs(low), abs(high)))
    build, error_usd = max(1.0, state["build_usd"]), max(1e-5, state["error_usd"])
    return [
        _slider("requests", "requests a month", max(1.0, state["requests"]), 1000.0, log=True),
        _slider("error_usd", "cost of an error, $", error_usd, 1000.0, log=True),
        _slider("build_usd", "cost to build, $", build, 100.0, log=True),
        {"name": "gain", "label": "errors saved, points", "least": -100 * reach,
         "most": 100 * reach, "value": 100 * state["gain"], "log": ""},
        {"name": "months", "label": "months of use", "least": 1, "most": max(36, state["months"]),
         "value": state["months"], "log": ""},
    ]  # fmt: skip


def _slider(name: str, label: str, value: float, span: float, *, log: bool) -> dict[str, Any]:
    middle = math.log10(value)
    reach = math.log10(span) / 2
    return {"name": name, "label": label, "least": middle - reach, "most": middle + reach,
            "value": middle, "log": "log" if log else ""}  # fmt: skip
