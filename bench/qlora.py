"""QLoRA on the processor: memory, and loss beside bf16 LoRA. `python bench/qlora.py`.

Memory: a model of SmolLM-135M's shape with random weights, saved and loaded in bf16 and in NF4.
Quality: TinyStories-656k is tuned whole on e2e_nlg until it predicts it well; that base then learns
another style (the reply of a guide) with LoRA in bf16, on NF4, on int8 and with LoftQ's start, the
same rows and steps; the first two with two seeds. Held-out rows are compared in pairs. What was
learned on NF4 is asked again merged into the weights in fp32, and as an adapter on the base in
whole precision. Writes results/qlora.json.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from record import at_most, record
from tunewright.data.render import render
from tunewright.evaluate.predict import score_rows
from tunewright.model.export.merged import save_merged
from tunewright.model.load import Base, load_base
from tunewright.model.peft_quietly import peft
from tunewright.model.quantize import is_packed, packed_bytes
from tunewright.model.weights import load_tuned
from tuning import Tuned, tune

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[2] / "shared" / "data")
STORIES = DATA / "model-tinystories-656k"
FIRST_STEPS, STEPS, HELD = 250, 150, 300
SEEDS = (17, 18)
WAYS: dict[str, dict[str, Any]] = {
    "lora bf16": {"method": "lora"},
    "qlora nf4": {"method": "qlora"},
    "lora int8": {"method": "lora", "quantization": "int8"},
    "loftq nf4": {"method": "loftq"},
}


def memory(folder: Path) -> dict[str, float]:
    """Shares of bf16 bytes that remain in NF4: of linear layers, and of the whole model."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    whole = sum(p.nbytes for p in model.parameters())
    linear = {n: m.weight.nbytes for n, m in model.named_modules() if type(m) is torch.nn.Linear}
    linear.pop("lm_head")
    model.save_pretrained(folder)
    del model
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"):
        if (STORIES / name).exists():
            shutil.copy(STORIES / name, folder)
    base = load_base(str(folder), task="generate", quantization="nf4", dtype=torch.bfloat16)
    packed = {n: packed_bytes(m) for n, m in base.model.named_modules() if is_packed(m)}
    assert packed.keys() == linear.keys()
    held = {id(m.weight) for m in base.model.modules() if is_packed(m)}
    plain = sum(p.nbytes for p in base.model.parameters() if id(p) not in held)
    return {
        "linear": sum(packed.values()) / sum(linear.values()),
        "whole": (sum(packed.values()) + plain) / whole,
    }


def write_rows(folder: Path) -> None:
    """e2e rows: some for the first tuning, others, in another style, for the second."""
    path = next(iter(sorted((DATA / "e2e_nlg").glob("train*.csv"))))
    with path.open(encoding="utf-8") as file:
        rows = [(row["mr"], row["ref"]) for row in csv.DictReader(file)]
    order = np.random.default_rng(3).permutation(len(rows))[: 4000 + 1500 + HELD]
    picked = [rows[int(i)] for i in order]
    style = [
        (f"guide: {', '.join(reversed(mr.split(', ')))}", f"Well, my friend, {ref.lower()} Enjoy!")
        for mr, ref in picked[4000:]
    ]
    parts = {"first": picked[:4000], "second": style[:1500], "held": style[1500:]}
    for name, part in parts.items():
        lines = [json.dumps({"prompt": a, "completion": b}) for a, b in part]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def recipe(folder: Path, base: str, data: str, adapter: dict[str, Any], **training: Any) -> dict:
    """The recipe of one tuning: so many steps on rows of `data`, no validation."""
    return {
        "task": "generate", "base_model": base, "adapter": adapter,
        "data": {"train": str(folder / data), "validation": 0, "test": str(folder / "held.jsonl")},
        "training": {"num_epochs": 50, "num_threads": 1, "precision": "bf16", "batch_size": 16,
                     "max_length": 256, **training},
    }  # fmt: skip


