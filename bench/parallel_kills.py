"""One of two ranks is killed ten times; the run recovers by itself and ends in the same bits.

    python bench/parallel_kills.py [--quick]

The whole command, two real gloo processes, SIGKILL to a random rank at a random moment. A recovery
is the time from the kill until the ranks of the next attempt take a step.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from os import kill
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT), str(ROOT / "bench")]

from record import at_least, at_most, record  # noqa: E402

HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16"
HANG_S = 180.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two kills")
    quick = parser.parse_args().quick
    kills = 2 if quick else 10
    with tempfile.TemporaryDirectory() as place:
        folder = make_place(Path(place))
        epochs = 12 if quick else 40
        whole, _ = play(folder, "whole", epochs, 0)
        killed, recoveries = play(folder, "killed", epochs, kills)
    bars = [
        at_least("rank killed: recoveries", len(recoveries), kills),
        at_most("rank killed: slowest recovery", max(recoveries), 15.0, "s"),
        at_most("rank killed: files of weights that differ", float(whole != killed), 0),
    ]
    if not quick:
        record("parallel_kills", bars, HARDWARE, {"recoveries_s": recoveries})
    for bar in bars:
        print(bar)
    print(recoveries)


def make_place(folder: Path) -> Path:
    from train.whole_command import make_place as make

    make(folder)
    return folder


def play(folder: Path, name: str, epochs: int, kills: int) -> tuple[str, list[float]]:
    """(digest of the tuned weights, seconds of each recovery)."""
    dice = random.Random(7)
    command = [sys.executable, "-m", "tunewright", "train", "recipe.yaml", "--run-dir", name,
               "--nproc", "2", f"--set=training.num_epochs={epochs}"]  # fmt: skip
    with open(folder / f"{name}.txt", "w") as output:
        child = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        recoveries = []
        for number in range(kills):
            before = wait_for_steps(folder / name, number + 1, child)
            time.sleep(dice.uniform(0.5, 2.0))
            with suppress(ProcessLookupError):
                kill(before[dice.randrange(2)]["pid"], signal.SIGKILL)
            began = time.monotonic()
            wait_for_steps(folder / name, number + 2, child)
            recoveries.append(round(time.monotonic() - began, 2))
            print(f"kill {number + 1}: recovered in {recoveries[-1]} s", flush=True)
        status = child.wait(HANG_S + 30 * epochs)
    assert status == 0, (folder / f"{name}.txt").read_text()[-2000:]
    digest = hashlib.sha256((folder / name / "model" / "model.safetensors").read_bytes())
    return digest.hexdigest(), recoveries


def wait_for_steps(run: Path, attempt: int, child: subprocess.Popen[Any]) -> list[dict[str, Any]]:
    """Signs of life of both ranks, once that attempt takes steps. Fails where nothing happens."""
    folder = run / ".launch" / f"attempt-{attempt:04d}"
    began = time.monotonic()
    while True:
        beats = []
        for path in sorted(folder.glob("rank-*.beat")):
            with suppress(OSError, ValueError):
                beats.append(json.loads(path.read_text()))
        if len(beats) == 2 and all(b["stage"] != "starting" and b["step"] > 0 for b in beats):
            return beats
        assert child.poll() is None, "the command ended early; make the run longer"
        assert time.monotonic() - began < HANG_S, "a hang"
        time.sleep(0.05)


if __name__ == "__main__":
    main()
