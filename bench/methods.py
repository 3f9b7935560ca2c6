"""Every adapter method on real rows: quality, memory, speed, size. `python bench/methods.py`.

Base: all-MiniLM-L6-v2. Task: banking77 with ten rows a class (770), judged on the 3,080 test rows.
Each method runs at its default learning rate and at three times of it; the rate is
chosen on validation rows that no run learns from. Writes results/methods.json.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[2] / "shared" / "data")
METHODS = (
    "full", "freeze", "lora", "qlora", "dora", "rslora", "lora_plus", "pissa", "eva", "loftq",
    "adalora", "vera", "oft", "boft", "loha", "lokr", "ia3", "ln_tuning",
)  # fmt: skip
FACTORS = tuple(map(float, os.environ.get("METHOD_FACTORS", "1,3").split(",")))
EPOCHS = 4


def write_rows(folder: Path) -> None:
    """Ten rows a class to learn from, five others a class to choose the rate on, all test rows."""
    with (DATA / "banking77" / "train.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    order = np.random.default_rng(7).permutation(len(rows))
    taken: dict[str, int] = {}
    parts: dict[str, list[dict[str, str]]] = {"train": [], "validation": []}
    for number in order:
        row = rows[int(number)]
        seen = taken[row["category"]] = taken.get(row["category"], 0) + 1
        if seen <= 15:
            parts["train" if seen <= 10 else "validation"].append(row)
    with (DATA / "banking77" / "test.csv").open(encoding="utf-8") as file:
        parts["test"] = list(csv.DictReader(file))
    for name, part in parts.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "category"])
            writer.writeheader()
            writer.writerows(part)


def run_one(folder: Path, method: str, factor: float, seed: int) -> dict[str, object]:
    """One method at one rate, in this process."""
    from tunewright.config import make_recipe, with_values
    from tunewright.data.prepare import prepare
    from tunewright.data.render import render
    from tunewright.journal import Journal
    from tunewright.model.weights import save_tuned
    from tunewright.setup import make_setup, open_model
    from tunewright.train.head import start_head
    from tunewright.train.loop import fit
    from tunewright.train.objectives import OBJECTIVES, with_penalty
    from tunewright.validation import make_evaluate

    values = {
        "task": "classify", "base_model": "embedded:minilm",
        "data": {n: str(folder / f"{n}.csv") for n in ("train", "validation", "test")},
        "adapter": {"method": method},
        "training": {"num_epochs": EPOCHS, "seed": seed, "num_threads": 1,
                     "early_stopping_patience": None, "pooling": "base"},
    }  # fmt: skip
    recipe = make_recipe(values)
    journal = Journal()
    prepared = prepare(recipe.data, recipe.task, journal)
    rate = make_setup(recipe, prepared, journal).recipe.training.learning_rate * factor
    recipe = with_values(recipe, {"training.learning_rate": rate})
    setup = make_setup(recipe, prepared, journal)
    rows = setup.standardised(render(prepared.splits.train, setup.rendering))
    tuning = open_model(setup, journal, rows=rows)
    start_head(tuning.base, rows, tuning.plan.pad_id)
    objective = OBJECTIVES[setup.objective]
    if tuning.base.companion is not None:
        objective = with_penalty(objective, tuning.base.companion.penalty)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    with tempfile.TemporaryDirectory() as place:
        fitted = fit(
            tuning.base.model, tuning.parameters, rows, tuning.plan, setup.recipe.training,
            objective=objective, evaluate=make_evaluate(setup, tuning.base, ("accuracy",)),
            checkpoints=Path(place), log_step=lambda s: None, log_evaluation=lambda e: None,
            forget_after=lambda s: None, journal=journal,
        )  # fmt: skip
        cpu_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
        save_tuned(tuning.base, Path(place) / "model", state=fitted.weights)
        names = ("adapter_model.safetensors", "model.safetensors")
        sizes = [(Path(place) / "model" / n) for n in names]
        saved = next(path.stat().st_size for path in sizes if path.exists())
    answers = setup.asker(tuning.base).predict(setup.test, system=method, split="test")
    right = [p.prediction == p.reference for p in answers]
    return {
        "method": method, "factor": factor, "rate": rate, "seed": seed,
        "validation": max(e.value for e in fitted.evaluations),
        "test": float(np.mean(right)), "right": "".join("01"[r] for r in right),
        "trained": sum(p.numel() for _, p in tuning.parameters), "saved_bytes": saved,
        "cpu_s": round(cpu_s, 1), "steps": fitted.steps,
        "weights_bytes": weights_bytes(tuning.base.model),
    }  # fmt: skip


def weights_bytes(model: object) -> int:
    """Bytes of all weights in memory, packing included."""
    from tunewright.model.quantize import is_packed, packed_bytes

    packed = {id(m.weight): packed_bytes(m) for m in model.modules() if is_packed(m)}
    plain = sum(p.nbytes for p in model.parameters() if id(p) not in packed)
    return plain + sum(packed.values())


def main() -> None:
    """All runs that are not there yet; results lie in a lines file so that it can be stopped."""
    out = Path(sys.argv[1])
    wanted = sys.argv[2:] or METHODS
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    known = {(r["method"], round(r["factor"], 3)) for r in done}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_rows(folder)
        for factor in FACTORS:
            for method in wanted:
                if (method, round(factor, 3)) in known:
                    continue
                started = time.time()
                result = run_one(folder, method, factor, 17)
                with out.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                short = {k: v for k, v in result.items() if k != "right"}
                print(round(time.time() - started), short, flush=True)


if __name__ == "__main__":
    main()
