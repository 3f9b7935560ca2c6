"""QLoRA on the processor: memory, and loss beside bf16 LoRA. `python bench/qlora.py`.

Memory: a model of SmolLM-135M's shape with random weights, saved and loaded in bf16 and in NF4.
Quality: TinyStories-656k is tuned whole on e2e_nlg until it predicts it well; that base then learns
another style (the reply of a guide) with LoRA in bf16, on NF4, on int8 and with LoftQ's start, the
same rows and steps. Held-out rows are compared in pairs. Writes results/qlora.json.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from record import at_most, record

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[2] / "shared" / "data")
STORIES = DATA / "model-tinystories-656k"
FIRST_STEPS, STEPS, HELD = 250, 150, 300


def memory(folder: Path) -> dict[str, float]:
    """Shares of bf16 bytes that remain in NF4: of linear layers, and of the whole model."""
    import torch
    import transformers

    from tunewright.model.load import load_base
    from tunewright.model.quantize import is_packed, packed_bytes

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


def tune(folder: Path, base: str, data: str, adapter: dict[str, str], steps: int, out: str):
    """Tune and return (held-out nats of each row, tokens of each row)."""
    from tunewright.config import make_recipe
    from tunewright.data.prepare import prepare
    from tunewright.data.render import render
    from tunewright.evaluate.predict import score_rows
    from tunewright.journal import Journal
    from tunewright.model.weights import load_tuned, save_tuned
    from tunewright.setup import make_setup, open_model
    from tunewright.train.loop import fit
    from tunewright.train.objectives import OBJECTIVES

    rate = 1e-3 if adapter["method"] == "full" else 2e-3
    recipe = make_recipe({
        "task": "generate", "base_model": base, "adapter": adapter,
        "data": {"train": str(folder / data), "validation": 0, "test": str(folder / "held.jsonl")},
        "training": {"max_steps": steps, "num_epochs": 50, "num_threads": 1, "precision": "bf16",
                     "learning_rate": rate, "batch_size": 16, "max_length": 256},
    })  # fmt: skip
    journal = Journal()
    setup = make_setup(recipe, prepare(recipe.data, recipe.task, journal), journal)
    rows = render(setup.prepared.splits.train, setup.rendering)
    tuning = open_model(setup, journal, rows=rows)
    fitted = fit(
        tuning.base.model, tuning.parameters, rows, tuning.plan, setup.recipe.training,
        objective=OBJECTIVES["generate"], evaluate=None, checkpoints=folder / f"{out}-points",
        log_step=lambda s: None, log_evaluation=lambda e: None, forget_after=lambda s: None,
        journal=journal,
    )  # fmt: skip
    save_tuned(tuning.base, folder / out, state=fitted.weights, extra=setup.manifest())
    loaded = load_tuned(folder / out, dtype=setup.dtype)
    held = render(setup.prepared.splits.test, setup.rendering)
    scores = score_rows(setup.asker(loaded), held, lambda share: None)
    return np.array([s[0] for s in scores]), np.array([s[1] for s in scores])


def main() -> None:
    from scipy import stats

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shares = memory(folder / "shape")
        print(shares, flush=True)
        write_rows(folder)
        tune(folder, str(STORIES), "first.jsonl", {"method": "full"}, FIRST_STEPS, "base")
        figures, per_row = {}, {}
        for name, adapter in (
            ("lora bf16", {"method": "lora"}), ("qlora nf4", {"method": "qlora"}),
            ("lora int8", {"method": "lora", "quantization": "int8"}),
            ("loftq nf4", {"method": "loftq"}),
        ):  # fmt: skip
            nats, tokens = tune(folder, str(folder / "base"), "second.jsonl", adapter, STEPS,
                                name.replace(" ", "-"))  # fmt: skip
            per_row[name] = nats / tokens
            figures[name] = {"nats_per_token": float(nats.sum() / tokens.sum())}
            found = stats.ttest_rel(per_row[name], per_row["lora bf16"])
            figures[name] |= {"p_against_lora": float(found.pvalue), "rows": len(nats)}
            print(name, figures[name], flush=True)
    plain = figures["lora bf16"]["nats_per_token"]
    record(
        "qlora",
        [
            at_most("quantised linear layers, share of bf16 memory", shares["linear"], 0.27),
            at_most("whole 135M shape, share of bf16 memory", shares["whole"], 0.45),
            at_most("QLoRA loss over bf16 LoRA's, equal steps",
                    figures["qlora nf4"]["nats_per_token"] / plain, 1.03),
        ],
        "2 shared cores of an AMD EPYC with AVX512-BF16",
        {"quality": figures},
    )  # fmt: skip


if __name__ == "__main__":
    main()
