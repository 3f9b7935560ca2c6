"""Five tasks in a row: banking77's classes in five groups, learned one after the other by `retune`.

`python bench/five_tasks.py [--seed N] [--rows N] [record]`. Real fine-tunes of the embedded base,
whole: first the first group, then four updates by strategy `continue`, once without replay (naive)
and once with 10 % of all old rows, balanced by class; and one training on everything (joint).
--rows: training rows a class (of 130), for time. Judged on 20 test rows a class that no model ever
saw; a model answers with any class that it knows, or, "within its task", with the task's own only.
FWT asks how well a task's classes can be told by their mean embeddings before the task is learned,
for a head has no output for classes to come.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from record import at_least, at_most, record
from tunewright.asking import open_asker
from tunewright.config import make_recipe
from tunewright.evaluate.embeddings import embed_texts
from tunewright.evaluate.forgetting import summarise
from tunewright.journal import silence
from tunewright.lifecycle import plan_retune, retune
from tunewright.model.load import load_base
from tunewright.pipeline import train
from tunewright.records import Example
from tunewright.store import RunFolder, write_jsonl

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[2] / "shared" / "data")
WORK = Path(tempfile.gettempdir()) / "tunewright-five-tasks"
HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16, one thread"
NUM_TASKS = 5
TEST_ROWS = 20
REPLAY = 0.1
SEEDS = (17, 18)


def option(name: str, usual: int) -> int:
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else usual


ROWS = option("--rows", 40)
Task = dict[str, list[Example]]


def read_tasks(seed: int) -> list[dict[str, list[Example]]]:
    """Per task its train and test rows; classes are dealt to the tasks by the seed."""
    rng = np.random.default_rng(seed)
    sides: dict[str, dict[str, list[Example]]] = {}
    for name in ("train", "test"):
        rows: dict[str, list[Example]] = defaultdict(list)
        with open(DATA / "banking77" / f"{name}.csv", encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(file)):
                place = f"{name}-{number}"
                rows[row["category"]].append(
                    Example(id=place, place=place, input=row["text"].strip(),
                            output=row["category"])
                )  # fmt: skip
        sides[name] = rows
    names = [sorted(sides["train"])[i] for i in rng.permutation(len(sides["train"]))]
    taught = {" ".join(r.input.lower().split()) for c in sides["train"].values() for r in c}
    tasks = []
    for part in np.array_split(np.array(names), NUM_TASKS):
        train_rows, test_rows = [], []
        for label in part.tolist():
            pool = sides["train"][label]
            train_rows += [pool[i] for i in rng.permutation(len(pool))[:ROWS]]
            fresh = [r for r in sides["test"][label]
                     if " ".join(r.input.lower().split()) not in taught]  # fmt: skip
            test_rows += fresh[:TEST_ROWS]
        tasks.append({"train": train_rows, "test": test_rows})
    return tasks


def write_rows(rows: Sequence[Example], path: Path) -> Path:
    write_jsonl(path, [{"id": r.id, "input": r.input, "label": r.output} for r in rows])
    return path


def begin(rows: Sequence[Example], test: Sequence[Example], folder: Path, name: str) -> Path:
    """A run from the base on these rows."""
    run = folder / name
    if RunFolder(run).report_json.exists():
        return run
    recipe = make_recipe({
        "base_model": "embedded:minilm",
        "data": {"train": str(write_rows(rows, folder / f"{name}-train.jsonl")),
                 "test": str(write_rows(test, folder / f"{name}-test.jsonl")),
                 "validation": 0.1, "columns": {"input": "input", "output": "label"}},
        "training": {"num_threads": 1, "num_epochs": 4, "seed": 17},
        "evaluation": {"baselines": []},
        "retune": {"strategy": "continue", "holdout": 0.05},
    })  # fmt: skip
    train(recipe, run, silence(), resume=run.exists())
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return run


def update(old: Path, task: dict[str, list[Example]], run: Path, replay: float) -> Path:
    """The run of the next update, by the product's own `retune`."""
    if (run / "lineage.json").exists():
        return run
    new = write_rows(task["train"], run.with_name(f"{run.name}-new.jsonl"))
    plan, asker = plan_retune(RunFolder(old), new, silence(), [f"retune.replay={replay}"])
    retune(plan, asker, run, silence())
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return run


