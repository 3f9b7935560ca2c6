"""Evaluation by generation of 500 rows must not take longer than the training that it judges.

LoRA in bf16, rows with log-normal lengths (prompts of 70 tokens, answers of 30 by the median). Of
4,000 rows to train on, one pass is counted, though the default is several; some steps are timed and
the pass is reckoned from their real tokens a second. The 500 rows are answered by our engine in the
same process and model, with its adapters, each row as long as its answer: that is what a tuned
model writes.

    python bench/judging.py [--shape 15m|135m] [--quick]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tunewright.train.loop as loop
from generation import make_rows, ours
from record import at_most, record
from shapes import SHAPES, make_shape
from tunewright.data.render import Row
from tunewright.journal import silence
from tunewright.model.adapters.table import attach, trainable_parameters
from tunewright.model.device import cap_kernel_caches, keep_freed_memory
from tunewright.model.load import Base, load_base
from tunewright.model.speed import make_fast
from tunewright.sections import TrainingSection
from tunewright.train.objectives import OBJECTIVES
from tunewright.train.optimize import Rates

HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16"
TRAINED_ROWS, JUDGED_ROWS, LONGEST, WARM_UP = 4000, 500, 512, 3


def open_tuned(shape: str, folder: Path) -> Base:
    base = load_base(str(make_shape(shape, folder)), task="generate", dtype=torch.bfloat16)
    base = attach(base, "lora", r=16, alpha=32, seed=17)
    for _, parameter in trainable_parameters(base.model):
        parameter.data = parameter.data.to(torch.bfloat16)
    make_fast(base.model)
    return base


def training_rows(vocabulary: int) -> list[Row]:
    prompts, answers = make_rows(TRAINED_ROWS, vocabulary, LONGEST)
    stream, rows = np.random.default_rng(8), []
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids = np.array([*prompt, *stream.integers(5, vocabulary, answer)], np.int32)
        weights = np.r_[np.zeros(len(prompt)), np.ones(answer)].astype(np.float32)
        rows.append(Row(str(number), ids, weights))
    return rows


def tokens_per_s(base: Base, rows: list[Row], steps: int) -> float:
    """Real tokens a second of training, over the steps after the first few."""
    plan = loop.Plan(
        batch_size=16, max_batch_tokens=2048, num_epochs=1.0, eval_steps=10**9,
        rates=Rates(2e-4, 2e-4), head_names=frozenset(), pad_id=0,
    )  # fmt: skip
    ends: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        loop.fit(
            base.model, trainable_parameters(base.model), rows, plan,
            TrainingSection(max_steps=WARM_UP + steps, seed=17),
            objective=OBJECTIVES["generate"], evaluate=None, checkpoints=Path(folder),
            log_step=lambda step: ends.append((time.perf_counter(), step.tokens)),
            log_evaluation=lambda _: None, forget_after=lambda _: None, journal=silence(),
        )  # fmt: skip
    (began, before), (ended, after) = ends[WARM_UP - 1], ends[-1]
    return (after - before) / (ended - began)


def measure(shape: str, steps: int, judged: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        base = open_tuned(shape, Path(folder))
    vocabulary = base.plain.config.vocab_size
    rows = training_rows(vocabulary)
    rates = [tokens_per_s(base, rows, steps)]
    prompts, answers = make_rows(judged, vocabulary, LONGEST)
    base.model.eval()
    began = time.perf_counter()
    ours(base, prompts, answers)
    judging_s = (time.perf_counter() - began) * JUDGED_ROWS / judged
    base.model.train()
    rates.append(tokens_per_s(base, rows, steps))
    pass_s = sum(row.num_tokens for row in rows) / float(np.mean(rates))
    return {
        "shape": shape, "training_tokens_per_s": rates, "pass_s": pass_s, "judging_s": judging_s,
        "new_tokens": sum(answers), "judged_rows_timed": judged, "ratio": judging_s / pass_s,
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=[*SHAPES], default="15m")
    parser.add_argument("--quick", action="store_true", help="a tenth of it, not recorded")
    wish = parser.parse_args()
    keep_freed_memory()
    cap_kernel_caches()
    found = measure(wish.shape, *((6, 50) if wish.quick else (40, JUDGED_ROWS)))
    print(found)
    bar = at_most(f"answering 500 rows, over one pass of training on 4,000, {wish.shape}",
                  found["ratio"], 1.0, "x")  # fmt: skip
    if not wish.quick:
        record(f"judging_{wish.shape}", [bar], HARDWARE, {"measured": found})


if __name__ == "__main__":
    main()
