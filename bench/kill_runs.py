"""A thousand `kill -9` at random moments of training, and wrong resumes that must be caught.

LoRA and full, fp32 and bf16, 0 and 2 workers, micro-batches, packing, averages, early stopping,
mixing with the start, dropout and random token hiding; and the packed passes of decoders. What is
compared, to the last bit: final weights, the optimiser's state, every step's loss and gradient
norm, every evaluation, the best step.
Run: python bench/kill_runs.py [KILLS]
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from record import at_least, record
from train.kill_harness import MUTANTS, Played, differences, play, play_mutant, random_kills
from train.tiny_runs import Setting, make_matrix

PLAYS_PER_MUTANT = 20
LEAST_CAUGHT = {"save in place": 0.1}
"""A save in place is harmed only where the kill falls between its first and last write."""
MOST_MUTANTS = 0.8
LEAST_INSIDE_SAVE = 0.15


def kill_many(place: Path, kills: int, seed: int) -> dict[str, Any]:
    """Play the matrix over and over until so many kills fell."""
    dice = random.Random(seed)
    undisturbed = {setting: play(setting, place / "whole") for setting in make_matrix()}
    count: Counter[str] = Counter()
    wrong: list[str] = []
    while count["kills"] < kills:
        for setting, whole in undisturbed.items():
            played = play(setting, place / "killed", random_kills(dice, whole))
            count["runs"] += 1
            count["kills"] += played.kills
            count["inside"] += played.kills_inside_save
            if played.kills:
                count["killed runs"] += 1
                count["kills survived"] += 0 if _wrong(played, whole) else played.kills
            if problem := _wrong(played, whole):
                wrong.append(f"{setting.name}: {problem}")
            if count["kills"] >= kills:
                break
    return {**count, "wrong": wrong}


def catch_mutants(place: Path, seed: int) -> dict[str, float]:
    """Share of killed runs of each wrong resume that ended differently or not at all."""
    dice = random.Random(seed)
    shares = {}
    for mutant in MUTANTS:
        patience = 2 if mutant == "best forgotten" else None
        setting = Setting("bert", "full", "fp32", 0, patience=patience)
        whole = play(setting, place / "whole")
        caught = sum(
            play_mutant(setting, place / "mutant", mutant, whole, dice)
            for _ in range(PLAYS_PER_MUTANT)
        )
        shares[mutant] = caught / PLAYS_PER_MUTANT
    return shares


def _wrong(played: Played, whole: Played) -> str:
    """What is wrong with a killed run; empty when it is the undisturbed one to the last bit."""
    if played.outcome is None or whole.outcome is None:
        return played.error.strip().splitlines()[-1]
    return ", ".join(differences(whole.outcome, played.outcome) + played.outcome["warnings"])


def main(kills: int) -> None:
    torch.set_num_threads(1)
    began = time.monotonic()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        result = kill_many(Path(name), kills, seed=1)
        shares = catch_mutants(Path(name), seed=2)
    fallen = result["kills"]
    share = result["inside"] / fallen
    bars = [
        at_least("kills survived bit for bit", result["kills survived"], fallen),
        at_least("number of kills", fallen, kills),
        at_least("share of kills inside a save", share, LEAST_INSIDE_SAVE),
        at_least("killed runs bit-identical", result["killed runs"] - len(result["wrong"]),
                 result["killed runs"]),
    ]  # fmt: skip
    bars += [
        at_least(f"caught: {name}", caught, LEAST_CAUGHT.get(name, MOST_MUTANTS))
        for name, caught in shares.items()
    ]
    extra = {
        **result,
        "seconds": time.monotonic() - began,
        "torch": torch.__version__,
        "threads": 1,
    }
    record("kill_runs", bars, extra=extra)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
