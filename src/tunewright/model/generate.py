"""Answers and scores from language models: our own batched decoding with a key-value cache.

Rows are sorted by length and padded on the left, share one forward pass per token, and leave the
batch (and its cache) when they end. Greedy answers equal those of transformers' own generate.

Shapes: B rows, T positions, V vocabulary, N chosen positions.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tunewright.errors import ModelError
from tunewright.model.device import is_out_of_memory
from tunewright.model.load import Base, end_ids

DEFAULT_BATCH_TOKENS = 16_384
# Most logits held at once while scoring: 2**26 float32 values are 256 MiB.
_MOST_LOGITS = 1 << 26
_POSITION_TABLES = ("wpe", "embed_positions", "position_embeddings", "position_embedding")
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


@dataclass(slots=True)
class _Row:
    """One prompt on its way to an answer. space: new tokens that it may have at most."""

    index: int
    prompt: tuple[int, ...]
    space: int
    generator: torch.Generator | None = None
    ids: list[int] = field(default_factory=list)
    log_probability: float = 0.0
    num_chosen: int = 0
    finished: bool = False


def generate_answers(
    base: Base,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    max_batch_tokens: int = DEFAULT_BATCH_TOKENS,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> list[Answer]:
    """One answer per prompt, in the order of the prompts.

    temperature 0 is greedy; above it, tokens are drawn from the top_p share of the probability,
    and what a row draws depends on (seed, its index) alone, not on its batch. max_batch_tokens
    counts prompt and new tokens of all rows in a batch; a batch that does not fit in memory is
    halved. on_progress(rows done, rows). Raises ModelError for a prompt longer than the model's
    position table.
    """
    limit = _position_limit(base)
    rows = [
        _Row(index, tuple(ids), _space(base, ids, limit, max_new_tokens), _stream(seed, index))
        for index, ids in enumerate(prompts)
    ]
    choose = _make_chooser(temperature, top_p)
    done = 0
    with _evaluating(base.model):
        for batch in _batches(rows, max_batch_tokens, max_new_tokens):
            _decode_fitting(base, batch, choose)
            done += len(batch)
            if on_progress is not None:
                on_progress(done, len(rows))
    return [_make_answer(base, row) for row in rows]


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
    space = _space(base, prompt_ids, _position_limit(base), max_new_tokens)
    row = _Row(0, tuple(prompt_ids), space, _stream(seed, 0))
    choose = _make_chooser(temperature, top_p)
    shown = ""
    with _evaluating(base.model):
        for _ in _decode(base, [row], choose):
            text = _text(base, row.ids)
            if text.startswith(shown) and not text.endswith("\ufffd"):
                yield text[len(shown) :]
                shown = text
    rest = _text(base, row.ids)[len(shown) :]
    if rest:
        yield rest


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
        started[:, 0] = _start_id(plain)
        inputs = {**inputs, "decoder_input_ids": started}
    handle = head.register_forward_pre_hook(select)
    try:
        logits = plain(**inputs, use_cache=False).logits
    finally:
        handle.remove()
    return torch.as_tensor(logits).squeeze(0)


def _space(base: Base, prompt: Sequence[int], limit: int | None, max_new_tokens: int) -> int:
    """New tokens that fit after a prompt, within `limit` positions. Raises ModelError when none."""
    if not prompt:
        raise ModelError("prompt: empty, no token to start from; give the prompt some text")
    if limit is None:
        return max_new_tokens
    if len(prompt) >= limit:
        raise ModelError(
            f"prompt: {len(prompt)} tokens, {base.reference} has positions for {limit}; shorten it "
            "or set training.max_length"
        )
    return min(max_new_tokens, limit - len(prompt))


def _position_limit(base: Base) -> int | None:
    """Positions of a learned table, beyond which a decoder cannot look; None for rotary ones."""
    if base.kind != "decoder":
        return None
    for name, module in base.plain.named_modules():
        if name.rsplit(".", 1)[-1] in _POSITION_TABLES and isinstance(module, nn.Embedding):
            return int(module.num_embeddings - getattr(module, "offset", 0))
    return None


def _stream(seed: int, index: int) -> torch.Generator:
    """A random stream of its own for each row."""
    digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def _batches(rows: list[_Row], max_tokens: int, max_new_tokens: int) -> Iterator[list[_Row]]:
    # Longest first: if memory is short, it shows at once.
    order = sorted(rows, key=lambda row: len(row.prompt), reverse=True)
    yield from _by_tokens(order, lambda row: len(row.prompt) + max_new_tokens, max_tokens)


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


def _decode_fitting(base: Base, batch: list[_Row], choose: _Chooser) -> None:
    """Decode a batch to the end, in halves where memory is short."""
    try:
        for _ in _decode(base, batch, choose):
            pass
    except Exception as error:
        if not is_out_of_memory(error) or len(batch) == 1:
            raise
    else:
        return
    if base.device.type == "cuda":
        torch.cuda.empty_cache()
    for row in batch:
        row.ids, row.log_probability, row.num_chosen, row.finished = [], 0.0, 0, False
        if row.generator is not None:
            row.generator = torch.Generator().manual_seed(row.generator.initial_seed())
    half = len(batch) // 2
    _decode_fitting(base, batch[:half], choose)
    _decode_fitting(base, batch[half:], choose)


_Chooser = Callable[[torch.Tensor, list[_Row]], torch.Tensor]


def _make_chooser(temperature: float, top_p: float) -> _Chooser:
    """A function (log-probabilities_BV, rows) -> token ids_B."""
    if temperature <= 0:
        return lambda logp_BV, rows: logp_BV.argmax(dim=-1)

    def draw(logp_BV: torch.Tensor, rows: list[_Row]) -> torch.Tensor:
        p_BV, ids_BV = (logp_BV / temperature).softmax(-1).sort(dim=-1, descending=True)
        sums_BV = p_BV.cumsum(-1)
        # The token that crosses top_p still belongs to it, so one always remains.
        kept_BV = torch.where(sums_BV - p_BV < top_p, p_BV, torch.zeros_like(p_BV)).cumsum(-1)
        points = torch.stack([torch.rand((), generator=row.generator) for row in rows])
        aims_B1 = points.to(kept_BV).unsqueeze(1) * kept_BV[:, -1:]
        places_B1 = torch.searchsorted(kept_BV, aims_B1, right=True)
        chosen_B1 = ids_BV.gather(1, places_B1.clamp(max=p_BV.shape[1] - 1))
        return torch.as_tensor(chosen_B1.squeeze(1))

    return draw


def _decode(base: Base, rows: list[_Row], choose: _Chooser) -> Iterator[None]:
    """Extend the rows token by token until all have ended; yields after each token."""
    ends = frozenset(end_ids(base))
    active = [row for row in rows if row.space > 0]
    if not active:
        return
    pass_forward = _Forward(base, active)
    while active:
        with torch.inference_mode():
            logp_BV = pass_forward().float().log_softmax(-1)
            ids_B = choose(logp_BV, active)
            logp_B = logp_BV.gather(1, ids_B.unsqueeze(1)).squeeze(1).tolist()
        chosen = ids_B.tolist()
        keep = []
        for place, (row, token) in enumerate(zip(active, chosen, strict=True)):
            row.log_probability += logp_B[place]
            row.num_chosen += 1
            row.finished = token in ends
            if not row.finished:
                row.ids.append(token)
                if len(row.ids) < row.space:
                    keep.append(place)
        pass_forward.take(ids_B, keep)
        active = [active[place] for place in keep]
        yield


class _Forward:
    """The model's next-token logits for a shrinking batch, with its cache.

    Called: logits_BV of the next token. take(ids_B, keep): add the chosen tokens, drop other rows.
    """

    def __init__(self, base: Base, rows: Sequence[_Row]) -> None:
        self.model = base.plain
        self.device = base.device
        self.cache: Any = None
        self.encoded: Any = None
        names = inspect.signature(self.model.forward).parameters
        self.takes_positions = "position_ids" in names
        self.takes_logits_to_keep = "logits_to_keep" in names
        pad = base.tokenizer.pad_token_id or 0
        prompts = [row.prompt for row in rows]
        if base.kind == "encoder-decoder":
            ids_BT, self.mask_BT = _pad(prompts, pad, left=False, device=self.device)
            with torch.inference_mode():
                encoder = self.model.get_encoder()
                self.encoded = encoder(input_ids=ids_BT, attention_mask=self.mask_BT)
            self.ids_BT = torch.full((len(rows), 1), _start_id(self.model), device=self.device)
        else:
            self.ids_BT, self.mask_BT = _pad(prompts, pad, left=True, device=self.device)

    def __call__(self) -> torch.Tensor:
        inputs: dict[str, Any] = {"attention_mask": self.mask_BT, "use_cache": True}
        if self.cache is not None:
            inputs["past_key_values"] = self.cache
        if self.encoded is not None:
            inputs |= {"encoder_outputs": self.encoded, "decoder_input_ids": self.ids_BT}
        else:
            inputs["input_ids"] = self.ids_BT
            if self.takes_positions:
                positions = (self.mask_BT.cumsum(-1) - 1).clamp(min=0)
                inputs["position_ids"] = positions[:, -self.ids_BT.shape[1] :]
            if self.takes_logits_to_keep:
                inputs["logits_to_keep"] = 1
        output = self.model(**inputs)
        self.cache = output.past_key_values
        return torch.as_tensor(output.logits)[:, -1, :]

    def take(self, ids_B: torch.Tensor, keep: list[int]) -> None:
        self.ids_BT = ids_B.unsqueeze(1)
        if self.encoded is None:
            ones = self.mask_BT.new_ones((self.mask_BT.shape[0], 1))
            self.mask_BT = torch.cat([self.mask_BT, ones], dim=1)
        if not keep or len(keep) == len(ids_B):
            return
        chosen = torch.tensor(keep, device=self.device)
        self.ids_BT, self.mask_BT = self.ids_BT[chosen], self.mask_BT[chosen]
        if self.encoded is not None:
            hidden = self.encoded.last_hidden_state[chosen]
            self.encoded = type(self.encoded)(last_hidden_state=hidden)
        _select_cache_rows(self.cache, chosen)


def _select_cache_rows(cache: Any, chosen: torch.Tensor) -> None:
    """Keep only the chosen rows of a cache. Every cache layer knows how to reorder its rows."""
    for name in ("self_attention_cache", "cross_attention_cache"):
        if hasattr(cache, name):
            _select_cache_rows(getattr(cache, name), chosen)
            if name == "cross_attention_cache":
                return
    for layer in cache.layers:
        if hasattr(layer, "batch_select_indices"):
            layer.batch_select_indices(chosen)
        else:
            layer.reorder_cache(chosen)


def _start_id(model: Any) -> int:
    """The token that a decoder with an encoder starts from."""
    for settings in (model.generation_config, model.config):
        for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
            value = getattr(settings, name, None)
            if isinstance(value, int):
                return value
    raise ModelError("config.json: no decoder_start_token_id; add it")


def _pad(
    rows: Sequence[Sequence[int]], pad: int, *, left: bool, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids_BT, mask_BT), both int64; mask is 1 where a token is."""
    width = max(len(row) for row in rows)
    ids_BT = torch.full((len(rows), width), pad, dtype=torch.long)
    mask_BT = torch.zeros((len(rows), width), dtype=torch.long)
    for place, row in enumerate(rows):
        span = slice(width - len(row), width) if left else slice(0, len(row))
        ids_BT[place, span] = torch.tensor(row, dtype=torch.long)
        mask_BT[place, span] = 1
    return ids_BT.to(device), mask_BT.to(device)


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
    ids_BT, attended_BT = _pad([ids or [pad] for ids, _ in rows], pad, left=False,
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
    ids_BT, attended_BT = _pad(sources, pad, left=False, device=base.device)
    start = _start_id(base.plain)
    shifted = [[start, *target[:-1]] for target in targets]
    decoder_ids_BT, decoder_mask_BT = _pad(shifted, pad, left=False, device=base.device)
    lengths = torch.tensor([len(target) for target in targets], device=base.device)
    columns = torch.arange(decoder_ids_BT.shape[1], device=base.device)
    inputs = {
        "input_ids": ids_BT,
        "attention_mask": attended_BT,
        "decoder_input_ids": decoder_ids_BT,
        "decoder_attention_mask": decoder_mask_BT,
    }
    return inputs, columns < lengths.unsqueeze(1), targets


def _make_answer(base: Base, row: _Row) -> Answer:
    mean = row.log_probability / max(1, row.num_chosen)
    return Answer(
        text=_text(base, row.ids),
        ids=tuple(row.ids),
        finished=row.finished,
        mean_probability=float(torch.tensor(mean).exp()),
    )


def _text(base: Base, ids: Sequence[int]) -> str:
    return str(
        base.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode (no dropout) for the block, then as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
