"""Every "auto" of a recipe turned into a value with a reason. Arithmetic only; no torch.

Sources: EVIDENCE section 3 of the design (LoRA learning rates re-scored on a published sweep of 25
models), and the runs recorded in bench/LOG.md for small encoders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tunewright.config import Recipe, with_values
from tunewright.methods import METHODS
from tunewright.records import Derived
from tunewright.sections import COMPARING

SMALL_MODEL = 200_000_000
"""Below this many parameters, training all of them is cheap and nothing is gained by an adapter."""
FULL_RATE_AT_384 = 1.5e-4
HEAD_RATE = 1e-3
LORA_OVER_FULL = 10.0
"""LoRA wants about ten times the learning rate of full tuning (LoRA Without Regret, 2025)."""
USUAL_RANKS = {"vera": 256, "loha": 8, "lokr": 8, "adalora": 12}
"""Ranks that mean something else than LoRA's."""
RATE_OVER_LORA = {
    "lora_plus": 0.5, "vera": 10.0, "adalora": 4.0, "oft": 1.0, "boft": 1.0, "loha": 1.0,
    "lokr": 2.0, "ia3": 10.0, "ln_tuning": 4.0, "prompt_tuning": 20.0, "prefix_tuning": 10.0,
}  # fmt: skip
"""Learning rate over LoRA's: starting points by judgement, not yet measured on our own benches."""
MOST_RATE = 5e-2
PREFERENCE_RATE = 0.25
"""Share of the usual rate where answers are compared: a starting point by judgement."""
PASSES_TIMES_ROOT = 600
MAX_BATCH_TOKENS_CPU = 8192
MAX_BATCH_TOKENS_CPU_DECODER = 2048
"""Matrix products of a decoder are at full speed from here on; more would only take memory."""
MAX_BATCH_TOKENS_GPU = 32768
MOST_LOGIT_BYTES = 4e9
LOGIT_BYTES = 14
"""Of one logit in training: bf16 and fp32 values, their gradients, the softmax."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the defaults depend on: the base, the data and the device; no weights needed."""

    task: str
    kind: Literal["encoder", "decoder", "encoder-decoder"]
    num_parameters: int
    hidden_size: int
    num_rows: int
    lengths: Sequence[int]
    """Tokens of each training row, before any cut."""
    answer_lengths: Sequence[int]
    """Tokens of each answer in training; empty where the target is not text."""
    max_positions: int
    device: str
    has_head: bool
    """A new head is trained beside the base."""
    num_outputs: int = 1
    """Vocabulary of a language model; logits over it are what fills memory."""
    fitted_head: bool = False
    """That head starts from a linear model on the frozen base."""


def fill_defaults(recipe: Recipe, facts: Facts) -> tuple[Recipe, tuple[Derived, ...]]:
    """The recipe without an "auto" that concerns training, and what was derived with its reason."""
    chosen: list[Derived] = []

    def settle(key: str, choice: tuple[Any, str]) -> Any:
        section, name = key.split(".")
        current = getattr(getattr(recipe, section), name)
        if current != "auto":
            return current
        chosen.append(Derived(key, *choice))
        return choice[0]

    method = settle("adapter.method", _method(facts, recipe))
    takes = METHODS[method].takes
    if "r" in takes:
        rank = settle("adapter.r", _rank(facts, method))
        if "alpha" in takes:
            settle("adapter.alpha", (2.0 * rank, "twice the rank"))
    choice = _learning_rate(facts, method)
    if recipe.objective in (*COMPARING, "grpo") and recipe.objective != "reward":
        slower = _two_digits(PREFERENCE_RATE * choice[0])
        choice = (slower, f"{choice[1]}; a quarter of it where answers are compared")
    rate = settle("training.learning_rate", choice)
    settle("training.head_learning_rate", _head_rate(facts, rate))
    batch_size = settle("training.batch_size", _batch_size(facts))
    num_epochs = settle("training.num_epochs", _num_epochs(facts))
    settle("training.max_length", _max_length(facts))
    settle("training.max_batch_tokens", _max_batch_tokens(facts))
    settle("training.optimizer", _optimizer(facts, recipe))
    settle("training.eval_steps", _eval_steps(facts, batch_size, num_epochs, recipe))
    settle("evaluation.max_new_tokens", _max_new_tokens(facts))
    return with_values(recipe, {item.key: item.value for item in chosen}), tuple(chosen)


def _method(facts: Facts, recipe: Recipe) -> tuple[str, str]:
    adapter = recipe.adapter
    if adapter.held_in != "none":
        return "lora", f"weights held in {adapter.held_in} stay frozen, so an adapter learns"
    if adapter.modules_to_save or adapter.exclude_modules:
        return "lora", "some modules are named to learn whole, or not at all"
    millions = facts.num_parameters / 1e6
    if facts.num_parameters < SMALL_MODEL:
        return "full", f"{millions:.0f}M parameters: all of them fit and learn more than an adapter"
    return "lora", f"{millions:.0f}M parameters: an adapter needs a fraction of the memory"


def _rank(facts: Facts, method: str) -> tuple[int, str]:
    if method in USUAL_RANKS:
        return USUAL_RANKS[method], f"usual for {method}"
    rank = 16 if facts.num_rows < 20_000 else 32
    return rank, f"{facts.num_rows} rows: rank {rank} holds what they teach"


