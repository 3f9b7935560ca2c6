"""`pilot` where the truth is planted: a plateau, a steep curve, shuffled labels; ten of each.

Every answer comes from the whole command on other rows and another seed: baselines, one batch by
heart, three nested trainings, forecast. The base is that of planted.py, so that a pilot takes
seconds. `python bench/pilot_planted.py [FIRST LAST]` makes a part; answers are kept, then recorded.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from planted import make_base, write_rows
from record import at_least, record
from tunewright.config import make_recipe
from tunewright.journal import silence
from tunewright.piloting import pilot

HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16, one thread"
WORK = Path(tempfile.gettempdir()) / "tunewright-planted"
KINDS = {
    "plateau": ("GO", 0.25, {"topics": 4, "noise": 0.3}, 9),
    "steep": ("MORE DATA", 1.5, {"topics": 48}, 9),
    "shuffled": ("STOP", 0.25, {"topics": 4, "shuffled": True}, 10),
}
NUM_ROWS = 3200


def answer(kind: str, seed: int) -> dict[str, object]:
    """One pilot; read if it was made before."""
    wanted, spread, how, _ = KINDS[kind]
    path = WORK / f"{kind}-{seed}.json"
    if path.exists():
        return json.loads(path.read_text())
    WORK.mkdir(parents=True, exist_ok=True)
    topics = how["topics"]
    base = make_base(WORK / f"base-{topics}-{spread}", topics=topics, spread=spread)
    rows = write_rows(WORK / f"{kind}-{seed}.csv", num_rows=NUM_ROWS, seed=seed, **how)
    recipe = make_recipe({
        "task": "classify", "base_model": str(base),
        "data": {"train": str(rows), "validation": 0.25, "test": 0.0},
        "training": {"num_epochs": 4, "num_threads": 1, "learning_rate": 1e-3, "batch_size": 32,
                     "precision": "fp32", "seed": seed},
    })  # fmt: skip
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        made = pilot(recipe, Path(folder), silence())
    found = {
        "kind": kind, "seed": seed, "answer": made.answer.answer, "wanted": wanted,
        "forecast": made.answer.forecast.value, "band90": made.answer.forecast.band90,
        "per_doubling": made.answer.forecast.per_doubling, "chance": made.answer.chance,
        "points": [[t.num_rows, t.value] for t in made.trials],
        "baselines": {b.name: b.value for b in made.baselines},
        "seconds": time.monotonic() - started,
    }  # fmt: skip
    path.write_text(json.dumps(found))
    print(kind, seed, found["answer"], round(made.answer.forecast.value, 3), flush=True)
    return found


def main(first: int, last: int) -> None:
    found = [answer(kind, seed) for seed in range(first, last) for kind in KINDS]
    if last < 10:
        return
    found = [answer(kind, seed) for kind in KINDS for seed in range(10)]
    bars = [
        at_least(f"{kind}: answered {wanted}, of 10",
                 sum(f["answer"] == wanted for f in found if f["kind"] == kind), goal)
        for kind, (wanted, _, _, goal) in KINDS.items()
    ]  # fmt: skip
    record("pilot_planted", bars, HARDWARE, {"answers": found})


if __name__ == "__main__":
    main(*(map(int, sys.argv[1:3])) if len(sys.argv) > 2 else (0, 10))
