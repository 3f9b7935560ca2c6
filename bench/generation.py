"""Evaluation by generation: our engine against `model.generate` in padded batches.

Same model, same prompts, same number of tokens for each row (log-normal prompts and answers, as in
evaluations of tuned models), greedy, alternating A B A B in one process; medians of the runs. The
peer is shown four ways: in batches of 8 in the order of the rows, which is what evaluation loops
do as shipped; one by one; and sorted by length at the best of several batch sizes. The bar is on
the first, in fp32, where the tokens must be equal too (ties under 1e-4 excused).

    python bench/generation.py --shape 135m --runs 3
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers

from record import at_least, record
from shapes import SHAPES, make_shape, shared_data
from tunewright.model.device import keep_freed_memory
from tunewright.model.engine import Engine, Request
from tunewright.model.load import Base, load_base

HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16"
TIE = 1e-4
ROWS = {"656k": 256, "15m": 96, "135m": 32}
BATCHES = (16, 64)


def make_rows(count: int, vocabulary: int, longest: int) -> tuple[list[list[int]], list[int]]:
    """Prompts (median 70 tokens) and answer lengths (median 30), from a fixed stream."""
    stream = np.random.default_rng(7)
    sizes = np.clip(stream.lognormal(np.log(70), 0.6, count), 8, longest // 2).astype(int)
    answers = np.clip(stream.lognormal(np.log(30), 0.8, count), 2, longest // 2).astype(int)
    prompts = [stream.integers(5, vocabulary, size).tolist() for size in sizes]
    return prompts, answers.tolist()


class EndAt(transformers.StoppingCriteria):
    """Ends each row of a batch at its own length, as an end token would."""

    def __init__(self, width: int, answers: Sequence[int], end: int) -> None:
        self.width, self.answers = width, torch.tensor(answers)
        self.eos_token_id = torch.tensor([end])  # generate pads rows that ended if this is here

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **rest: object):
        return input_ids.shape[1] - self.width >= self.answers


def peer(
    base: Base,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[int],
    size: int,
    *,
    by_length: bool,
) -> list[list[int]]:
    """Answers of `model.generate` in padded batches of `size`."""
    order = list(range(len(prompts)))
    if by_length:
        order.sort(key=lambda i: len(prompts[i]))
    out: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), size):
        part = order[start : start + size]
        width = max(len(prompts[i]) for i in part)
        ids = torch.zeros(len(part), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, i in enumerate(part):
            ids[place, width - len(prompts[i]) :] = torch.tensor(prompts[i])
            mask[place, width - len(prompts[i]) :] = 1
        wanted = [answers[i] for i in part]
        with torch.inference_mode():
            new = base.model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=max(wanted),
                eos_token_id=None, pad_token_id=0,
                stopping_criteria=transformers.StoppingCriteriaList([EndAt(width, wanted, 0)]),
            )  # fmt: skip
        for place, i in enumerate(part):
            out[i] = new[place, width : width + answers[i]].tolist()
    return out


def ours(base: Base, prompts: Sequence[Sequence[int]], answers: Sequence[int]) -> list[list[int]]:
    """Answers of our engine; setting it up is part of the time."""
    engine = Engine(base)
    engine.ends = frozenset()
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    index = {engine.add(Request(prompts[i], answers[i])): i for i in order}
    out: list[list[int]] = [[] for _ in prompts]
    while engine.busy:
        for token in engine.step():
            out[index[token.request]].append(token.id)
    engine.close()
    return out


def unexcused(base: Base, prompts, first, second) -> tuple[int, int]:
    """(rows that differ, those of them whose first difference is no tie)."""
    differ = bad = 0
    for prompt, a, b in zip(prompts, first, second, strict=True):
        if a == b:
            continue
        differ += 1
        at = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
        with torch.inference_mode():
            logits = base.model(torch.tensor([[*prompt, *a[:at]]])).logits[0, -1].float()
        bad += float(logits.max() - logits[[a[at], b[at]]].min()) > TIE
    return differ, bad


def timed(run: Callable[[], list[list[int]]]) -> tuple[float, list[list[int]]]:
    started = time.perf_counter()
    out = run()
    return time.perf_counter() - started, out


def measure(
    base: Base, rows: int, runs: int, batches: Sequence[int] = BATCHES
) -> dict[str, object]:
    vocabulary = base.plain.config.vocab_size
    longest = min(512, base.plain.config.max_position_embeddings)
    prompts, answers = make_rows(rows, vocabulary, longest)
    pairs = []
    for _ in range(runs):
        ours_s, mine = timed(lambda: ours(base, prompts, answers))
        shipped_s, theirs = timed(lambda: peer(base, prompts, answers, 8, by_length=False))
        pairs.append((ours_s, shipped_s))
    differ, bad = unexcused(base, prompts, mine, theirs)
    best = {size: timed(lambda size=size: peer(base, prompts, answers, size, by_length=True))[0]
            for size in sorted({min(size, rows) for size in batches})}  # fmt: skip
    few = max(4, rows // 8)  # one by one takes long; its rate is what counts
    single_s = timed(lambda: peer(base, prompts[:few], answers[:few], 1, by_length=False))[0]
    mine_s = statistics.median(pair[0] for pair in pairs)
    single_rate = sum(answers[:few]) / single_s
    return {
        "rows": rows, "prompt_tokens": sum(map(len, prompts)), "new_tokens": sum(answers),
        "ours_s": mine_s, "ours_new_tokens_per_s": sum(answers) / mine_s,
        "batches_of_8_s": statistics.median(pair[1] for pair in pairs),
        "ratio_to_batches_of_8": statistics.median(pair[1] / pair[0] for pair in pairs),
        "sorted_batches_s": best, "ratio_to_best_sorted": min(best.values()) / mine_s,
        "ratio_to_one_by_one": sum(answers) / mine_s / single_rate,
        "rows_that_differ": differ, "rows_that_differ_without_a_tie": bad,
    }  # fmt: skip


def open_shape(name: str, folder: Path, dtype: torch.dtype) -> Base:
    path = shared_data("model-tinystories-656k") if name == "656k" else make_shape(name, folder)
    return load_base(str(path), task="generate", dtype=dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=["656k", *SHAPES], default="15m")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--dry", action="store_true", help="print, do not record")
    wish = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    dtype = torch.float32 if wish.precision == "fp32" else torch.bfloat16
    with tempfile.TemporaryDirectory() as folder:
        base = open_shape(wish.shape, Path(folder), dtype)
        found = measure(base, wish.rows or ROWS[wish.shape], wish.runs, wish.batches)
    found["threads"] = torch.get_num_threads()
    label = f"{wish.shape}, {wish.precision}"
    bars = [at_least(f"model.generate in padded batches of 8 to ours, {label}",
                     float(found["ratio_to_batches_of_8"]), 4.0, "x")]  # fmt: skip
    if wish.precision == "fp32":
        right = found["rows"] - found["rows_that_differ_without_a_tie"]
        bars.append(at_least(f"rows with the same tokens, ties excused, {label}",
                             100.0 * right / found["rows"], 100.0, "%"))  # fmt: skip
    print(found)
    if not wish.dry:
        record(f"generation_{wish.shape}_{wish.precision}", bars, HARDWARE, {"measured": found})


if __name__ == "__main__":
    main()