def _learning_rate(facts: Facts, method: str) -> tuple[float, str]:
    width = facts.hidden_size
    if facts.kind == "encoder":
        # Few rows on a fitted head want small steps: at 770 rows 3e-5 gained .7 points over the
        # frozen probe where 1e-4 lost 1.6 (bench/LOG.md).
        share = min(1.0, max(0.02, facts.num_rows / 10_000)) ** 0.6
        rate = FULL_RATE_AT_384 * (384 / width) ** 1.5 * share
    else:
        # The published fit for Llama shapes, held within the range that was measured.
        rate = min(1e-3, 5e-5 * (2000 / width) ** 0.781)
    if METHODS[method].weights:
        reason = f"full tuning of a {facts.kind} {width} wide on {facts.num_rows} rows"
        return _two_digits(rate), reason
    rate = min(2e-3, LORA_OVER_FULL * rate)
    if method in RATE_OVER_LORA:
        ratio = RATE_OVER_LORA[method]
        rate = min(MOST_RATE, ratio * rate)
        why = f"{method}: {ratio:g} times what LoRA wants, by judgement; `search` finds better"
        return _two_digits(rate), why
    return _two_digits(rate), f"LoRA on a {facts.kind} {width} wide: ten times the full-tuning rate"


def _head_rate(facts: Facts, rate: float) -> tuple[float, str]:
    if not facts.has_head:
        return rate, "no new head; as learning_rate"
    if facts.fitted_head:
        return rate, "the head starts fitted; as learning_rate"
    return max(HEAD_RATE, rate), "a new head starts from nothing and may learn faster than the base"


def _batch_size(facts: Facts) -> tuple[int, str]:
    if facts.task == "embed":
        return (64 if facts.num_rows >= 640 else 16), "every text of a batch is one to tell apart"
    if facts.num_rows < 300:
        return 8, f"{facts.num_rows} rows: small batches give enough steps"
    if facts.task in ("generate", "chat", "continue") or facts.num_rows < 1_000:
        return 16, f"{facts.num_rows} rows"
    return 32, f"{facts.num_rows} rows"


def _num_epochs(facts: Facts) -> tuple[float, str]:
    if facts.task in ("generate", "chat", "continue"):
        epochs = min(5, max(2, round(20_000 / max(1, facts.num_rows))))
        return float(epochs), f"{facts.num_rows} rows to write from; early stopping may end sooner"
    if facts.task == "embed":
        epochs = min(8, max(1, math.ceil(20_000 / max(1, facts.num_rows))))
        return float(epochs), f"{facts.num_rows} pairs; early stopping may end sooner"
    # Passes fall with the square root of the rows: 12 up to 2,500 rows, 6 at 10,000, 2 at 100,000.
    epochs = min(12, max(2, math.ceil(PASSES_TIMES_ROOT / max(1, facts.num_rows) ** 0.5)))
    return float(epochs), f"{facts.num_rows} rows; early stopping may end sooner"


def _max_length(facts: Facts) -> tuple[int, str]:
    longest = max(facts.lengths, default=8)
    limit = min(facts.max_positions, 2048 if facts.kind != "encoder" else 512)
    value = max(16, min(limit, -(-longest // 8) * 8))
    cut = sum(length > value for length in facts.lengths)
    note = f"; {cut} rows are longer than the {limit} tokens allowed" if cut else "; nothing is cut"
    return value, f"longest training row has {longest} tokens{note}"


def _max_batch_tokens(facts: Facts) -> tuple[int, str]:
    most = int(MOST_LOGIT_BYTES / (LOGIT_BYTES * max(1, facts.num_outputs)))
    if facts.device == "cpu" and facts.kind == "decoder":
        value, reason = MAX_BATCH_TOKENS_CPU_DECODER, "full speed on processors, little memory"
    elif facts.device == "cpu":
        value, reason = MAX_BATCH_TOKENS_CPU, "fits the caches and a laptop's memory"
    else:
        value, reason = MAX_BATCH_TOKENS_GPU, "fills the device; halved when memory runs out"
    if most < value:
        return max(256, most), f"{facts.num_outputs} words: logits stay below 4 GB"
    return value, reason


def _optimizer(facts: Facts, recipe: Recipe) -> tuple[str, str]:
    held = recipe.adapter.held_in
    if held != "none" and facts.device in ("cuda", "xpu"):
        return "adamw_8bit", f"the base is held in {held}: its optimiser may be small as well"
    return "adamw", "moments in fp32"


def _eval_steps(
    facts: Facts, batch_size: int, num_epochs: float, recipe: Recipe
) -> tuple[int, str]:
    accumulation = recipe.training.gradient_accumulation_steps
    per_step = batch_size * (accumulation if isinstance(accumulation, int) else 1)
    per_epoch = math.ceil(facts.num_rows / per_step)
    total = math.ceil(per_epoch * num_epochs)
    steps = per_epoch * max(1, round(num_epochs / 12)) if num_epochs >= 4 else max(1, total // 8)
    return steps, f"about {max(1, round(total / steps))} looks at validation"


def _max_new_tokens(facts: Facts) -> tuple[int, str]:
    if not facts.answer_lengths:
        return 256, "no answers to measure"
    longest = max(facts.answer_lengths)
    value = min(1024, longest + max(8, longest // 4))
    return value, f"longest answer in training has {longest} tokens"


def _two_digits(value: float) -> float:
    return float(f"{value:.1e}")
