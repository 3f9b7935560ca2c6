"""Rows by the million: what preparing them takes, and whether training notices how many there are.

`prepare` reads, cleans, splits and tokenises 10,000 and 1,000,000 rows into the cache, each in a
process of its own whose peak memory is told. `train` takes 300 LoRA steps of the 15M shape from
each, alternating, and compares tokens per second and what the rows take of the memory of the
process that trains: resident after preparing, less resident before.

    python bench/data_scale.py prepare && python bench/data_scale.py train
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import Bar, at_most, record
from rows import write_rows
from shapes import make_shape

HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16"
SIZES = (10_000, 1_000_000)
PLACE = Path(tempfile.gettempdir()) / "tunewright-data-scale"
RECIPE = """\
task: generate
base_model: {model}
data: {{train: {rows}}}
adapter: {{method: lora}}
training: {{max_steps: {steps}, num_epochs: 1, batch_size: 16, max_length: 256}}
evaluation: {{max_new_tokens: 64}}
"""


def memory() -> dict[str, float]:
    """Megabytes of this process: anonymous, file-backed, and the peak of both."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}
    names = {"anonymous": "RssAnon", "files": "RssFile", "peak": "VmHWM"}
    return {name: round(int(values[key]) / 1024, 1) for name, key in names.items()}


def one(size: int, steps: int) -> dict[str, Any]:
    """Prepare and train in this very process; what it took."""
    import torch

    from tunewright.config import parse_recipe
    from tunewright.journal import ConsoleJournal
    from tunewright.preparing import prepare_for_training
    from tunewright.setup import make_setup, open_model
    from tunewright.tokenising import render_for_training
    from tunewright.train.loop import fit
    from tunewright.train.objectives import OBJECTIVES

    text = RECIPE.format(model=PLACE / "15m", rows=PLACE / f"{size}.jsonl", steps=max(1, steps))
    recipe, journal = parse_recipe(text, "bench"), ConsoleJournal()
    before, started = memory(), time.perf_counter()
    prepared = prepare_for_training(recipe, journal)
    setup = make_setup(recipe, prepared, journal)
    loaded = memory()
    rows = render_for_training(prepared, setup.rendering, journal)
    found: dict[str, Any] = {
        "rows": size, "seconds_to_tokens": round(time.perf_counter() - started, 2),
        "before": before, "with_model": loaded, "with_rows": memory(),
    }  # fmt: skip
    if steps:
        tuning = open_model(setup, journal, rows=rows)
        logs = []
        with tempfile.TemporaryDirectory() as folder:
            fit(tuning.base.model, tuning.parameters, rows, tuning.plan, setup.recipe.training,
                objective=OBJECTIVES[setup.objective], evaluate=None, checkpoints=Path(folder),
                log_step=logs.append, log_evaluation=logs.append,
                forget_after=lambda step: None, journal=journal)  # fmt: skip
        late = logs[len(logs) // 10 :]
        found["tokens_per_s"] = statistics.median(log.tokens_per_s for log in late)
        found["after_training"] = memory()
        found["threads"] = torch.get_num_threads()
    return found


def apart(size: int, steps: int) -> dict[str, Any]:
    """`one` in a fresh process, with the peak of its children."""
    command = [sys.executable, __file__, "one", "--rows", str(size), "--steps", str(steps)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def train(rounds: int) -> None:
    found = {size: [] for size in SIZES}
    for _ in range(rounds):
        for size in SIZES:
            found[size].append(apart(size, 300))
    few, many = (found[size] for size in SIZES)
    rates = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in zip(many, few, strict=True)]
    slower = 100.0 * (1.0 - statistics.median(rates))
    taken = [
        statistics.median(
            item["after_training"]["anonymous"] - item["before"]["anonymous"] for item in items
        )
        for items in (few, many)
    ]
    bars: list[Bar] = [
        at_most("300 steps from 1M rows: tokens/s below those from 10k", slower, 5.0, "%"),
        at_most("memory of training from 1M rows above that from 10k", taken[1] - taken[0],
                100.0, "MB"),
    ]  # fmt: skip
    stored = PLACE / "prepare.json"
    extra = {"runs": found, "preparing": json.loads(stored.read_text()) if stored.exists() else []}
    record("data_scale", bars, HARDWARE, extra)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["prepare", "train", "one"], nargs="?", default="train")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1)
    wish = parser.parse_args()
    PLACE.mkdir(exist_ok=True)
    os.environ["TUNEWRIGHT_CACHE"] = str(PLACE / "cache")
    if not (PLACE / "15m").exists():
        make_shape("15m", PLACE)
    for size in SIZES:
        if not (PLACE / f"{size}.jsonl").exists():
            write_rows(PLACE / f"{size}.jsonl", size)
    if wish.what == "one":
        print(json.dumps(one(wish.rows, wish.steps)))
    elif wish.what == "prepare":
        found = [apart(size, 0) for size in SIZES]
        (PLACE / "prepare.json").write_text(json.dumps(found))
        print(found)
    else:
        if not (PLACE / "prepare.json").exists():
            raise SystemExit("run `data_scale.py prepare` first")
        train(wish.rounds)


if __name__ == "__main__":
    main()