def make_story_base(folder: Path) -> str:
    """TinyStories tuned whole on e2e rows, so that it predicts them well; rows are written too."""
    write_rows(folder)
    values = recipe(folder, str(STORIES), "first.jsonl", {"method": "full"},
                    max_steps=FIRST_STEPS, learning_rate=1e-3)  # fmt: skip
    tune(values, folder / "base")
    return str(folder / "base")


def held_out(tuned: Tuned, base: Base) -> tuple[np.ndarray, np.ndarray]:
    """(nats, tokens) of every held-out row, asked of this model."""
    rows = render(tuned.setup.prepared.splits.test, tuned.setup.rendering)
    scores = score_rows(tuned.setup.asker(base), rows, lambda share: None)
    return np.array([s[0] for s in scores]), np.array([s[1] for s in scores])


def other_forms(tuned: Tuned, folder: Path, ground: str) -> dict[str, Base]:
    """What was learned on NF4: merged in fp32, and as an adapter on the base in bf16."""
    loaded = load_tuned(folder, dtype=torch.bfloat16)
    merged = folder.with_name(f"{folder.name}-merged")
    save_merged(loaded, merged, precision="fp32")
    whole = load_base(ground, task="generate", dtype=torch.bfloat16)
    adapted = peft.PeftModel.from_pretrained(whole.model, str(folder)).eval()
    return {
        "qlora nf4, merged in fp32": load_base(str(merged), task="generate"),
        "qlora nf4, adapter on the bf16 base": replace(whole, model=adapted),
    }


def main() -> None:
    per_row: dict[str, list[np.ndarray]] = {}
    totals: dict[str, list[float]] = {}
    cost: dict[str, dict[str, float]] = {}

    def keep(name: str, nats: np.ndarray, tokens: np.ndarray) -> None:
        per_row.setdefault(name, []).append(nats / tokens)
        totals.setdefault(name, []).append(float(nats.sum() / tokens.sum()))
        print(name, totals[name][-1], flush=True)

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shares = memory(folder / "shape")
        print(shares, flush=True)
        base = make_story_base(folder)
        for seed in SEEDS:
            for name, adapter in list(WAYS.items())[: None if seed == SEEDS[0] else 2]:
                out = folder / f"{name.replace(' ', '-')}-{seed}"
                values = recipe(folder, base, "second.jsonl", adapter, max_steps=STEPS,
                                learning_rate=2e-3, seed=seed)  # fmt: skip
                tuned = tune(values, out)
                keep(name, *held_out(tuned, load_tuned(out, dtype=torch.bfloat16)))
                cost[name] = {"cpu_s": round(tuned.cpu_s, 1), "weights_bytes": tuned.weights_bytes,
                              "saved_bytes": tuned.saved_bytes}  # fmt: skip
                if name == "qlora nf4":
                    for form, asked in other_forms(tuned, out, base).items():
                        keep(form, *held_out(tuned, asked))
    figures: dict[str, dict[str, Any]] = {}
    for name, parts in per_row.items():
        mean = np.mean(parts, axis=0)
        plain = np.mean(per_row["lora bf16"][: len(parts)], axis=0)
        found = stats.ttest_rel(mean, plain)
        figures[name] = {
            "nats_per_token": float(np.mean(totals[name])), "by_seed": totals[name],
            "over_lora": float(np.mean(totals[name]) / np.mean(totals["lora bf16"][: len(parts)])),
            "p_against_lora": None if name == "lora bf16" else float(found.pvalue),
            "rows": len(mean), **cost.get(name, {}),
        }  # fmt: skip
    worst = max(q / p for q, p in zip(totals["qlora nf4"], totals["lora bf16"], strict=True))
    record(
        "qlora",
        [
            at_most("quantised linear layers, share of bf16 memory", shares["linear"], 0.27),
            at_most("whole 135M shape, share of bf16 memory", shares["whole"], 0.45),
            at_most("QLoRA loss over bf16 LoRA's, equal steps, worse of two seeds", worst, 1.03),
        ],
        "2 shared cores of an AMD EPYC with AVX512-BF16",
        {"quality": figures, "seeds": SEEDS, "steps": STEPS},
    )  # fmt: skip


if __name__ == "__main__":
    main()
