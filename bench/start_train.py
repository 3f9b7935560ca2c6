"""From `tunewright train` on the command line to the first optimiser step.

10,000 rows of prompts and completions, LoRA on the 15M shape: the first start prepares the rows,
the others find them. The clock runs from the start of the process until steps.jsonl has a line.

    python bench/start_train.py
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import at_most, record
from rows import write_rows
from shapes import make_shape

HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16"
RUNS = 4
RECIPE = """\
task: generate
base_model: {model}
data: {{train: {rows}}}
adapter: {{method: lora}}
training: {{num_epochs: 1}}
"""


def start(recipe: Path, run: Path) -> float:
    """Seconds until the first step is logged; the run is ended there."""
    command = [Path(sys.executable).with_name("tunewright"), "train", recipe, "--run-dir", run]
    began = time.perf_counter()
    with subprocess.Popen(
        [str(part) for part in command],
        # A warm start has its bytecode, whatever this shell says about writing it.
        env={k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        steps = run / "steps.jsonl"
        while process.poll() is None and not (steps.exists() and steps.stat().st_size):
            time.sleep(0.01)
        took = time.perf_counter() - began
        if process.poll() is not None:
            assert process.stderr is not None
            raise SystemExit(f"the run ended early:\n{process.stderr.read()[-2000:]}")
        process.kill()
    return took


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TUNEWRIGHT_CACHE"] = str(folder / "cache")
        write_rows(folder / "rows.jsonl", 10_000)
        recipe = folder / "recipe.yaml"
        recipe.write_text(
            RECIPE.format(model=make_shape("15m", folder), rows=folder / "rows.jsonl")
        )
        seconds = []
        for number in range(RUNS):
            seconds.append(start(recipe, folder / f"run{number}"))
            shutil.rmtree(folder / f"run{number}", ignore_errors=True)
            print(f"start {number}: {seconds[-1]:.2f} s", flush=True)
    warm = statistics.median(seconds[1:])
    bar = at_most("start of train to first step, 10k rows, warm cache", warm, 6.0, "s")
    record("start_train", [bar],
           HARDWARE, {"cold_s": seconds[0], "warm_s": seconds[1:]})  # fmt: skip


if __name__ == "__main__":
    main()
