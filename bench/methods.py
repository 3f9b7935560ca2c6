"""Every adapter method on real rows: quality, memory, speed, size. `python bench/methods.py TASK`.

labels: banking77 with ten rows a class (770), the first two layers of all-MiniLM-L6-v2, accuracy on
all 3,080 test rows. writing: TinyStories-656k tuned whole on e2e_nlg first, then a guide's style in
80 steps; nats per token on 300 held-out rows. Each method runs at the rate that a recipe comes to
and at three times of it; the better one, by rows that no run learns from, is run with two more
seeds. Measured runs lie in a lines file, so it can be stopped and goes on.
`python bench/methods.py table` writes results/methods.json and prints the table of docs/methods.md.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from qlora import DATA, held_out, make_story_base, recipe
from record import at_least, record
from trainings import base_path
from tunewright.data.render import render
from tunewright.evaluate.predict import score_rows
from tunewright.methods import METHODS
from tunewright.metrics.stats import holm
from tunewright.model.weights import load_tuned
from tuning import Tuned, tune

WORK = Path(tempfile.gettempdir()) / "tunewright-methods"
LINES = WORK / "runs.jsonl"
WRITE_ONLY = ("prompt_tuning", "prefix_tuning")
FACTORS = (1.0, 3.0)
SEEDS = (17, 18, 19)
EPOCHS, STEPS = 4, 80


class Labels:
    """Ten rows a class to learn from, five others a class to choose the rate on, all test rows."""

    methods = tuple(name for name in METHODS if name not in WRITE_ONLY)

    def __init__(self, folder: Path) -> None:
        self.folder, self.base = folder, base_path("minilm-2")
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

    def run(self, method: str, factor: float, seed: int) -> tuple[Tuned, float, list[float]]:
        """The model, its value on validation rows (larger is better), 1 for each right test row."""
        values = {
            "task": "classify", "base_model": self.base, "adapter": {"method": method},
            "data": {n: str(self.folder / f"{n}.csv") for n in ("train", "validation", "test")},
            "training": {"num_epochs": EPOCHS, "seed": seed, "num_threads": 1, "pooling": "base",
                         "early_stopping_patience": None},
        }  # fmt: skip
        tuned = tune(values, self.folder / "model", rate_factor=factor, metric="accuracy")
        asker = tuned.setup.asker(load_tuned(self.folder / "model", dtype=tuned.setup.dtype))
        answers = asker.predict(tuned.setup.test, system=method, split="test")
        return tuned, max(tuned.validation), [float(p.prediction == p.reference) for p in answers]


class Writing:
    """The same rows and first tuning as bench/qlora.py; 200 rows of the first kind are left out of
    the second tuning, and the rate is chosen on them in the second style.
    """

    methods = tuple(METHODS)

    def __init__(self, folder: Path) -> None:
        made = folder / "base" / "model.safetensors"
        self.folder = folder
        self.base = str(made.parent) if made.exists() else make_story_base(folder)
        lines = (folder / "second.jsonl").read_text(encoding="utf-8").splitlines()
        (folder / "learned.jsonl").write_text("\n".join(lines[200:]), encoding="utf-8")
        (folder / "chosen-on.jsonl").write_text("\n".join(lines[:200]), encoding="utf-8")

    def run(self, method: str, factor: float, seed: int) -> tuple[Tuned, float, list[float]]:
        """The model, its value on validation rows, nats a token of each held-out row."""
        values: dict[str, Any] = recipe(
            self.folder, self.base, "learned.jsonl", {"method": method}, max_steps=STEPS, seed=seed,
        )  # fmt: skip
        values["data"]["validation"] = str(self.folder / "chosen-on.jsonl")
        tuned = tune(values, self.folder / "model", rate_factor=factor)
        loaded = load_tuned(self.folder / "model", dtype=torch.bfloat16)
        rows = render(tuned.setup.prepared.splits.validation, tuned.setup.rendering)
        chosen_on = score_rows(tuned.setup.asker(loaded), rows, lambda share: None)
        value = -sum(s[0] for s in chosen_on) / sum(s[1] for s in chosen_on)
        nats, tokens = held_out(tuned, loaded)
        return tuned, value, (nats / tokens).tolist()


TASKS = {"labels": Labels, "writing": Writing}


def measure(task: str, wanted: list[str]) -> None:
    """Every method at every rate, then two more seeds at the better rate."""
    folder = WORK / task
    folder.mkdir(parents=True, exist_ok=True)
    bench = TASKS[task](folder)
    for method in wanted or bench.methods:
        for factor in FACTORS:
            run(bench, task, method, factor, SEEDS[0])
    for seed in SEEDS[1:]:
        for method in wanted or bench.methods:
            run(bench, task, method, better_factor(task, method), seed)


def better_factor(task: str, method: str) -> float:
    """The factor of the first seed's run that was better on validation rows."""
    first = [r for r in of(task, method) if r["seed"] == SEEDS[0]]
    return float(max(first, key=lambda r: r["validation"])["factor"])


