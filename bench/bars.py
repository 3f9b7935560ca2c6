"""Prints every bar of bench/results as a table: bar, figure, goal, pass or short.

A result file holds what one benchmark showed:

    {"case": "banking77-full", "date": "2026-11-22", "hardware": "2 cores AMD EPYC",
     "bars": [{"bar": "accuracy, median of 3 seeds", "figure": 93.9, "goal": 93.6,
               "better": "higher", "unit": "%", "aim": 94.3}], ...}

better is "higher" or "lower"; unit, aim and anything beside the bars are optional. A figure equal
to its goal passes. Exit status: 0 all pass, 1 at least one is short, 2 a file cannot be read.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Bar:
    """One bar of one case: what was shown against what was to be shown."""

    case: str
    bar: str
    figure: float | None
    goal: float
    higher: bool
    unit: str
    aim: float | None
    source: str

    @property
    def passes(self) -> bool:
        """A figure that is missing or not a number never passes."""
        if self.figure is None or not math.isfinite(self.figure):
            return False
        return self.figure >= self.goal if self.higher else self.figure <= self.goal


def read_bars(folder: Path) -> list[Bar]:
    """Bars of all result files below folder, by file name. Raises ValueError naming the file."""
    bars: list[Bar] = []
    for path in sorted(folder.rglob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            items = content.get("bars", []) if isinstance(content, dict) else []
            bars += [make_bar(item, content, path) for item in items]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}: not a result file ({type(error).__name__}: {error})"
            ) from error
    return bars


def make_bar(item: dict[str, Any], content: dict[str, Any], path: Path) -> Bar:
    """One entry of a file's "bars"."""
    if item["better"] not in ("higher", "lower"):
        raise ValueError(f"better is {item['better']!r}; use higher or lower")
    figure, aim = item["figure"], item.get("aim")
    return Bar(
        case=str(content.get("case", path.stem)),
        bar=str(item["bar"]),
        figure=None if figure is None else float(figure),
        goal=float(item["goal"]),
        higher=item["better"] == "higher",
        unit=str(item.get("unit", "")),
        aim=None if aim is None else float(aim),
        source=path.name,
    )


def format_table(bars: Sequence[Bar]) -> str:
    """The bars as aligned plain text."""
    rows = [("case", "bar", "figure", "goal", "aim", "")]
    for bar in bars:
        sign = ">=" if bar.higher else "<="
        figure = "none" if bar.figure is None else f"{bar.figure:g} {bar.unit}".strip()
        goal = f"{sign} {bar.goal:g} {bar.unit}".strip()
        aim = "" if bar.aim is None else f"{bar.aim:g}"
        rows.append((bar.case, bar.bar, figure, goal, aim, "pass" if bar.passes else "SHORT"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; see the module for the exit status."""
    parser = argparse.ArgumentParser(description="Show every bar in bench/results.")
    parser.add_argument("folder", nargs="?", type=Path, default=RESULTS)
    folder = parser.parse_args(arguments).folder
    try:
        bars = read_bars(folder)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not bars:
        print(f"no bars in {folder}; run `make bench`")
        return 0
    print(format_table(bars))
    short = sum(not bar.passes for bar in bars)
    print(f"\n{len(bars) - short} of {len(bars)} bars passed")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
