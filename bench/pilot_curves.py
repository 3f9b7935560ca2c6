"""`pilot` on real learning curves of transformers, and how often its 90 % bands hold.

The trainings are those of trainings.py. For each curve the score of the whole training, as `train`
would run it, is forecast from 1/8, 1/4 and 1/2 of the rows, and from 1/32, 1/16 and 1/8.
"""

from __future__ import annotations

import statistics

from record import at_least, at_most, record
from trainings import BASES, CURVES, WORK, base_path, measured
from tunewright.decide.curves import forecast
from tunewright.trial import Trial, TrialBook, goal_of

HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16, one thread"
PILOTS = {"default": (32, 16, 8), "thorough": (8, 4, 2)}


def main() -> None:
    known = measured()
    errors: dict[str, list[float]] = {name: [] for name in PILOTS}
    inside: list[bool] = []
    rows = []
    for data, base in CURVES:
        full = known.get(f"{data} {base} 1/1 full")
        for name, parts in PILOTS.items():
            trials = [known.get(f"{data} {base} 1/{part} pilot") for part in parts]
            if full is None or any(trial is None for trial in trials):
                continue
            made = forecast([trial.point() for trial in trials if isinstance(trial, Trial)],
                            goal_of(full.metric), full.num_rows)  # fmt: skip
            errors[name].append(100 * abs(made.value - full.value))
            inside.append(made.band90[0] <= full.value <= made.band90[1])
            rows.append({"curve": f"{base} on {data}", "pilots": name, "metric": full.metric,
                         "forecast": made.value, "band90": made.band90, "measured": full.value,
                         "rows": full.num_rows})  # fmt: skip
    for data in ("banking77-few", "sms_spam-few"):
        curves: dict[str, list[Trial]] = {}
        for trial in TrialBook(WORK / f"choose-{data}").known().values():
            curves.setdefault(trial.base_model, []).append(trial)
        for base in BASES:
            full, trials = known.get(f"{data} {base} 1/1 full"), curves.get(base_path(base), [])
            if full is None or len(trials) < 3:
                continue
            made = forecast([t.point() for t in trials], goal_of(full.metric), full.num_rows)
            errors["default"].append(100 * abs(made.value - full.value))
            inside.append(made.band90[0] <= full.value <= made.band90[1])
            rows.append({"curve": f"{base} on {data}", "pilots": "those of choose",
                         "metric": full.metric, "forecast": made.value, "band90": made.band90,
                         "measured": full.value, "rows": full.num_rows})  # fmt: skip
    record("pilot_curves", [
        at_least("curves", len(errors["thorough"]), 6),
        at_most("mean error at full size, thorough", statistics.mean(errors["thorough"]), 1.0,
                "points"),
        at_most("mean error at full size, default", statistics.mean(errors["default"]), 2.3,
                "points"),
        at_least("coverage of 90 % bands", sum(inside) / len(inside), 0.85),
    ], HARDWARE, {"forecasts": rows})  # fmt: skip


if __name__ == "__main__":
    main()
