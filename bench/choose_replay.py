"""`choose` replayed on 90 published curves: 30 language models, 3 tasks, to 1.6 million rows.

Every value is a table look-up: nothing is trained. Relative accuracy is (worst - chosen) / (worst -
best) in full-data loss (Lin et al. 2024). Losses of different tokenizers cannot be compared in
earnest; the table is used as the paper uses it, the product ranks by metric or bits per byte.
"""

from __future__ import annotations

import csv
import os
import statistics
from pathlib import Path

import numpy as np

from record import at_least, at_most, record
from tunewright.decide.choose import Rung, ladder_cost, plan_ladder, promote
from tunewright.decide.curves import Goal, Point, forecast

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[2] / "shared" / "data")
SETS = ("flan", "wmt19", "gigaword")
BUDGET_SHARE = 0.15
GOAL = Goal("loss", 0.0, higher_is_better=False, smooth=True)
Curves = dict[str, dict[int, float]]


def read_curves(name: str) -> Curves:
    """Model name to loss by number of rows."""
    with open(DATA / "llm-finetune-curves" / f"{name}.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    sizes = [key for key in rows[0] if key.isdigit() and key != "0"]
    return {row["config name"]: {int(n): float(row[n]) for n in sizes} for row in rows}


def relative_accuracy(curves: Curves, chosen: str) -> float:
    full = {name: curve[max(curve)] for name, curve in curves.items()}
    worst, best = max(full.values()), min(full.values())
    return (worst - full[chosen]) / (worst - best)


def halve(curves: Curves, rungs: tuple[Rung, ...], *, raw: bool) -> str:
    """The last one standing. raw: promoted by the largest pilot's loss, as plain halving does."""
    full = max(next(iter(curves.values())))
    standing = list(curves)
    measured: dict[str, dict[int, Point]] = {name: {} for name in curves}
    for i, rung in enumerate(rungs):
        for name in standing:
            for share in rung.shares:
                rows = round(share * full)
                measured[name][rows] = Point(rows, curves[name][rows])
        points = {name: list(measured[name].values()) for name in standing}
        if raw:
            points = {name: [max(p, key=lambda q: q.num_rows)] for name, p in points.items()}
        keep = rungs[i + 1].keep if i + 1 < len(rungs) else 1
        standing = promote(points, GOAL, full, keep)
    return standing[0]


def subsets(curves: Curves, count: int, size: int) -> list[Curves]:
    """Random pools of candidates, so that the result does not hang on one set of thirty."""
    dice = np.random.default_rng(17)
    names = sorted(curves)
    return [{name: curves[name] for name in dice.choice(names, size, replace=False)}
            for _ in range(count)]  # fmt: skip


def main() -> None:
    found: dict[str, dict[str, float]] = {}
    pools: dict[str, dict[str, float]] = {}
    cost = 0.0
    for name in SETS:
        curves = read_curves(name)
        full = max(next(iter(curves.values())))
        rungs = plan_ladder(len(curves), num_rows=full, least_rows=1600, budget_share=BUDGET_SHARE)
        cost = ladder_cost(rungs) / len(curves)
        found[name] = {
            "extrapolated": relative_accuracy(curves, halve(curves, rungs, raw=False)),
            "raw": relative_accuracy(curves, halve(curves, rungs, raw=True)),
        }
        small = plan_ladder(12, num_rows=full, least_rows=1600, budget_share=BUDGET_SHARE)
        both = [
            [relative_accuracy(pool, halve(pool, small, raw=raw)) for raw in (False, True)]
            for pool in subsets(curves, 200, 12)
        ]
        pools[name] = {"extrapolated": float(np.mean(both, axis=0)[0]),
                       "raw": float(np.mean(both, axis=0)[1])}  # fmt: skip
    ours = [item["extrapolated"] for item in found.values()]
    raw = [item["raw"] for item in found.values()]
    errors, covered = eighth()
    record("choose_replay", [
        at_most("cost as a share of training all thirty", cost, BUDGET_SHARE),
        at_least("relative accuracy, mean of three sets", statistics.mean(ours), 0.99),
        at_least("relative accuracy, least of three sets", min(ours), 0.98),
        at_least("mean above halving on raw pilot loss by",
                 statistics.mean(ours) - statistics.mean(raw), 0.0),
        at_most("median error at 8x, flan", errors["flan"], 3.0, "%"),
        at_most("median error at 8x, wmt19", errors["wmt19"], 6.0, "%"),
        at_most("median error at 8x, gigaword", errors["gigaword"], 1.5, "%"),
        at_least("coverage of 90 % bands, least of 2x, 4x, 8x", min(covered.values()), 0.85),
        at_most("coverage of 90 % bands, most of them", max(covered.values()), 0.97),
    ], "arithmetic on published curves",
        {"sets": found, "random pools of 12, mean of 200": pools, "coverage by reach": covered,
         "ladder": [[rung.share, rung.keep] for rung in rungs]})  # fmt: skip


def eighth() -> tuple[dict[str, float], dict[int, float]]:
    """(median error of the forecast at 8x in per cent by set, share of bands that held it by how
    far they reached).
    """
    errors, inside = {}, {}
    for reach in (2, 4, 8):
        held = []
        for name in SETS:
            off = []
            for curve in read_curves(name).values():
                full = max(curve)
                parts = (4 * reach, 2 * reach, reach)
                points = [Point(full // k, curve[full // k]) for k in parts]
                made = forecast(points, GOAL, full)
                off.append(abs(made.value - curve[full]) / curve[full])
                held.append(made.band90[0] <= curve[full] <= made.band90[1])
            errors[name] = 100 * float(np.median(off))
        inside[reach] = float(np.mean(held))
    return errors, inside


if __name__ == "__main__":
    main()
