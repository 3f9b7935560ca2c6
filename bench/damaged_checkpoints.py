"""How many damaged checkpoints are found before use, and what writing and checking one costs.

Damages: bit flips anywhere, truncation, zero length, missing, swapped, foreign and renamed files,
zeroed stretches, appended bytes, edited manifests. Run: python bench/damaged_checkpoints.py [COUNT]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from record import at_least, at_most, record
from train.damage_harness import damage_many, kill_at_every_call, save_in_place
from tunewright.sections import TrainingSection
from tunewright.train.resume import save_checkpoint, verify

STATE_BYTES = 256 * 1024 * 1024


def best_of(times: int, work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of the fastest of several goes."""
    seconds = []
    for _ in range(times):
        began = clock()
        work()
        seconds.append(clock() - began)
    return min(seconds)


def measure_cost() -> dict[str, float]:
    """Seconds to save (by the clock) and to verify (of one core) 256 MB in the temporary folder."""
    tensors = {f"w{i}": torch.randn(STATE_BYTES // 4 // 8) for i in range(8)}
    steps = iter(range(1, 100))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saving = best_of(
            3, lambda: save_checkpoint(folder, next(steps), tensors, {}), time.perf_counter
        )
        checking = best_of(3, lambda: verify(folder / "step-00000001"), time.process_time)
    return {"save_s": saving, "verify_s": checking, "verify_gb_per_s": STATE_BYTES / 1e9 / checking}


def main(count: int) -> None:
    torch.set_num_threads(1)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        every, missed = damage_many(Path(name) / "damaged", count, seed=2)
        calls, wrong = kill_at_every_call(Path(name) / "killed", save_checkpoint)
        _, mutant_wrong = kill_at_every_call(Path(name) / "mutant", save_in_place)
    cost = measure_cost()
    interval_s = TrainingSection().save_interval_s
    found = count - missed.total()
    record(
        "damaged_checkpoints",
        [
            at_least(f"of {count} damaged checkpoints found, the one before used", found, count),
            at_most(f"of {calls} kills inside a save: checkpoints harmed", len(wrong), 0),
            at_least("the same for a save in place (a mutant)", len(mutant_wrong), 1),
            at_least("verification of 256 MB", cost["verify_gb_per_s"], 1.0, "GB/s/core"),
            at_most(
                "a 256 MB save's share of the save interval", cost["save_s"] / interval_s, 0.05
            ),
        ],
        extra={
            "kinds": dict(every),
            "missed": dict(missed),
            "cost": cost,
            "torch": torch.__version__,
        },
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
