"""The whole loop, unattended: serve, drift at a known moment, alarm, tuning, gate, promotion.

`python bench/whole_loop.py [--seed N] [--known N] [--new N]`. Real commands on loopback:
`tunewright serve --capture`, `tunewright auto`, and a client that asks without pause and labels
60 % of the answers. banking77, embedded base: the model knows ten intents, then three others make
up 40 % of the requests. A request that fails in any way counts; a false alarm before the change
counts too. Recovery: the promoted model against one trained on everything, on the set's own test
rows, mixed as the new traffic is; "everything" holds every row that was traffic.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.story.whole_loop import play

from record import at_least, at_most, record

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[2] / "shared" / "data")
WORK = Path(tempfile.gettempdir()) / "tunewright-whole-loop"
HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16, one thread a process"


def option(name: str, usual: int) -> int:
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else usual


def measure(seed: int) -> dict[str, Any]:
    folder = WORK / f"{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    told = play(folder, DATA, seed=seed, num_known=option("--known", 10),
                num_new=option("--new", 3))  # fmt: skip
    (WORK / f"told-{seed}.json").write_text(json.dumps(told, indent=1))
    print(json.dumps(told, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    return told


def main() -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    if "--seed" in sys.argv:
        measure(option("--seed", 17))
    found = {path.stem.rpartition("-")[2]: json.loads(path.read_text())
             for path in sorted(WORK.glob("told-*.json"))}  # fmt: skip
    behind = [f["accuracy_of_training_on_everything"] - f["accuracy_after"] for f in found.values()]
    bars = [
        at_most("whole loop unattended: requests that failed",
                sum(len(f["failed"]) for f in found.values()), 0),
        at_most("points behind a model trained on everything, on the new traffic, after recovery",
                100 * float(np.mean(behind)), 2.0, "points"),
        at_least("loops that went from alarm to promotion by themselves", 100 * float(np.mean(
            [[s["event"] for s in f["story"]].count("promoted") > 0 for f in found.values()]
        )), 100, "%"),
        at_most("alarms before anything changed",
                sum(f["alarms_before_the_change"] for f in found.values()), 0),
    ]  # fmt: skip
    record("whole_loop", bars, HARDWARE, {"method": __doc__, "by_seed": found})


if __name__ == "__main__":
    main()
