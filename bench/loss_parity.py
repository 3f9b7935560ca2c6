"""Our loss curve beside that of PEFT and TRL in fp32: same weights, adapter, batches, schedule.

python bench/loss_parity.py: 60 steps on e2e_nlg with the real Llama checkpoint of 656,000
parameters; ours in fp32 and in bf16. The bar: within 1 % at every step.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from record import at_most, record
from shapes import shared_data
from speed_lora import HARDWARE, HERE, PEERS, SCRATCH

FOLDER = SCRATCH / "parity"
STEPS, BATCH = 60, 8
RATE = 2e-3


def prepare() -> tuple[Path, list[dict[str, Any]]]:
    from tunewright.model.load import load_base

    FOLDER.mkdir(parents=True, exist_ok=True)
    model = FOLDER / "model"
    base = load_base(str(shared_data("model-tinystories-656k")), task="generate")
    base.model.save_pretrained(model)
    base.tokenizer.save_pretrained(model)
    with (shared_data("e2e_nlg") / "trainset.csv").open(encoding="utf-8") as lines:
        pairs = [row for _, row in zip(range(STEPS * BATCH), csv.DictReader(lines), strict=False)]
    rows = []
    for pair in pairs:
        prompt = base.tokenizer(pair["mr"] + "\n")["input_ids"]
        answer = base.tokenizer(pair["ref"], add_special_tokens=False)["input_ids"]
        rows.append({
            "input_ids": [*prompt, *answer],
            "completion_mask": [0] * len(prompt) + [1] * len(answer),
        })  # fmt: skip
    (FOLDER / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return model, rows


def ours(model: Path, rows: list[dict[str, Any]], dtype: Any) -> list[float]:
    """Losses of each step; the first call leaves the adapter that everybody starts from."""
    import torch

    from tunewright.data.render import Row
    from tunewright.model.adapters.table import attach, trainable_parameters
    from tunewright.model.load import load_base
    from tunewright.model.speed import make_fast
    from tunewright.sections import TrainingSection
    from tunewright.train.objectives import token_cross_entropy
    from tunewright.train.optimize import MasterAdamW, Rates, rate_factor
    from tunewright.train.step import MicroBatching, take_step

    base = load_base(str(model), task="generate", dtype=dtype)
    base = attach(base, "lora", r=16, alpha=32.0, seed=17)
    if not (FOLDER / "adapter").exists():
        base.model.save_pretrained(FOLDER / "adapter")
    parameters = trainable_parameters(base.model)
    for _, parameter in parameters:
        parameter.data = parameter.data.to(dtype)
    print(make_fast(base.model))
    config = TrainingSection(weight_decay=0.0, max_grad_norm=1.0, warmup_ratio=0.0)
    optimizer = MasterAdamW(parameters, frozenset(), Rates(RATE, RATE), config)
    made = [
        Row(str(n), np.array(r["input_ids"], np.int32), np.array(r["completion_mask"], np.float32))
        for n, r in enumerate(rows)
    ]
    base.model.train()
    losses = []
    for step in range(STEPS):
        result = take_step(
            base.model, made[step * BATCH : (step + 1) * BATCH],
            MicroBatching(2048, 0, torch.device("cpu"), packed=True), optimizer,
            token_cross_entropy, rate_factor=rate_factor(step, STEPS, config), seed=step,
            label_smoothing=0.0,
            on_out_of_memory=print,
        )  # fmt: skip
        losses.append(result.loss)
    return losses


def theirs(model: Path) -> tuple[list[float], dict[str, str]]:
    settings = {
        "variant": "fp32 in order", "batch_size": BATCH, "learning_rate": RATE, "max_length": 512,
        "r": 16, "alpha": 32, "seed": 17, "adapter": str(FOLDER / "adapter"),
        "more": {"adam_beta2": 0.98, "weight_decay": 0.0, "max_grad_norm": 1.0},
    }  # fmt: skip
    (FOLDER / "settings.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [str(PEERS), str(HERE / "peers" / "sft.py"), str(model), str(FOLDER / "rows.jsonl"),
         str(FOLDER / "settings.json")],
        capture_output=True, text=True, env=dict(os.environ),
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found = json.loads(done.stdout.splitlines()[-1])
    return found["losses"], found["versions"]


def main() -> None:
    import torch

    model, rows = prepare()
    curves = {"fp32": ours(model, rows, torch.float32), "bf16": ours(model, rows, torch.bfloat16)}
    reference, versions = theirs(model)
    assert len(reference) == STEPS
    bars = []
    for name, curve in curves.items():
        off = max(abs(a - b) / b for a, b in zip(curve, reference, strict=True))
        bars.append(at_most(f"loss against PEFT and TRL in fp32, ours in {name}", off, 0.01))
    record("loss_parity", bars, HARDWARE, {
        "ours": curves, "theirs": reference, "peers": versions, "steps": STEPS, "batch": BATCH,
    })  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
