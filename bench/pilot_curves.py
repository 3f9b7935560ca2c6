"""`pilot` on six real learning curves of transformers, and how often its 90 % bands hold.

The trainings are those of trainings.py: real rows, three passes, batches and rates as the product
chooses them. For each curve the score of the whole training, as `train` runs it, is forecast from
1/32, 1/16 and 1/8 of the rows, and from 1/8, 1/4 and 1/2. The last pilot's own score stands beside
each, for what a law is worth.
"""

from __future__ import annotations

import statistics

from record import at_least, at_most, record
from trainings import CURVES, measured
from tunewright.decide.curves import forecast
from tunewright.trial import Trial, goal_of

HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16, one thread"
PILOTS = {"default": (32, 16, 8), "thorough": (8, 4, 2)}


def rows_of(data: str, base: str, known: dict[str, Trial]) -> list[dict[str, object]]:
    """Both forecasts of one curve beside what was measured; none where trainings are missing."""
    full = known.get(f"{data} {base} 1/1 full")
    found: list[dict[str, object]] = []
    if full is None:
        return found
    goal = goal_of(full.metric)
    for name, parts in PILOTS.items():
        trials = [known.get(f"{data} {base} 1/{part} pilot") for part in parts]
        if any(trial is None for trial in trials):
            continue
        points = [trial.point() for trial in trials if trial is not None]
        made = forecast(points, goal, full.num_rows)
        found.append({
            "curve": f"{base} on {data}", "pilots": name, "metric": full.metric,
            "rows": full.num_rows, "judged": full.num_judged,
            "scores": [[point.num_rows, point.value] for point in points],
            "measured": full.value, "forecast": made.value, "band90": made.band90,
            "last_pilot": points[-1].value,
        })  # fmt: skip
    return found


def main() -> None:
    known = measured()
    rows = [row for data, base in CURVES for row in rows_of(data, base, known)]

    def error(name: str, key: str) -> float:
        off = [100 * abs(r[key] - r["measured"]) for r in rows if r["pilots"] == name]
        return statistics.mean(off) if off else float("nan")

    for row in rows:
        print(f"{row['curve']:24s} {row['pilots']:9s} {row['metric']} measured "
              f"{row['measured']:.3f} forecast {row['forecast']:.3f} {row['band90'][0]:.3f}.."
              f"{row['band90'][1]:.3f} last {row['last_pilot']:.3f}")  # fmt: skip
    inside = [row["band90"][0] <= row["measured"] <= row["band90"][1] for row in rows]
    keys = ("forecast", "last_pilot")
    record("pilot_curves", [
        at_least("curves", len({row["curve"] for row in rows}), 6),
        at_most("mean error at full size, thorough", error("thorough", "forecast"), 1.0, "points"),
        at_most("mean error at full size, default", error("default", "forecast"), 2.3, "points"),
        at_least("coverage of 90 % bands", sum(inside) / max(1, len(inside)), 0.85),
    ], HARDWARE, {
        "mean_errors": {name: {key: error(name, key) for key in keys} for name in PILOTS},
        "forecasts": rows,
    })  # fmt: skip


if __name__ == "__main__":
    main()
