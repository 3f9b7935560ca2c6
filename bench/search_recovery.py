"""`search` with a bad default planted: 20 trials against the best of a grid, and a kill -9 midway.

The recipe begins a hundred times too low in its learning rate. The best known is the best of a grid
of rates and batches, each trained whole by the same code. The search runs as the real command, is
killed twice by SIGKILL, and goes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from planted import make_base, write_rows
from record import at_least, at_most, record
from tunewright.config import make_recipe, with_values
from tunewright.data.prepare import prepare
from tunewright.journal import silence
from tunewright.trial import TrialBook, deciding_metric, nested_order, with_rows

HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16, one thread"
WORK = Path(tempfile.gettempdir()) / "tunewright-search"
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
BATCHES = (8, 32)
TRIALS = 20
KILL_AFTER = (3, 9)


def values() -> dict[str, object]:
    base = make_base(WORK / "base", topics=24, spread=1.5)
    rows = WORK / "rows.csv"
    if not rows.exists():
        write_rows(rows, num_rows=2400, topics=24, seed=5)
    return {
        "task": "classify", "base_model": str(base),
        "data": {"train": str(rows), "validation": 0.4, "test": 0.0},
        "training": {"num_epochs": 3, "num_threads": 1, "learning_rate": 1e-5, "batch_size": 32,
                     "head_init": "random", "precision": "fp32"},
        "search": {"trials": TRIALS, "space": {
            "training.learning_rate": {"low": 1e-6, "high": 1e-1, "log": True},
            "training.batch_size": {"choices": list(BATCHES)},
            "training.label_smoothing": {"choices": [0.0, 0.1]},
        }},
    }  # fmt: skip


def best_known() -> tuple[float, float]:
    """(score of the bad default, best score of the grid), each trained on all rows."""
    recipe = make_recipe(values())
    prepared = prepare(recipe.data, recipe.task, silence())
    metric = deciding_metric(recipe, prepared)
    part = with_rows(prepared, nested_order(prepared.splits.train, recipe.data.split_seed))
    book = TrialBook(WORK / "grid")
    book.folder.mkdir(parents=True, exist_ok=True)
    scores = [
        book.run(with_values(recipe, {"training.learning_rate": rate, "training.batch_size": size}),
                 part, metric, silence(), careful=True).value
        for rate in (1e-5, *RATES) for size in BATCHES
    ]  # fmt: skip
    return scores[1], max(scores)


def lines(folder: Path) -> list[str]:
    path = folder / "trials.jsonl"
    rows = path.read_text().splitlines() if path.exists() else []
    return [json.loads(row)["key"] for row in rows]


def run_killed(folder: Path) -> tuple[dict[str, object], int]:
    """(the document of the last call, how often it was killed)."""
    recipe = WORK / "recipe.yaml"
    recipe.write_text(json.dumps(values()))
    program = str(Path(sys.executable).with_name("tunewright"))
    command = [program, "search", str(recipe), "--dir", str(folder), "--json"]
    kills = 0
    while True:
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        if kills == len(KILL_AFTER):
            return json.loads(process.communicate()[0]), kills
        while process.poll() is None and len(lines(folder)) < KILL_AFTER[kills]:
            time.sleep(0.05)
        time.sleep(0.4)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1


def main() -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    default, best = best_known()
    folder = WORK / f"study-{os.getpid()}"
    document, kills = run_killed(folder)
    trials = document["trials"]
    found = document["best"]["value"]
    numbers = [row["number"] for row in trials]
    ended = sum(row["state"] in ("complete", "pruned") for row in trials)
    record("search_recovery", [
        at_most("below the best of the grid", 100 * (best - found), 0.5, "points"),
        at_least("kill -9 survived", kills, 2),
        at_most("trials lost or double, of 20",
                TRIALS - len(set(numbers)) + len(numbers) - len(set(numbers)) + TRIALS - ended, 0),
        at_most("trainings run twice", len(lines(folder)) - len(set(lines(folder))), 0),
    ], HARDWARE, {"bad default": default, "best of the grid": best, "found": found,
                  "importance": document["importance"], "range_test": {
                      k: v for k, v in (document["range_test"] or {}).items() if k != "curve"},
                  "trained whole": sum(row["state"] == "complete" for row in trials)})  # fmt: skip


if __name__ == "__main__":
    main()