def run(bench: Labels | Writing, task: str, method: str, factor: float, seed: int) -> None:
    """One run, unless it lies in the file already."""
    if any((r["factor"], r["seed"]) == (factor, seed) for r in of(task, method)):
        return
    started = time.time()
    tuned, validation, rows = bench.run(method, factor, seed)
    result = {
        "task": task, "method": method, "factor": factor, "seed": seed, "validation": validation,
        "rate": tuned.setup.recipe.training.learning_rate, "rows": rows, "steps": tuned.steps,
        "trained": tuned.trained, "saved_bytes": tuned.saved_bytes, "cpu_s": round(tuned.cpu_s, 2),
        "weights_bytes": tuned.weights_bytes, "peak_bytes": tuned.peak_bytes,
    }  # fmt: skip
    with LINES.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    shown = {k: v for k, v in result.items() if k != "rows"} | {"mean": float(np.mean(rows))}
    print(round(time.time() - started), shown, flush=True)


def of(task: str, method: str | None = None) -> list[dict[str, Any]]:
    """What was measured so far."""
    lines = LINES.read_text(encoding="utf-8").splitlines() if LINES.exists() else []
    found = [json.loads(line) for line in lines]
    return [r for r in found if r["task"] == task and method in (None, r["method"])]


def summed_up(task: str) -> dict[str, dict[str, Any]]:
    """One entry of each method at its better rate, beside LoRA: in pairs of rows, Holm's p."""
    best: dict[str, list[dict[str, Any]]] = {}
    for method in METHODS:
        runs = of(task, method)
        if not runs:
            continue
        factor = better_factor(task, method)
        best[method] = [r for r in runs if r["factor"] == factor]
    means = {m: np.mean([r["rows"] for r in runs], axis=0) for m, runs in best.items()}
    p_values = {
        m: float(stats.ttest_rel(mean, means["lora"]).pvalue)
        for m, mean in means.items() if m != "lora"
    }  # fmt: skip
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    out: dict[str, dict[str, Any]] = {}
    for method, runs in best.items():
        seeds = [float(np.mean(r["rows"])) for r in runs]
        out[method] = {
            "value": float(np.mean(seeds)), "by_seed": seeds, "rate": runs[0]["rate"],
            "factor": runs[0]["factor"], "p_against_lora": corrected.get(method),
            "over_lora": float(np.mean(means[method] - means["lora"])),
            "cpu_s_over_lora": _median(runs, "cpu_s") / _median(best["lora"], "cpu_s"),
            "peak_mb": _median(runs, "peak_bytes") / 1e6,
            **{key: runs[0][key] for key in ("trained", "saved_bytes", "weights_bytes", "steps")},
        }  # fmt: skip
    return out


def _median(runs: list[dict[str, Any]], key: str) -> float:
    return float(np.median([r[key] for r in runs]))


def table() -> None:
    """results/methods.json, and the rows of the table in docs/methods.md."""
    found = {task: summed_up(task) for task in TASKS}
    for method in METHODS:
        cells = [f"`{method}`"]
        for task, entries in found.items():
            entry = entries.get(method)
            if entry is None:
                cells += ["", "", ""]
                continue
            value = entry["value"]
            cells.append(f"{100 * value:.1f}" if task == "labels" else f"{value:.3f}")
            p = entry["p_against_lora"]
            better = entry["over_lora"] > 0 if task == "labels" else entry["over_lora"] < 0
            cells[-1] += "" if p is None or p >= 0.05 else (" ▲" if better else " ▼")
            cells += [f"{entry['cpu_s_over_lora']:.2f}", f"{entry['peak_mb']:.0f}"]
        sizes = [f"{e[method]['saved_bytes'] / 1e3:,.0f}" for e in found.values() if method in e]
        print("| " + " | ".join([*cells, " / ".join(sizes)]) + " |")
    measured = [m for m in METHODS if any(m in entries for entries in found.values())]
    record(
        "methods",
        [at_least("methods measured on real rows", len(measured), len(METHODS))],
        "2 shared cores of an AMD EPYC with AVX512-BF16",
        {"tasks": found, "seeds": SEEDS, "factors": FACTORS},
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["table"]:
        table()
    else:
        measure(sys.argv[1], sys.argv[2:])
