"""MiniLM, all weights, on banking77 side by side with Hugging Face's Trainer, A B C A B C ...

python bench/speed_minilm.py             five repeats of some hundred steps each, in turn, then
                                         whole runs of each system from several seeds, whose
                                         answers are compared
python bench/speed_minilm.py --keep      adds to the runs of earlier calls
Every system starts from the same folder (random head) and reads the same token ids.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from record import at_least, record
from shapes import shared_data
from speed_lora import (
    HARDWARE,
    HERE,
    MOST_WAITED,
    PEERS,
    SCRATCH,
    resident_bytes,
    waited_share,
)

FOLDER = SCRATCH / "minilm"
WARM_UP = 5
PER_CLASS = 30
"""Rows of each class in the whole runs; their answers are compared on all 3,080 test rows."""
SETTINGS = {
    "learning_rate": 2e-4, "num_epochs": 3, "warmup_ratio": 0.1, "weight_decay": 0.01, "seed": 17,
    "batch_size": 32,
}  # fmt: skip
# As shipped means Trainer's own batch of 8; its best has our batch.
SYSTEMS: dict[str, dict[str, Any]] = {
    "tunewright": {"steps": 120},
    "shipped": {"batch_size": 8, "steps": 45, "learning_rate": 5e-5},
    "bf16 by length": {"steps": 65},
}


def prepare() -> Path:
    """The model folder and the token ids, made once."""
    model = FOLDER / "model"
    if (model / "config.json").exists():
        return model
    from tunewright.model.load import load_base

    FOLDER.mkdir(parents=True, exist_ok=True)
    data = shared_data("banking77")
    tables = {
        name: list(csv.DictReader((data / f"{name}.csv").open(encoding="utf-8")))
        for name in ("train", "test")
    }
    labels = sorted({row["category"] for row in tables["train"]})
    base = load_base("embedded:minilm", task="classify", labels=labels)
    for name, rows in tables.items():
        ids = base.tokenizer([row["text"] for row in rows], truncation=True)["input_ids"]
        lines = [
            json.dumps({"input_ids": i, "label": labels.index(row["category"])})
            for i, row in zip(ids, rows, strict=True)
        ]
        (FOLDER / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    base.model.save_pretrained(model)
    base.tokenizer.save_pretrained(model)
    seen: dict[int, int] = {}
    few = []
    for line in (FOLDER / "train.jsonl").read_text().splitlines():
        label = json.loads(line)["label"]
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= PER_CLASS:
            few.append(line)
    (FOLDER / "few.jsonl").write_text("\n".join(few) + "\n")
    (FOLDER / "labels.json").write_text(json.dumps(labels))
    return model


def own_run(model: str) -> None:
    """Child process: one run of ours through `fit`, as `tunewright train` calls it."""
    import torch

    import tunewright.train.loop as loop
    from tunewright.journal import silence
    from tunewright.model.adapters.table import attach, trainable_parameters
    from tunewright.model.device import (
        cap_kernel_caches,
        keep_freed_memory,
        peak_memory,
    )
    from tunewright.model.load import load_base
    from tunewright.model.speed import make_fast
    from tunewright.sections import TrainingSection
    from tunewright.train.objectives import OBJECTIVES
    from tunewright.train.optimize import Rates

    imported, began = resident_bytes(), time.perf_counter()
    settings = json.loads((FOLDER / "settings.json").read_text())
    keep_freed_memory()
    cap_kernel_caches()
    labels = json.loads((FOLDER / "labels.json").read_text())
    base = load_base(model, task="classify", labels=labels, dtype=torch.bfloat16)
    base = attach(base, "full")
    how = make_fast(base.model)
    rows = read_rows("train" if settings["steps"] else "few")
    plan = loop.Plan(
        batch_size=settings["batch_size"], max_batch_tokens=8192,
        num_epochs=float(settings["num_epochs"]), eval_steps=10**9,
        rates=Rates(settings["learning_rate"], settings["learning_rate"]),
        head_names=frozenset(), pad_id=0,
    )  # fmt: skip
    ends, tokens = [], []
    with tempfile.TemporaryDirectory() as folder:
        loop.fit(
            base.model, trainable_parameters(base.model), rows, plan,
            TrainingSection(
                seed=settings["seed"], max_steps=settings["steps"], lr_scheduler="linear",
                warmup_ratio=settings["warmup_ratio"], weight_decay=settings["weight_decay"],
            ),
            objective=OBJECTIVES["classify"], evaluate=None, checkpoints=Path(folder),
            log_step=lambda s: (ends.append(time.perf_counter()), tokens.append(s.tokens)),
            log_evaluation=lambda _: None, forget_after=lambda _: None, journal=silence(),
        )  # fmt: skip
    steps, seconds = len(ends) - WARM_UP, ends[-1] - ends[WARM_UP - 1]
    memory = peak_memory(torch.device("cpu")) - imported
    print(json.dumps({
        "rows_per_s": steps * settings["batch_size"] / seconds, "seconds": seconds, "how": how,
        "tokens_per_s": (tokens[-1] - tokens[WARM_UP - 1]) / seconds, "memory_bytes": memory,
        "waited_share": waited_share(time.perf_counter() - began),
        "predicted": None if settings["steps"] else predictions(base.model),
    }))  # fmt: skip


def read_rows(name: str) -> list[Any]:
    from tunewright.data.render import Row

    rows = map(json.loads, (FOLDER / f"{name}.jsonl").read_text().splitlines())
    return [
        Row(str(n), np.array(row["input_ids"], np.int32), None, row["label"])
        for n, row in enumerate(rows)
    ]


def predictions(model: Any) -> list[int]:
    """The class of each test row, in order."""
    import torch

    from tunewright.data.batch import batches_by_length, make_batch, model_inputs

    rows = read_rows("test")
    found = np.zeros(len(rows), np.int64)
    model.eval()
    with torch.no_grad():
        for part in batches_by_length(rows, 4096):
            batch = make_batch([rows[i] for i in part], pad_id=0, device=torch.device("cpu"))
            found[part] = model(**model_inputs(batch)).logits.argmax(-1).numpy()
    return found.tolist()


def run_once(
    system: str, model: Path, *, whole: bool, seed: int = SETTINGS["seed"]
) -> dict[str, Any]:
    settings = {"variant": system, **SETTINGS, **SYSTEMS[system], "seed": seed}
    if whole:
        settings["steps"] = None
    (FOLDER / "settings.json").write_text(json.dumps(settings))
    command = (
        [sys.executable, __file__, "--child", str(model)]
        if system == "tunewright"
        else [str(PEERS), str(HERE / "peers" / "classify.py"), str(model), str(FOLDER)]
    )
    threads = os.environ.get("OMP_NUM_THREADS") if whole else None
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": threads or str(len(os.sched_getaffinity(0))),
        },
    )
    if done.returncode:
        raise SystemExit(f"{system}: {done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def right_share(runs: list[dict[str, Any]]) -> Any:
    """For each test row, the share of seeds whose model is right."""
    truth = np.array([row.target for row in read_rows("test")])
    return np.mean([np.array(run["predicted"]) == truth for run in runs], axis=0)


def sign_flips(differences: Any, rounds: int = 10_000) -> float:
    """Two-sided p of a mean difference of 0, by exchanging the two systems row by row."""
    differences = differences[differences != 0]
    if not differences.size:
        return 1.0
    signs = np.random.default_rng(0).choice((-1.0, 1.0), (rounds, differences.size))
    found = np.abs((signs * differences).sum(1)) >= abs(differences.sum()) - 1e-9
    return float((1 + found.sum()) / (1 + rounds))


def conclude(runs: dict[str, list[dict[str, Any]]], whole: dict[str, list[dict[str, Any]]]) -> None:
    middle = {s: median(r["rows_per_s"] for r in found) for s, found in runs.items()}
    bars = [
        at_least("MiniLM on banking77: rows/s against Trainer as shipped",
                 middle["tunewright"] / middle["shipped"], 7.0, "x"),
        at_least("MiniLM on banking77: rows/s against Trainer at its best",
                 middle["tunewright"] / middle["bf16 by length"], 1.5, "x"),
    ]  # fmt: skip
    right = {s: right_share(found) for s, found in whole.items()}
    pairs = {}
    for peer in right.keys() - {"tunewright"} if "tunewright" in right else ():
        differences = right["tunewright"] - right[peer]
        gain, p = float(differences.mean()), sign_flips(differences)
        pairs[peer] = {"gain_points": 100 * gain, "p": p}
        bars.append(
            at_least(f"MiniLM on banking77: accuracy not below Trainer {peer}, paired sign flips",
                     p if gain < 0 else 1.0, 0.05, "p")
        )  # fmt: skip
    record("speed_minilm", bars, HARDWARE, {
        "repeats": {s: len(found) for s, found in runs.items()}, "rows_per_s": middle,
        "memory_bytes": {s: median(r["memory_bytes"] for r in f) for s, f in runs.items()},
        "all_rows_per_s": {s: [round(r["rows_per_s"], 1) for r in f] for s, f in runs.items()},
        "accuracy": {s: float(found.mean()) for s, found in right.items()}, "pairs": pairs,
        "seeds": {s: len(found) for s, found in whole.items()},
        "whole_seconds": {s: median(r["seconds"] for r in f) for s, f in whole.items()},
        "settings": SETTINGS,
        "systems": SYSTEMS, "how": runs["tunewright"][0]["how"],
        "peers": runs["shipped"][0]["versions"],
    })  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        own_run(sys.argv[2])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="*", default=[17, 18, 19], help="of whole runs")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--keep", action="store_true")
    wish = parser.parse_args()
    if not PEERS.exists():
        raise SystemExit(f"{PEERS}: no peers' environment; `make .peers` builds it")
    model = prepare()
    runs = kept_runs("runs.json", wish.keep)
    for _ in range(wish.repeats):
        for system in wish.systems.split(","):
            result = shown(system, run_once(system, model, whole=False))
            if result["waited_share"] <= MOST_WAITED:
                runs.setdefault(system, []).append(result)
                (FOLDER / "runs.json").write_text(json.dumps(runs))
    whole = kept_runs("whole.json", wish.keep)
    for seed in wish.seeds:
        for system in wish.systems.split(","):
            whole.setdefault(system, []).append(
                shown(system, run_once(system, model, whole=True, seed=seed))
            )
            (FOLDER / "whole.json").write_text(json.dumps(whole))
    missing = SYSTEMS.keys() - runs.keys()
    if missing:
        raise SystemExit(f"{', '.join(missing)}: no run had the processors to itself; nothing kept")
    conclude(runs, whole)


def kept_runs(name: str, keep: bool) -> dict[str, Any]:
    place = FOLDER / name
    return json.loads(place.read_text()) if keep and place.exists() else {}


def shown(system: str, result: dict[str, Any]) -> dict[str, Any]:
    told = {k: v for k, v in result.items() if k not in ("versions", "predicted")}
    print(system, told, flush=True)
    return result


if __name__ == "__main__":
    main()
