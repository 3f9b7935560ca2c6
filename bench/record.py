"""Where a benchmark's bars go: bench/results/NAME.json, read by `make bars`."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Bar:
    """One thing that was promised, and what was measured; a figure equal to the goal passes."""

    bar: str
    figure: float
    goal: float
    better: Literal["higher", "lower"]
    unit: str = ""

    @property
    def passed(self) -> bool:
        return self.figure >= self.goal if self.better == "higher" else self.figure <= self.goal


def at_most(bar: str, figure: float, limit: float, unit: str = "") -> Bar:
    return Bar(bar, round(float(figure), 5), limit, "lower", unit)


def at_least(bar: str, figure: float, limit: float, unit: str = "") -> Bar:
    return Bar(bar, round(float(figure), 5), limit, "higher", unit)


def record(
    name: str, bars: Sequence[Bar], device: str = "", extra: Mapping[str, Any] | None = None
) -> Path:
    """Write the bars of one benchmark in the form that bars.py reads, and print them."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    document = {
        "case": name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "hardware": device or f"{platform.system()} {platform.machine()}, 1 core",
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "bars": [{**asdict(bar), "passed": bar.passed} for bar in bars],
        **(extra or {}),
    }
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for bar in bars:
        sign = ">=" if bar.better == "higher" else "<="
        print(
            f"{'ok' if bar.passed else 'NO'} {bar.bar}: {bar.figure} {bar.unit}({sign} {bar.goal})"
        )
    return path
