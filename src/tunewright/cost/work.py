"""From a recipe with its facts to what the arithmetic wants: the widest micro-batch, the totals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunewright.config import Recipe
from tunewright.cost.memory import Work
from tunewright.cost.shape import ModelShape
from tunewright.defaults import Facts

LANGUAGE = ("generate", "chat", "continue")
FAST_METHODS = ("lora", "lora_plus", "rslora")
FAST_TYPES = ("llama", "mistral", "qwen2")
"""What model/decoder.py knows."""
WRITE_FACTOR = 3.0
"""A written token costs about this many read ones: decoding waits for memory, not for products."""
MOST_GENERATED = 200
"""Validation rows that a generative model answers at each look (validation.py)."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What the whole run works through. tokens: trained on, padding counted, real_tokens without.

    answered_tokens: read (and, dearer, written) at the looks at validation and on test.
    """

    steps: int
    tokens: float
    real_tokens: float
    answered_tokens: float
    answered_rows: float


def make_work(recipe: Recipe, facts: Facts, shape: ModelShape, *, num_labels: int) -> Work:
    """The widest micro-batch that this recipe will make; every "auto" must be settled."""
    training, adapter = recipe.training, recipe.adapter
    lengths = cut_lengths(recipe, facts)
    longest = max(lengths, default=8)
    most, batch_size = training.max_batch_tokens, training.batch_size
    assert isinstance(most, int) and isinstance(batch_size, int)
    per_step = _rows_per_step(recipe)
    rows = max(1, min(per_step, len(lengths), most // longest))
    language = facts.task in LANGUAGE
    fast = _runs_fast(recipe, facts, shape)
    tokens = rows * longest
    if fast or training.packing:
        rows, tokens = _packed(lengths, per_step, most)
    micro_batches = math.ceil(min(per_step, len(lengths)) / rows)
    outputs = _widest_outputs(facts, lengths, rows, tokens) if language else rows
    if facts.task == "tag":
        outputs = rows * longest
    trains_pooling = adapter.method == "full" and facts.fitted_head and facts.kind == "encoder"
    num_outputs = shape.vocab_size if language else max(1, num_labels)
    return Work(
        method=adapter.method,
        rank=adapter.r if isinstance(adapter.r, int) else 16,
        quantization=adapter.held_in,
        precision="fp32" if training.precision == "fp32" else "bf16",
        tokens=tokens,
        fast=fast,
        row_tokens=longest,
        outputs=outputs,
        num_outputs=num_outputs,
        language=language,
        micro_batches=micro_batches,
        checkpointing=training.activation_checkpointing == "on",
        ema=training.ema != "none",
        packed_moments=training.optimizer == "adamw_8bit",
        dropout=_dropout(recipe, shape) > 0.0,
        padded=not (fast or training.packing) and len(set(sorted(lengths)[-rows:])) > 1,
        num_head=0 if language else num_outputs * shape.hidden_size,
        extra_layers=1 if trains_pooling and training.pooling != "base" else 0,
    )


def _runs_fast(recipe: Recipe, facts: Facts, shape: ModelShape) -> bool:
    """Whether hand-written layers take over: plain LoRA on Llama's shape, or all of a BERT in bf16.

    model/decoder.py and model/encoder.py look at the modules themselves; this looks at names.
    """
    adapter, training = recipe.adapter, recipe.training
    if shape.model_type == "bert":
        return (
            facts.device == "cpu"
            and adapter.method == "full"
            and training.precision != "fp32"
            and training.activation_checkpointing != "on"
            and facts.task in ("classify", "regress")
        )
    return (
        facts.task in LANGUAGE
        and facts.device == "cpu"
        and adapter.method in FAST_METHODS
        and shape.model_type in FAST_TYPES
        and adapter.dropout == 0.0
    )


def _packed(lengths: Sequence[int], per_step: int, most: int) -> tuple[int, int]:
    """(rows, tokens) of the fullest micro-batch of rows laid end to end, the longest together."""
    chosen = sorted(lengths)[-per_step:]
    best = (1, chosen[-1])
    rows = tokens = 0
    for length in chosen:
        if rows and tokens + length > most:
            rows = tokens = 0
        rows, tokens = rows + 1, tokens + length
        best = max(best, (rows, tokens), key=lambda item: item[1])
    return best


def cut_lengths(recipe: Recipe, facts: Facts) -> list[int]:
    """Tokens of each measured row, none longer than training.max_length."""
    most = recipe.training.max_length
    assert isinstance(most, int)
    return [min(length, most) for length in facts.lengths]


def count_totals(recipe: Recipe, facts: Facts, *, num_validation: int, num_test: int) -> Totals:
    """Steps and tokens of the whole run, rows of like length batched together as in training."""
    training = recipe.training
    lengths = sorted(cut_lengths(recipe, facts))
    assert isinstance(training.num_epochs, float) and isinstance(training.eval_steps, int)
    per_step = _rows_per_step(recipe)
    padded = sum(
        len(part) * part[-1]
        for part in (lengths[i : i + per_step] for i in range(0, len(lengths), per_step))
    )
    share = facts.num_rows / max(1, len(lengths))
    steps = max(1, math.ceil(training.num_epochs * math.ceil(facts.num_rows / per_step)))
    passes = training.num_epochs
    if training.max_steps is not None and training.max_steps < steps:
        passes *= training.max_steps / steps
        steps = training.max_steps
    mean = sum(lengths) / max(1, len(lengths))
    looks = max(1, steps // training.eval_steps)
    written, rows = _answered(facts, looks, num_validation, num_test)
    real = passes * share * sum(lengths)
    return Totals(steps, passes * share * padded, real, rows * (mean + written), rows)


def _answered(facts: Facts, looks: int, num_validation: int, num_test: int) -> tuple[float, float]:
    """(tokens that a written answer counts for, rows answered in all)."""
    written = 0.0
    if facts.task in ("generate", "chat"):
        answers = facts.answer_lengths
        written = WRITE_FACTOR * sum(answers) / max(1, len(answers))
        num_validation = min(num_validation, MOST_GENERATED)
    # The test rows are answered by the tuned model and by its base.
    return written, float(looks * num_validation + 2 * num_test)


def _rows_per_step(recipe: Recipe) -> int:
    training = recipe.training
    assert isinstance(training.batch_size, int)
    accumulation = training.gradient_accumulation_steps
    return training.batch_size * (accumulation if isinstance(accumulation, int) else 1)


def _widest_outputs(facts: Facts, lengths: Sequence[int], rows: int, tokens: int) -> int:
    """Target positions of the micro-batch that holds the longest rows."""
    if facts.task == "continue" or not facts.answer_lengths:
        return tokens
    pairs = sorted(zip(lengths, facts.answer_lengths, strict=False), reverse=True)[:rows]
    return max(1, sum(min(answer, length) for length, answer in pairs))


def _dropout(recipe: Recipe, shape: ModelShape) -> float:
    wish = recipe.training.dropout
    return shape.dropout if wish == "auto" else float(wish)
