"""The factors of cost/memory.py from measured peaks, and how they do on recipes they never saw.

What lives is arithmetic; what the process holds beyond it (library code, kernel scratch, holes in
the heap) is fitted by path as fixed + activation x kept + logits x outputs, by least squares on
relative errors. Recipes of a neighbouring path count a quarter, others a sixteenth, and a weak pull
towards the middle keeps a path with one recipe sane.

    python bench/plan_fit.py                prints the factors for cost/memory.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy.optimize import lsq_linear

from tunewright.cost.memory import (
    Waste,
    Work,
    activation_bytes,
    forecast_memory,
    logit_bytes,
    path_of,
)
from tunewright.cost.shape import ModelShape

RESULT = Path(__file__).parent / "results" / "plan_memory.json"
MIDDLE, PULL = np.array([110.0, 1.6, 1.6]), 0.02
LEAST, MOST = [20.0, 0.8, 0.8], [400.0, 6.0, 6.0]


def parts_of(row: dict) -> dict:
    """Megabytes of a kept measurement: what must live, by kind, and what was measured."""
    shape, work = ModelShape(**row["shape"]), Work(**row["work"])
    memory = forecast_memory(shape, work, "cpu")
    return {
        "path": path_of(shape, work),
        "living": (sum(memory.held.values()) + memory.passing["gradients"]) / 1e6,
        "kept": activation_bytes(shape, work) / 1e6,
        "logits": logit_bytes(work) / 1e6,
        "peak": row["peak_bytes"] / 1e6,
    }


def fit(rows: list[dict], path: str) -> np.ndarray:
    """(fixed MB, activation, logits) of one path."""
    lines, wanted = [], []
    for row in rows:
        weight = _likeness(row["path"], path) / row["peak"]
        lines.append([weight, weight * row["kept"], weight * row["logits"]])
        wanted.append(weight * (row["peak"] - row["living"]))
    lines += list(np.diag(PULL / MIDDLE))
    wanted += [PULL] * 3
    return lsq_linear(np.array(lines), np.array(wanted), bounds=(LEAST, MOST)).x


def _likeness(one: str, other: str) -> float:
    if one == other:
        return 1.0
    return 0.25 if one.split("-")[:3] == other.split("-")[:3] else 0.06


def forecast(row: dict, factors: np.ndarray) -> float:
    """Megabytes."""
    return float(row["living"] + factors @ [1.0, row["kept"], row["logits"]])


def left_out(rows: list[dict]) -> list[float]:
    """Each row's forecast in bytes by factors that were fitted without it."""
    parts = [parts_of(row) for row in rows]
    return [
        1e6 * forecast(part, fit(parts[:i] + parts[i + 1 :], part["path"]))
        for i, part in enumerate(parts)
    ]


def main() -> None:
    if not RESULT.exists():
        print(f"{RESULT}: not measured yet; run plan_memory.py first")
        return
    kept = json.loads(RESULT.read_text())
    parts = [parts_of(row) for row in [*kept["cases"], *kept["earlier"]]]
    for path in sorted({part["path"] for part in parts}):
        fixed, activation, logits = fit(parts, path)
        print(f'"{path}": {Waste(round(fixed) * 1e6, round(activation, 2), round(logits, 2))},')


if __name__ == "__main__":
    main()
