"""Tiny trainings by one or several gloo processes, forked from a process that has imported all.

A child is one rank. It builds its model from the same seed, trains, and leaves what it came to.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import peft
import torch
import torch.distributed as dist
import transformers
from safetensors.torch import load_file, save_file

from tunewright.data.batch import make_batch
from tunewright.data.render import Row
from tunewright.journal import silence
from tunewright.model import decoder
from tunewright.model.speed import make_fast
from tunewright.sections import TrainingSection
from tunewright.store import append_jsonl, read_jsonl
from tunewright.train.loop import Plan, fit
from tunewright.train.objectives import OBJECTIVES
from tunewright.train.optimize import Rates
from tunewright.train.parallel import ALONE, Group
from tunewright.train.sharding import shard

VOCABULARY = 64
PATIENCE_S = 120


@dataclass(frozen=True)
class Training:
    """What is trained, and how; the rows and the first weights follow from it."""

    method: Literal["lora", "full"] = "full"
    dtype: torch.dtype = torch.float32
    packing: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    steps: int = 50
    max_batch_tokens: int = 30
    ema: float | Literal["none"] = "none"
    rate: float = 1e-3
    odd_rank: int = -1
    """A rank that holds other rows than the rest."""


def train(training: Training, size: int, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Final weights and losses by step; raises AssertionError with the traceback of a failed rank.

    resume: from the checkpoints in `folder`, which another number of ranks may have written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / f"store-{os.urandom(4).hex()}"
    context = multiprocessing.get_context("fork")
    target = partial(_rank, training, size, folder, store, resume)
    children = [context.Process(target=target, args=(rank,)) for rank in range(size)]
    for child in children:
        child.start()
    for child in children:
        child.join(PATIENCE_S)
    hung = [child for child in children if child.is_alive()]
    for child in hung:
        child.kill()
    errors = [path.read_text() for path in sorted(folder.glob("error-*"))]
    assert not hung and not errors and all(c.exitcode == 0 for c in children), "\n".join(errors)
    losses = {row["step"]: row["loss"] for row in read_jsonl(folder / "steps.jsonl")}
    return {"weights": load_file(folder / "weights.safetensors"), "losses": losses}


def furthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference between weights of two trainings."""
    assert one["weights"].keys() == other["weights"].keys()
    return max(float((t - other["weights"][n]).abs().max()) for n, t in one["weights"].items())


def _rank(
    training: Training, size: int, folder: Path, store: Path, resume: bool, rank: int
) -> None:
    try:
        torch.set_num_threads(1)
        ranks = ALONE
        if size > 1:
            dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=size)
            ranks = Group()
        _train(training, ranks, folder, resume)
        ranks.leave()
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def _train(training: Training, ranks: Any, folder: Path, resume: bool) -> None:
    torch.manual_seed(5)
    model = make_model(training)
    named: Any = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    make_fast(model)
    if training.parallel == "fsdp":
        decoder._KNOWN[model] = None  # sharded layers run torch's own code; so must one rank's
    if training.parallel == "fsdp":
        named = shard(model, named, ranks)
    rows = make_rows(48, seed=4 if ranks.rank == training.odd_rank else 3)
    plan = Plan(
        batch_size=8, max_batch_tokens=training.max_batch_tokens, num_epochs=100.0, eval_steps=10,
        rates=Rates(training.rate, training.rate), head_names=frozenset(), pad_id=0,
    )  # fmt: skip
    config = TrainingSection(
        max_steps=training.steps, packing=training.packing, ema=training.ema, save_steps=10,
        early_stopping_patience=None,
    )  # fmt: skip
    objective = OBJECTIVES["generate"]

    def evaluate() -> tuple[float, float, dict[str, float]]:
        batch = make_batch(rows[40:], pad_id=0, device=torch.device("cpu"))
        with torch.no_grad():
            loss = float(objective(model, batch)) / 8
        return (-loss if math.isfinite(loss) else math.nan), loss, {"loss": loss}

    fitted = fit(
        model, named, rows[:40], plan, config, objective=objective,
        evaluate=evaluate, checkpoints=folder / "checkpoints",
        log_step=lambda step: append_jsonl(folder / "steps.jsonl", [step]) if ranks.is_first else 0,
        log_evaluation=lambda evaluation: None, forget_after=lambda step: None, journal=silence(),
        resume=resume, ranks=ranks,
    )  # fmt: skip
    if ranks.is_first:
        kept = {name: tensor.detach().clone() for name, tensor in fitted.weights.items()}
        save_file(kept, folder / "weights.safetensors")


def make_model(training: Training) -> Any:
    """A Llama of two layers without dropout."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    model: Any = transformers.LlamaForCausalLM(config).to(training.dtype)
    if training.method == "full":
        return model
    targets = ["q_proj", "v_proj", "down_proj"]
    lora = peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=targets)
    return peft.get_peft_model(model, lora, autocast_adapter_dtype=False)


def make_rows(count: int, *, seed: int = 3) -> list[Row]:
    """Rows of 6 to 14 tokens, of which a number that differs by row is learned."""
    dice = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        ids = dice.integers(4, VOCABULARY, int(dice.integers(6, 15))).astype(np.int32)
        weights = np.ones(ids.size, dtype=np.float32)
        weights[: int(dice.integers(1, ids.size - 1))] = 0.0
        rows.append(Row(f"r{number}", ids, weights))
    return rows
