"""Tiny training runs for the kill tests: about a second each, and random wherever possible."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import peft
import torch
import transformers
from torch import nn

from tunewright.data.batch import make_batch
from tunewright.data.render import Row
from tunewright.model.speed import make_fast
from tunewright.sections import TrainingSection
from tunewright.train.loop import Plan
from tunewright.train.objectives import OBJECTIVES, Objective
from tunewright.train.optimize import Rates

VOCABULARY, NUM_CLASSES, SPECIAL = 64, 3, frozenset({0, 1, 2, 3})
PAD, MASK = 0, 3


@dataclass(frozen=True)
class Setting:
    """One cell of the matrix. Dropout is always on; encoders hide random tokens as well."""

    kind: Literal["llama", "bert"]
    method: Literal["lora", "full"]
    precision: Literal["fp32", "bf16"]
    num_workers: int
    ema: float | Literal["none"] = "none"
    packing: bool = False
    patience: int | None = None
    mixing: bool = False
    fast: bool = False
    """Plain LoRA on every linear layer of a Llama: rows packed, passes written by hand."""

    @property
    def name(self) -> str:
        extras = [f"ema{self.ema}" * (self.ema != "none"), "packed" * self.packing]
        extras.append(f"patience{self.patience}" * (self.patience is not None))
        extras += ["mixing" * self.mixing, "fast" * self.fast]
        parts = [self.kind, self.method, self.precision, f"workers{self.num_workers}", *extras]
        return "-".join(part for part in parts if part)


def make_matrix() -> list[Setting]:
    """All of kind x method x precision x workers, some with an average, packing or patience.

    And the packed path of decoders, which has no dropout, in both precisions.
    """
    settings = []
    cells = itertools.product(("llama", "bert"), ("lora", "full"), ("fp32", "bf16"), (0, 2))
    for number, (kind, method, precision, workers) in enumerate(cells):
        pair = number // 2  # settings that differ in nothing but the workers
        settings.append(
            Setting(
                kind,  # type: ignore[arg-type]
                method,  # type: ignore[arg-type]
                precision,  # type: ignore[arg-type]
                workers,
                ema=0.9 if pair % 3 == 0 else "none",
                packing=kind == "llama" and pair % 3 == 1,
                patience=2 if pair % 2 == 1 else None,
                mixing=pair % 4 < 2,
            )
        )
    return settings + [
        Setting("llama", "lora", precision, workers, ema=0.9, mixing=True, fast=True)  # type: ignore[arg-type]
        for precision, workers in itertools.product(("fp32", "bf16"), (0, 2))
    ]


@dataclass(frozen=True)
class TinyRun:
    """All that `fit` takes, built once per setting; only forked children ever train it."""

    model: nn.Module
    parameters: Sequence[tuple[str, nn.Parameter]]
    rows: Sequence[Row]
    held_out: Sequence[Row]
    plan: Plan
    config: TrainingSection
    objective: Objective

    def evaluate(self) -> tuple[float, float, Mapping[str, float]]:
        """(value, loss, metrics) on the held-out rows."""
        batch = make_batch(self.held_out, pad_id=PAD, device=torch.device("cpu"))
        with torch.no_grad():
            loss = float(self.objective(self.model, batch)) / len(self.held_out)
        return -loss, loss, {"loss": loss}


@functools.cache
def make_tiny_run(setting: Setting) -> TinyRun:
    """Model, rows and plan: 5 steps an epoch, 4 epochs, micro-batches of 2 or 3 rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = _make_model(setting)
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    rows = _make_rows(setting.kind, 48)
    heads = frozenset(name for name, _ in parameters if "classifier" in name)
    plan = Plan(
        batch_size=8,
        max_batch_tokens=36,
        num_epochs=4.0,
        eval_steps=4,
        rates=Rates(base=1e-2, head=2e-2),
        head_names=heads,
        pad_id=PAD,
        mask_id=MASK if setting.kind == "bert" else None,
        special_ids=SPECIAL,
        fitted_start=setting.mixing,
    )
    config = TrainingSection(
        save_steps=2,
        token_dropout=0.2 if setting.kind == "bert" else 0.0,
        ema=setting.ema,
        packing=setting.packing,
        early_stopping_patience=setting.patience,
        num_workers=setting.num_workers,
        precision=setting.precision,
    )
    objective = OBJECTIVES["classify" if setting.kind == "bert" else "generate"]
    return TinyRun(model, parameters, rows[:40], rows[40:], plan, config, objective)


def _make_model(setting: Setting) -> nn.Module:
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
        "pad_token_id": PAD,
    }
    model: nn.Module
    if setting.fast:  # heads as wide as the compiled kernels want
        config = transformers.LlamaConfig(**shape | {"hidden_size": 32})
        model = transformers.LlamaForCausalLM(config)
    elif setting.kind == "llama":
        config = transformers.LlamaConfig(**shape, attention_dropout=0.1)
        model = transformers.LlamaForCausalLM(config)
    else:
        bert = transformers.BertConfig(**shape, num_labels=NUM_CLASSES)
        model = transformers.BertForSequenceClassification(bert)
    if setting.precision == "bf16":
        model = model.to(torch.bfloat16)
    if setting.method == "full":
        return model
    if setting.fast:
        plain = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
        tuned = peft.get_peft_model(model, plain).to(model.dtype)  # type: ignore[arg-type]
        assert "whole decoder layers" in make_fast(tuned)
        return tuned
    heads = ["classifier"] if setting.kind == "bert" else None
    targets = ["q_proj", "v_proj", "down_proj"] if setting.kind == "llama" else ["query", "value"]
    lora = peft.LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.1, target_modules=targets, modules_to_save=heads
    )
    return peft.get_peft_model(model, lora)  # type: ignore[arg-type]


def _make_rows(kind: str, count: int) -> list[Row]:
    dice = np.random.default_rng(3)
    rows = []
    for number in range(count):
        ids = dice.integers(4, VOCABULARY, int(dice.integers(6, 14))).astype(np.int32)
        if kind == "bert":
            rows.append(Row(f"r{number}", ids, target=int(dice.integers(NUM_CLASSES))))
            continue
        weights = np.ones(ids.size, dtype=np.float32)
        weights[: ids.size // 3] = 0.0
        rows.append(Row(f"r{number}", ids, weights))
    return rows