def scores(run: Path, tasks: Sequence[dict[str, list[Example]]]) -> dict[str, list[float]]:
    """(share right per task among all classes that the model knows, among the task's own)."""
    path = run / "five-tasks.json"
    if path.exists():
        return json.loads(path.read_text())
    asker = open_asker(str(run))
    labels = np.array(asker.rendering.labels)
    any_class, own_class = [], []
    for task in tasks:
        rows = task["test"]
        said = asker.predict(rows, system="tuned", split="test")
        shares = np.array([p.probabilities for p in said])
        mine = np.isin(labels, list({r.output for r in task["train"]}))
        truth = np.array([r.output for r in rows])
        any_class.append(float((labels[shares.argmax(axis=1)] == truth).mean()))
        inside = labels[np.where(mine, shares, -1.0).argmax(axis=1)] == truth
        own_class.append(float(inside.mean()) if mine.any() else 0.0)
    told = {"any": any_class, "own": own_class}
    path.write_text(json.dumps(told))
    return told


def by_means(asker: Any, task: dict[str, list[Example]]) -> float:
    """Share of test rows whose nearest class mean, of embedded training rows, is their own."""
    states = embed_texts(asker, [r.input for r in (*task["train"], *task["test"])])
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    known, asked = states[: len(task["train"])], states[len(task["train"]) :]
    truth = np.array([r.output for r in task["train"]])
    names = np.unique(truth)
    means = np.stack([known[truth == name].mean(axis=0) for name in names])
    said = names[(asked @ means.T).argmax(axis=1)]
    return float((said == np.array([r.output for r in task["test"]])).mean())


def measure(seed: int) -> dict[str, Any]:
    tasks = read_tasks(seed)
    folder = WORK / f"{ROWS}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    first = begin(tasks[0]["train"], tasks[0]["test"], folder, "first")
    table: dict[str, list[dict[str, list[float]]]] = {}
    for name, replay in (("naive", 0.0), ("replay", REPLAY)):
        runs = [first]
        for number, task in enumerate(tasks[1:], 2):
            runs.append(update(runs[-1], task, folder / f"{name}-{number}", replay))
            print(seed, name, number, scores(runs[-1], tasks), flush=True)
        table[name] = [scores(run, tasks) for run in runs]
    everything = [row for task in tasks for row in task["train"]]
    judged = [row for task in tasks for row in task["test"]]
    joint = scores(begin(everything, judged, folder, "joint"), tasks)
    print(seed, "joint", joint, flush=True)
    ahead = []
    for number in range(1, NUM_TASKS):
        run = first if number == 1 else folder / f"replay-{number}"
        ahead.append(by_means(open_asker(str(run)), tasks[number]))
    plain = open_asker(str(first))
    base = load_base("embedded:minilm", task=None)
    untuned = [by_means(type(plain)(base, plain.rendering), task) for task in tasks[1:]]
    told = {
        "joint": joint, "matrix": table, "means_before": ahead, "means_of_base": untuned,
        "fwt": float(np.mean(np.array(ahead) - np.array(untuned))),
    }  # fmt: skip
    for name in ("naive", "replay"):
        for kind in ("any", "own"):
            square = [row[kind] for row in table[name]]
            found = summarise(square)
            told[f"{name}_{kind}"] = {"acc": found.acc, "bwt": found.bwt}
    new = {name: [table[name][i]["own"][i] for i in range(1, NUM_TASKS)] for name in table}
    told["new_within"] = {name: float(np.mean(values)) for name, values in new.items()}
    told["of_joint"] = {kind: told[f"replay_{kind}"]["acc"] / float(np.mean(joint[kind]))
                        for kind in ("any", "own")}  # fmt: skip
    (WORK / f"told-{ROWS}-{seed}.json").write_text(json.dumps(told))
    print({k: v for k, v in told.items() if k != "matrix"})
    return told


def main() -> None:
    if "record" not in sys.argv:
        measure(option("--seed", SEEDS[0]))
        return
    found = {path.stem.rpartition("-")[2]: json.loads(path.read_text())
             for path in sorted(WORK.glob(f"told-{ROWS}-*.json"))}  # fmt: skip
    bars = []
    for kind, words in (("own", "within the task's classes"), ("any", "among all classes")):
        bwt = float(np.mean([f[f"replay_{kind}"]["bwt"] for f in found.values()]))
        share = float(np.mean([f["of_joint"][kind] for f in found.values()]))
        bars += [
            at_least(f"five tasks in a row, 10 % replay: BWT, {words}", bwt, -0.1),
            at_least(f"five tasks in a row, 10 % replay: of joint training's accuracy, {words}",
                     100 * share, 95.0, "%"),
        ]  # fmt: skip
    behind = float(np.mean([f["new_within"]["naive"] - f["new_within"]["replay"]
                            for f in found.values()]))  # fmt: skip
    bars.append(at_most(
        "five tasks in a row, 10 % replay: new tasks behind naive tuning, within the task's "
        "classes", 100 * behind, 2.0, "points"))  # fmt: skip
    record("five_tasks", bars, HARDWARE,
           {"method": __doc__, "rows_per_class": ROWS, "by_seed": found})  # fmt: skip


if __name__ == "__main__":
    main()
