"""Two ranks against one, and against two: 50 steps of a tiny model, all ways of sharing it.

python bench/parallel_equal.py [--quick]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT), str(ROOT / "bench")]

import torch  # noqa: E402

from record import at_most, record  # noqa: E402
from train.ranks_harness import Training, furthest, train  # noqa: E402

HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="8 steps")
    quick = parser.parse_args().quick
    worst = {torch.float32: 0.0, torch.float64: 0.0, "again": 0.0}
    cells = {}
    kinds = itertools.product(
        ("lora", "full"), (False, True), (torch.float32, torch.float64), ("ddp", "fsdp")
    )
    for method, packing, dtype, parallel in kinds:
        training = Training(method, dtype, packing, parallel, steps=8 if quick else 50)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            one, two = train(training, 1, folder / "1"), train(training, 2, folder / "2")
            again = train(training, 2, folder / "again")
        apart, repeated = furthest(one, two), furthest(two, again)
        name = f"{method} {'packed' if packing else 'padded'} {str(dtype)[6:]} {parallel}"
        cells[name] = {"1 against 2": apart, "2 against 2": repeated}
        print(f"{name}: {apart:.2g}, {repeated:.2g}", flush=True)
        worst[dtype] = max(worst[dtype], apart)
        worst["again"] = max(worst["again"], repeated)
    loss = max(resumed(folder_pair) for folder_pair in ((2, 1), (1, 2), (2, 3)))
    bars = [
        at_most("2 ranks against 1, fp32, in millionths", worst[torch.float32] * 1e6, 1.0),
        at_most("2 ranks against 1, fp64, in 1e-12", worst[torch.float64] * 1e12, 1.0),
        at_most("2 ranks against 2", worst["again"], 0.0),
        at_most("N ranks resumed on M: loss apart, in millionths", loss * 1e6, 1.0),
    ]
    if not quick:
        record("parallel_equal", bars, HARDWARE, {"cells": cells})
    for bar in bars:
        print(bar)


def resumed(sizes: tuple[int, int]) -> float:
    """How far losses lie apart where the second half runs on another number of ranks."""
    before, after = sizes
    worst = 0.0
    for parallel in ("ddp", "fsdp"):
        training = Training("full", steps=40, parallel=parallel)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as place:
            whole = train(training, before, Path(place) / "whole")
            leg = Path(place) / "leg"
            train(training, before, leg)
            for path in (leg / "checkpoints").glob("step-*"):
                if int(path.name[5:]) > 20:
                    for file in path.iterdir():
                        file.unlink()
                    path.rmdir()
            again = train(training, after, leg, resume=True)
        tail = {s: abs(again["losses"][s] - whole["losses"][s]) for s in range(21, 41)}
        worst = max(worst, *tail.values())
    return worst


if __name__ == "__main__":
    main()
