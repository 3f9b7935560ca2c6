"""Two processes on two cores against one on one, at the shape of a 135M decoder.

    python bench/parallel_efficiency.py [--quick]

Weights are random (the shape is SmolLM2 135M's); LoRA in bf16 on packed rows. Pairs of runs take
turns, and the median of their ratios is the figure.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "bench")]

import numpy as np  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import transformers  # noqa: E402

from record import at_least, record  # noqa: E402
from tunewright.data.render import Row  # noqa: E402
from tunewright.journal import silence  # noqa: E402
from tunewright.model.speed import make_fast  # noqa: E402
from tunewright.sections import TrainingSection  # noqa: E402
from tunewright.train.loop import Plan, fit  # noqa: E402
from tunewright.train.objectives import OBJECTIVES  # noqa: E402
from tunewright.train.optimize import Rates  # noqa: E402
from tunewright.train.parallel import ALONE, Group  # noqa: E402

HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16"
SHAPE = {
    "vocab_size": 49_152, "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "intermediate_size": 1536, "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}  # fmt: skip
WARM_UP = 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="4 layers, 3 steps, one pair")
    quick = parser.parse_args().quick
    pairs = 1 if quick else 3
    ratios = []
    for _ in range(pairs):
        one, two = tokens_per_s(1, quick), tokens_per_s(2, quick)
        ratios.append(two / (2 * one))
        print(f"1 on 1: {one:.0f} tokens/s, 2 on 2: {two:.0f}: {ratios[-1]:.1%}", flush=True)
    bars = [at_least("2 processes on 2 cores against 1 on 1, 135M LoRA",
                     100 * statistics.median(ratios), 85.0, "%")]  # fmt: skip
    if not quick:
        record("parallel_efficiency", bars, HARDWARE, {"ratios": ratios})
    for bar in bars:
        print(bar)


def tokens_per_s(size: int, quick: bool) -> float:
    """Tokens per second of all ranks together, each held to a core of its own."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as place:
        act = partial(_rank, size, Path(place), quick)
        children = [context.Process(target=act, args=(rank,)) for rank in range(size)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert all(child.exitcode == 0 for child in children)
        return float(json.loads((Path(place) / "speed.json").read_text()))


def _rank(size: int, folder: Path, quick: bool, rank: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    ranks: Any = ALONE
    if size > 1:
        dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=size)
        ranks = Group()
    times: list[tuple[float, int]] = []
    _train(ranks, folder, quick, times)
    ranks.leave()
    if rank == 0:
        (began, before), (ended, after) = times[WARM_UP - 1], times[-1]
        (folder / "speed.json").write_text(json.dumps((after - before) / (ended - began)))
    os._exit(0)


def _train(ranks: Any, folder: Path, quick: bool, times: list[tuple[float, int]]) -> None:
    torch.manual_seed(5)
    shape = {**SHAPE, "num_hidden_layers": 4} if quick else SHAPE
    model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
    model = model.to(torch.bfloat16)
    lora = peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear")
    model = peft.get_peft_model(model, lora, autocast_adapter_dtype=False)
    make_fast(model)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    plan = Plan(
        batch_size=32, max_batch_tokens=1024, num_epochs=10.0, eval_steps=1000,
        rates=Rates(1e-4, 1e-4), head_names=frozenset(), pad_id=0,
    )  # fmt: skip
    config = TrainingSection(max_steps=3 if quick else 7, early_stopping_patience=None)
    fit(
        model, named, _rows(512), plan, config, objective=OBJECTIVES["generate"], evaluate=None,
        checkpoints=folder / "checkpoints",
        log_step=lambda step: times.append((time.monotonic(), step.tokens)),
        log_evaluation=lambda _: None, forget_after=lambda _: None, journal=silence(), ranks=ranks,
    )  # fmt: skip


def _rows(count: int) -> list[Row]:
    """Rows of 40 to 250 tokens, the second half of each learned."""
    dice = np.random.default_rng(3)
    rows = []
    for number in range(count):
        ids = dice.integers(4, SHAPE["vocab_size"], int(dice.integers(40, 250))).astype(np.int32)
        weights = np.ones(ids.size, dtype=np.float32)
        weights[: ids.size // 2] = 0.0
        rows.append(Row(f"r{number}", ids, weights))
    return rows


if __name__ == "__main__":
    main()
