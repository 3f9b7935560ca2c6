"""Answers and scores from language models, for a whole set of rows at once.

Answers come from the continuous batches of engine.py; greedy ones equal those of transformers' own
generate. Scores take one forward pass, with logits only where a target is.

Shapes: B rows, T positions, V vocabulary, N chosen positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tunewright.model.device import is_out_of_memory
from tunewright.model.engine import Engine, Request, Token
from tunewright.model.load import Base
from tunewright.model.modular import pad_rows, start_id
from tunewright.model.sampling import Sampling, row_seed
from tunewright.model.spelling import spell

DEFAULT_BATCH_TOKENS = 16_384
# Most logits held at once while scoring: 2**26 float32 values are 256 MiB.
_MOST_LOGITS = 1 << 26
PACKED_FROM_TOKENS = 512
"""New tokens from which a copy of the weights in the fastest form pays back."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote.

    ids: without the end token. finished: it ended by itself, not at a limit. mean_probability:
    geometric mean, over the chosen tokens (the end token too), of the model's own probability.
    """

    text: str
    ids: tuple[int, ...]
    finished: bool
    mean_probability: float


def generate_answers(
    base: Base,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    max_batch_tokens: int | None = None,
    max_rows: int | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> list[Answer]:
    """One answer per prompt, in the order of the prompts.

    temperature 0 is greedy; above it, tokens are drawn from the top_p share of the probability,
    and what a row draws depends on (seed, its index) alone, not on its batch. max_batch_tokens
    counts prompt and new tokens of all rows under way at once (None: what memory allows), max_rows
    the rows; when memory is short, rows are halved. on_progress(rows done, rows). Raises ModelError
    for a prompt longer than the model's position table.
    """
    if not len(prompts) or max_new_tokens < 1:
        return [Answer("", (), False, 1.0) for _ in prompts]
    with _evaluating(base.model):
        engine = Engine(
            base, max_rows=max_rows, max_tokens=max_batch_tokens,
            packed=len(prompts) * max_new_tokens >= PACKED_FROM_TOKENS,
        )  # fmt: skip
        try:
            return _run(engine, prompts, max_new_tokens, temperature, top_p, seed, on_progress)
        finally:
            engine.close()


def _run(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    on_progress: Progress | None,
) -> list[Answer]:
    # Longest first: rows under way at once are of like length, and short memory shows at once.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
    index_of: dict[int, int] = {}
    for index in order:
        how = Sampling(temperature=temperature, top_p=top_p, seed=row_seed(seed, index))
        index_of[engine.add(Request(tuple(prompts[index]), max_new_tokens, how))] = index
    written: list[list[Token]] = [[] for _ in prompts]
    done = 0
    while engine.busy:
        ended = 0
        for token in engine.step():
            written[index_of[token.request]].append(token)
            ended += token.ended is not None
        done += ended
        if ended and on_progress is not None:
            on_progress(done, len(prompts))
    return [_make_answer(engine.base, tokens) for tokens in written]


def stream_answer(
    base: Base,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[str]:
    """The answer to one prompt, piece by piece; the pieces joined are Answer.text.

    Text is held back while its last character is incomplete.
    """
    how = Sampling(temperature=temperature, top_p=top_p, seed=row_seed(seed, 0))
    with _evaluating(base.model):
        engine = Engine(base, max_rows=1, packed=False)
        engine.add(Request(tuple(prompt_ids), max_new_tokens, how, wants_text=True))
        while engine.busy:
            for token in engine.step():
                if token.text:
                    yield token.text


def score_completions(
    base: Base,
    rows: Sequence[tuple[Sequence[int], int]],
    *,
    max_batch_tokens: int = DEFAULT_BATCH_TOKENS,
    on_progress: Progress | None = None,
) -> list[tuple[float, int]]:
    """(nll_nats, num_tokens) of ids[first_target_index:] given what stands before, per row.

    rows: (ids, first_target_index). For encoder-decoders ids[:first] is the source. The first
    token of a decoder's row has nothing before it and is never a target. Logits are computed only
    where a target is.
    """
    vocabulary = int(base.plain.get_output_embeddings().weight.shape[0])
    order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
    results: list[tuple[float, int]] = [(0.0, 0)] * len(rows)
    limit = max(1, min(max_batch_tokens, _MOST_LOGITS // vocabulary))
    done = 0
    with _evaluating(base.model), torch.inference_mode():
        for batch in _by_tokens(order, lambda i: len(rows[i][0]), limit):
            scores = _score_fitting(base, [rows[i] for i in batch])
            for index, score in zip(batch, scores, strict=True):
                results[index] = score
            done += len(batch)
            if on_progress is not None:
                on_progress(done, len(rows))
    return results


def target_logits(model: Any, inputs: dict[str, Any], mask_BT: torch.Tensor) -> torch.Tensor:
    """logits_NV at the positions where mask_BT is True, in row order; differentiable.

    The output layer runs on the chosen positions alone, so memory follows N, not B times T.
    model: a language model, plain or with adapters. inputs: what its forward takes, no labels.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    head: nn.Module = plain.get_output_embeddings()

    def select(_: nn.Module, values: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (values[0][mask_BT].unsqueeze(0), *values[1:])

    if "decoder_input_ids" in inputs:
        # Whoever made the inputs knows no model; what a decoder starts from is the model's own.
        started = inputs["decoder_input_ids"].clone()
        started[:, 0] = start_id(plain)
        inputs = {**inputs, "decoder_input_ids": started}
    handle = head.register_forward_pre_hook(select)
    try:
        logits = plain(**inputs, use_cache=False).logits
    finally:
        handle.remove()
    return torch.as_tensor(logits).squeeze(0)


def _by_tokens(items: Sequence[Any], length: Callable[[Any], int], limit: int) -> Iterator[Any]:
    """Consecutive items whose number times their longest length stays within limit."""
    batch: list[Any] = []
    longest = 0
    for item in items:
        longest = max(longest, length(item))
        if batch and longest * (len(batch) + 1) > limit:
            yield batch
            batch, longest = [], length(item)
        batch.append(item)
    if batch:
        yield batch


def _score_fitting(base: Base, rows: list[tuple[Sequence[int], int]]) -> list[tuple[float, int]]:
    try:
        return _score(base, rows)
    except Exception as error:
        if not is_out_of_memory(error) or len(rows) == 1:
            raise
    half = len(rows) // 2
    return _score_fitting(base, rows[:half]) + _score_fitting(base, rows[half:])


def _score(base: Base, rows: list[tuple[Sequence[int], int]]) -> list[tuple[float, int]]:
    """Scores of one batch."""
    if base.kind == "encoder-decoder":
        inputs, mask_BT, targets = _seq2seq_inputs(base, rows)
    else:
        inputs, mask_BT, targets = _causal_inputs(base, rows)
    counts = [len(target) for target in targets]
    if not sum(counts):
        return [(0.0, 0) for _ in rows]
    flat_N = torch.tensor([i for target in targets for i in target], device=base.device)
    logits_NV = target_logits(base.model, inputs, mask_BT).float()
    nll_N = F.cross_entropy(logits_NV, flat_N, reduction="none").double()
    parts = torch.split(nll_N, counts)
    return [(float(part.sum()), count) for part, count in zip(parts, counts, strict=True)]


def _causal_inputs(
    base: Base, rows: list[tuple[Sequence[int], int]]
) -> tuple[dict[str, Any], torch.Tensor, list[Sequence[int]]]:
    pad = base.tokenizer.pad_token_id or 0
    ids_BT, attended_BT = pad_rows([ids or [pad] for ids, _ in rows], pad, left=False,
                               device=base.device)  # fmt: skip
    mask_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
    targets: list[Sequence[int]] = []
    for place, (ids, first) in enumerate(rows):
        first = max(first, 1)
        mask_BT[place, first - 1 : len(ids) - 1] = True
        targets.append(ids[first:])
    return {"input_ids": ids_BT, "attention_mask": attended_BT}, mask_BT, targets


def _seq2seq_inputs(
    base: Base, rows: list[tuple[Sequence[int], int]]
) -> tuple[dict[str, Any], torch.Tensor, list[Sequence[int]]]:
    pad = base.tokenizer.pad_token_id or 0
    targets = [ids[first:] for ids, first in rows]
    sources = [ids[:first] or [pad] for ids, first in rows]
    ids_BT, attended_BT = pad_rows(sources, pad, left=False, device=base.device)
    start = start_id(base.plain)
    shifted = [[start, *target[:-1]] for target in targets]
    decoder_ids_BT, decoder_mask_BT = pad_rows(shifted, pad, left=False, device=base.device)
    lengths = torch.tensor([len(target) for target in targets], device=base.device)
    columns = torch.arange(decoder_ids_BT.shape[1], device=base.device)
    inputs = {
        "input_ids": ids_BT,
        "attention_mask": attended_BT,
        "decoder_input_ids": decoder_ids_BT,
        "decoder_attention_mask": decoder_mask_BT,
    }
    return inputs, columns < lengths.unsqueeze(1), targets


def _make_answer(base: Base, tokens: Sequence[Token]) -> Answer:
    last = tokens[-1]
    ids = tuple(token.id for token in tokens)
    ids = ids[:-1] if last.ended == "stop" else ids
    mean = sum(token.log_probability for token in tokens) / len(tokens)
    return Answer(spell(base.tokenizer, ids), ids, last.ended == "stop", math.exp(mean))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode (no dropout) for the block, then as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
