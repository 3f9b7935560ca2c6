"""Encoders trained packed by hand-written passes against torch's own layers: seeds in pairs.

The quickstart's model (MiniLM, mean pooling, fitted head) learns the support tickets from each seed
twice, once by each path; all else is equal: rows, batches, rates, optimiser. Dropout's random
numbers differ, so single runs differ by luck; the mean over seeds must not.

    python bench/packed_encoders.py [--seeds 1,2,3,4,5,6] [--passes 2]   dropout as the base has
    python bench/packed_encoders.py --curves [--steps 200]   without dropout, losses step by step
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from scipy.stats import ttest_1samp

import tunewright.train.loop as loop
from record import at_least, at_most, record
from tunewright.config import parse_recipe
from tunewright.data.batch import batches_by_length, make_batch, model_inputs
from tunewright.journal import silence
from tunewright.pipeline import QUICKSTART
from tunewright.preparing import prepare_for_training
from tunewright.setup import Setup, make_setup, open_model
from tunewright.tokenising import render_for_training
from tunewright.train.head import start_head
from tunewright.train.objectives import OBJECTIVES

HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16"
KEPT = Path(tempfile.gettempdir()) / "tunewright-packed-encoders.jsonl"


def start(sets: Sequence[str]) -> tuple[Setup, Any, Any]:
    """The quickstart up to its first step, with the same data whatever the seed."""
    recipe, journal = parse_recipe(QUICKSTART, "bench", sets), silence()
    setup = make_setup(recipe, prepare_for_training(recipe, journal), journal)
    rows = setup.standardised(render_for_training(setup.prepared, setup.rendering, journal))
    tuning = open_model(setup, journal, rows=rows)
    start_head(tuning.base, rows, tuning.plan.pad_id)
    return setup, rows, tuning


def train(setup: Setup, rows: Any, tuning: Any, how: str, seed: int) -> tuple[Any, list[float]]:
    """(A copy of the model, trained; the loss of each step.)"""
    loop.packs_rows = lambda model, row, wish: how == "packed"
    model = copy.deepcopy(tuning.base.model)
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        loop.fit(
            model, [(n, p) for n, p in model.named_parameters() if p.requires_grad], rows,
            replace(tuning.plan, eval_steps=10**9),
            setup.recipe.training.model_copy(update={"seed": seed}),
            objective=OBJECTIVES[setup.objective], evaluate=None, checkpoints=Path(folder),
            log_step=lambda step: losses.append(step.loss), log_evaluation=lambda _: None,
            forget_after=lambda _: None, journal=silence(),
        )  # fmt: skip
    return model.eval(), losses


def judge(setup: Setup, model: Any) -> dict[str, float]:
    """Accuracy, and loss at the temperature that suits it, on the rows that were not trained on."""
    splits = setup.prepared.splits
    held = replace(setup.prepared, splits=replace(splits, train=splits.validation + splits.test))
    rows = list(render_for_training(held, setup.rendering, silence()))
    logits = torch.zeros(len(rows), model.config.num_labels)
    with torch.inference_mode():
        for part in batches_by_length(rows, 8192):
            batch = make_batch([rows[i] for i in part], pad_id=0, device=torch.device("cpu"))
            logits[part] = model(**model_inputs(batch)).logits.float()
    target = torch.tensor([row.target for row in rows])
    losses = [
        float(torch.nn.functional.cross_entropy(logits / t, target))
        for t in np.geomspace(0.5, 8, 33)
    ]
    return {
        "rows": len(rows),
        "accuracy": 100 * float((logits.argmax(-1) == target).float().mean()),
        "loss": min(losses),
    }


def compare_seeds(seeds: Sequence[int], passes: float) -> None:
    setup, rows, tuning = start([f"training.num_epochs={passes}"])
    found = [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []
    for seed in seeds:
        for how in ("torch", "packed"):
            if any((f["seed"], f["how"], f["passes"]) == (seed, how, passes) for f in found):
                continue
            model, losses = train(setup, rows, tuning, how, seed)
            one = {"seed": seed, "how": how, "passes": passes, **judge(setup, model)}
            one["training_loss"] = mean(losses[len(losses) // 2 :])
            found.append(one)
            with KEPT.open("a") as lines:
                lines.write(json.dumps(one) + "\n")
            print(one, flush=True)
    by = {(f["seed"], f["how"]): f for f in found if f["passes"] == passes and f["seed"] in seeds}
    gaps = {
        key: [by[s, "packed"][key] - by[s, "torch"][key] for s in seeds]
        for key in ("accuracy", "loss", "training_loss")
    }
    p = {key: float(ttest_1samp(gap, 0.0).pvalue) for key, gap in gaps.items()}
    worse = {key: (mean(gap) < 0) == (key == "accuracy") for key, gap in gaps.items()}
    bars = [
        at_least(f"packed encoder worse than torch's own layers by {key}: paired t test over seeds",
                 p[key] if worse[key] else 1.0, 0.05, "p")
        for key in gaps
    ]  # fmt: skip
    record("packed_encoders", bars, HARDWARE, {
        "passes": passes, "runs": list(by.values()), "packed_less_torch": {
            key: {"mean": mean(gap), "standard_error": stdev(gap) / len(gap) ** 0.5, "p": p[key]}
            for key, gap in gaps.items()
        },
    })  # fmt: skip


def compare_curves(steps: int) -> None:
    """Both paths without dropout, on the same batches, and torch's in fp32 as the truth."""
    curves = {}
    for how, precision in (("torch", "fp32"), ("torch", "bf16"), ("packed", "bf16")):
        sets = [f"training.max_steps={steps}", "training.dropout=0.0", "training.num_epochs=8",
                f"training.precision={precision}"]  # fmt: skip
        setup, rows, tuning = start(sets)
        _, curves[f"{how} {precision}"] = train(setup, rows, tuning, how, 17)
    truth = np.array(curves["torch fp32"])
    apart = {
        name: float(np.abs(np.array(curve) - truth).mean() / truth.mean())
        for name, curve in curves.items()
    }
    bar = at_most(f"packed encoder, no dropout, {steps} steps: distance of its loss curve from "
                  "fp32 over that of torch's own layers in bf16",
                  apart["packed bf16"] / apart["torch bf16"], 1.25, "x")  # fmt: skip
    record("packed_encoders_curves", [bar], HARDWARE, {"apart": apart, "curves": curves})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="1,2,3,4,5,6")
    parser.add_argument("--passes", type=float, default=2.0)
    parser.add_argument("--curves", action="store_true")
    parser.add_argument("--steps", type=int, default=200)
    wish = parser.parse_args()
    if wish.curves:
        compare_curves(wish.steps)
    else:
        compare_seeds([int(seed) for seed in wish.seeds.split(",")], wish.passes)


if __name__ == "__main__":
    main()
