"""The whole `tunewright train` on disks that fill at many points, and killed at many moments.

Needs root, for the small disks. What must be the same in the end as without trouble: model files,
predictions, losses, evaluations, scores, verdict and pages. Run: python bench/disk_full.py [KILLS]
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from record import at_least, at_most, record
from train.whole_command import (
    Filler,
    FullDisk,
    damaged_checkpoints,
    fill_and_grow,
    fingerprint,
    make_place,
    train,
    used_bytes,
)

SHARES = (0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Sizes of disks, as shares of what the whole run takes."""
FILLERS = (
    *(Filler("save_tuned", left) for left in (0, 8_192, 65_536, 147_456, 155_648)),
    *(Filler("save_predictions", left) for left in (0, 4_096)),
    *(Filler("write_report", left) for left in (0, 4_096, 40_960, 65_536, 98_304)),
)


def fill_disks(recipe: Path, place: Path, whole: dict[str, Any], size: int) -> list[FullDisk]:
    hows = [*(int(size * share) for share in SHARES), *FILLERS]
    return [fill_and_grow(recipe, place / "disk", whole, how) for how in hows]


def kill_commands(
    recipe: Path, place: Path, whole: dict[str, Any], seconds: float, kills: int
) -> Any:
    """Kill whole commands at uniform moments; (kills, runs, what went wrong)."""
    dice = random.Random(4)
    fallen = runs = 0
    wrong: list[str] = []
    while fallen < kills:
        runs += 1
        run_dir = place / f"run-{runs}"
        for start in range(20):
            ended = train(
                recipe, run_dir, kill_after_s=dice.uniform(0, seconds) if start < 4 else None
            )
            fallen += ended.status == -9
            wrong += damaged_checkpoints(run_dir)
            if ended.status != -9:
                break
        if ended.status != 0:
            wrong.append(f"run {runs} ended in {ended.status}: {ended.err.strip()[-300:]}")
            continue
        left = fingerprint(run_dir)
        wrong += [f"run {runs}: {key} differs" for key in whole if left[key] != whole[key]]
    return fallen, runs, wrong


def main(kills: int) -> None:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        place = Path(name)
        recipe = make_place(place)
        undisturbed = train(recipe, place / "whole")
        whole = fingerprint(place / "whole")
        played = fill_disks(recipe, place, whole, used_bytes(place / "whole"))
        fallen, runs, wrong = kill_commands(recipe, place, whole, undisturbed.seconds, kills)
    full = [p for p in played if p.first.status != 0]
    record(
        "disk_full",
        [
            at_least("disks that filled during the run", len(full), len(played) - 2),
            at_least("exit 3 on a full disk", sum(p.first.status == 3 for p in full), len(full)),
            at_most("checkpoints damaged by a full disk", sum(len(p.damaged) for p in full), 0),
            at_least("next start finished", sum(p.second.status == 0 for p in full), len(full)),
            at_least("ended bit-identical", sum(p.same for p in full), len(full)),
            at_least("kills of the whole command", fallen, kills),
            at_most("killed commands with anything amiss", len(wrong), 0),
        ],
        extra={
            "disks": [[p.stage, p.first.status, p.second.status, p.differences] for p in played],
            "killed runs": runs,
            "amiss": wrong,
        },
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
