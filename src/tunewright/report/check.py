"""The page of `tunewright check`: verdict, findings row by row, the data card. Self-contained like
the report, whose parts it shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunewright import figures
from tunewright.report.data import SEVERITIES, make_data_section
from tunewright.report.shell import render_page
from tunewright.store import to_plain

MAX_ROWS = 500
TONES = {
    "unfit": ("bad", "✕", "Nothing good can be learned from these rows as they are."),
    "look": ("open", "!", "It can be learned from; some rows deserve a look first."),
    "fit": ("good", "✓", "Nothing was found that would spoil a training run."),
}


def make_check_page(source: str, card: Mapping[str, Any], unfit: Sequence[str]) -> str:
    """The whole page. card: as checking.check makes it; unfit: why the data is, if it is."""
    card = to_plain(card)
    found = card.get("findings", [])
    warned = [item for item in found if item["severity"] != "info"]
    tone = "unfit" if unfit else "look" if warned else "fit"
    headlines = {"unfit": "Unfit to learn from", "look": "Fit, with warnings", "fit": "Fit"}
    rest = {key: value for key, value in card.items() if key not in ("findings", "preflight")}
    learned = card.get("learnability")
    return render_page(
        "check.html.j2",
        source=source,
        task=figures.TASKS.get(card.get("task", ""), card.get("task", "")),
        tone=TONES[tone],
        headline=headlines[tone],
        tiles=_tiles(card, warned),
        because=[*unfit, *([figures.begin(learned["line"])] if learned else [])],
        findings=[_finding(item) for item in found],
        data=make_data_section(rest),
        preflight=[
            (key.replace("_", " "), figures.show_plain(value))
            for key, value in (card.get("preflight") or {}).items()
        ],
    )


def _tiles(
    card: Mapping[str, Any], warned: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, str]]:
    sides = card.get("splits", {})
    rows = sum(side.get("rows", 0) for side in sides.values())
    concerned = {place for item in warned for place in item["places"]}
    share = f"{100 * len(concerned) / rows:.1f} % of all" if rows else ""
    return [
        ("rows", figures.show_number(rows), "read and usable"),
        ("warnings", figures.show_number(len(warned)), "kinds of trouble"),
        ("rows concerned", figures.show_number(len(concerned)), share),
    ]


def _finding(item: Mapping[str, Any]) -> dict[str, Any]:
    tone, sign = SEVERITIES.get(item["severity"], ("calm", "i"))
    suggestions, beside = item.get("suggestions") or [], item.get("counterparts") or []
    rows = [
        {
            "place": place,
            "id": item["rows"][number],
            "suggestion": suggestions[number] if number < len(suggestions) else "",
            "counterpart": beside[number] if number < len(beside) else "",
        }
        for number, place in enumerate(item["places"][:MAX_ROWS])
    ]
    return {
        "kind": item["kind"].replace("_", " "),
        "severity": item["severity"],
        "tone": tone,
        "sign": sign,
        "message": item["message"],
        "rows": rows,
        "count": f"{len(item['places']):,} rows" if len(item["places"]) != 1 else "1 row",
        "more": max(0, len(item["places"]) - MAX_ROWS),
        "suggests": any(suggestions),
        "resembles": any(beside),
    }
