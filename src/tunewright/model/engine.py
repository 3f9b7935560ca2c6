"""Text from language models in continuous batches: requests come and go while the engine runs.

Each call of `step` takes one forward pass: it reads waiting prompts, or gives every row that is
under way its next token. A row that ends makes room at once. Requests may follow different
adapters, and each draws from a random stream of its own.

    engine = Engine(base)
    number = engine.add(Request(prompt_ids, max_new_tokens=100))
    while engine.busy:
        for token in engine.step(): ...

One thread steps; `add` and `cancel` may be called from any.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from tunewright.errors import ModelError
from tunewright.model.device import available_memory, is_out_of_memory
from tunewright.model.grammar import Grammar, GrammarState
from tunewright.model.load import Base, end_ids
from tunewright.model.low_rank import OWN, LowRank, MixedLayers, Mixer, make_route, read_low_rank
from tunewright.model.modular import ModularDecoder
from tunewright.model.prompt_scores import Scores, score_prompts
from tunewright.model.sampling import GREEDY, Sampling, choose
from tunewright.model.slots import SlotDecoder
from tunewright.model.spelling import Spelling
from tunewright.model.stacked import read_stack

JOIN_SHARE = 8
"""Rows join when an eighth of the places is free for them,"""
JOIN_AFTER = 4
"""or when this many tokens have been written since the first of them could have."""
CACHE_SHARE = 0.25
MOST_CACHE_BYTES = 4 << 30
_POSITION_TABLES = ("wpe", "embed_positions", "position_embeddings", "position_embedding")
# Largest difference of logits between our forward and the modules' own, relative to their spread.
_AGREES = {torch.float32: 1e-3}
_AGREES_IN_HALF = 0.12


@dataclass(frozen=True, slots=True)
class Request:
    """One answer that is asked for.

    adapter: a name that `add_adapter` was given; None is the model as it was loaded.
    stop: strings that end the answer and are no part of it. wants_text: pieces of text in `Token`;
    implied by stop. grammar: what the answer must look like.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    adapter: str | None = None
    wants_text: bool = False
    grammar: Grammar | None = None


class Token(NamedTuple):
    """One step of one row.

    id: the token; an end token ends the answer and is no part of it. text: what can be shown now.
    ended: None, or "stop" (by itself or a stop string), "length" (at a limit), "cancelled".
    tops: likeliest tokens with their natural log-probabilities, where they were asked for.
    """

    request: int
    id: int
    log_probability: float
    text: str
    ended: str | None
    tops: tuple[tuple[int, float], ...]


@dataclass(slots=True)
class _Row:
    """A request under way. space: new tokens that it may have at most."""

    number: int
    request: Request
    space: int
    sampling: Sampling
    adapter: str | None
    spelling: Spelling | None
    grammar: GrammarState | None = None
    ids: list[int] = field(default_factory=list)

    @property
    def known(self) -> list[int]:
        """Everything to read if the row begins anew."""
        return [*self.request.prompt, *self.ids]


class Decoder(Protocol):
    """What an engine drives; see SlotDecoder."""

    joins: bool

    def add(self, prompts: Sequence[Sequence[int]], adapters: Sequence[str | None]) -> Tensor:
        """Take up rows; logits_BV of the new ones."""

    def step(self, ids: Sequence[int]) -> Tensor:
        """A token for every row; logits_BV of all."""

    def remove(self, places: Sequence[int]) -> list[int]:
        """Let rows go; old places in the new order."""

    def clear(self) -> None:
        """Forget all rows."""


class Engine:
    """Answers to requests, token by token.

    max_rows: rows under way at once. max_tokens: prompt and new tokens of all of them (None: what
    memory allows). packed: copy the weights into the form that is fastest, which pays back after
    some hundred tokens; weights that change later need a new engine. modules: decode through
    transformers' own modules even where there is a faster way.
    """

    def __init__(
        self,
        base: Base,
        *,
        max_rows: int | None = None,
        max_tokens: int | None = None,
        packed: bool = True,
        modules: bool = False,
    ) -> None:
        self.base = base
        self.max_rows = max_rows or (256 if base.device.type == "cuda" else 64)
        self.max_tokens = max_tokens or tokens_that_fit(base)
        self.limit = position_limit(base)
        self.ends = frozenset(end_ids(base))
        self.adapters: dict[str, LowRank] = {}
        self.waiting: deque[_Row] = deque()
        self.active: list[_Row] = []
        self._numbers = itertools.count()
        self._cancelled: set[int] = set()
        self._waited = 0
        self.mixers: list[Mixer] = []
        self._hooks: MixedLayers | None = None
        base.model.eval()
        self.decoder = self._open(packed, modules)

    @property
    def busy(self) -> bool:
        """True while a request waits or is under way."""
        return bool(self.active or self.waiting)

    @property
    def is_stacked(self) -> bool:
        """True where the forward pass is our own, False where it is that of the modules."""
        return isinstance(self.decoder, SlotDecoder)

    def add(self, request: Request) -> int:
        """Queue a request; returns its number. Raises ModelError where it cannot be answered."""
        if request.adapter is not None and request.adapter not in self.adapters:
            known = ", ".join(sorted(set(self.adapters) - {OWN})) or "none"
            raise ModelError(f"adapter {request.adapter!r}: not loaded; loaded are: {known}")
        space = self.space(request.prompt, request.max_new_tokens)
        name = request.adapter
        if name is None and OWN in self.adapters:
            name = OWN
        spelled = request.wants_text or bool(request.stop)
        spelling = Spelling(self.base.tokenizer, request.stop) if spelled else None
        grammar = request.grammar.start() if request.grammar is not None else None
        number = next(self._numbers)
        self.waiting.append(_Row(number, request, space, request.sampling, name, spelling, grammar))
        return number

    def space(self, prompt: Sequence[int], max_new_tokens: int) -> int:
        """New tokens that fit after a prompt. Raises ModelError when none."""
        if max_new_tokens < 1:
            raise ModelError(f"max_new_tokens: {max_new_tokens}; give 1 or more")
        if not len(prompt):
            raise ModelError("prompt: empty, no token to start from; give the prompt some text")
        if self.limit is None:
            return max_new_tokens
        if len(prompt) >= self.limit:
            raise ModelError(
                f"prompt: {len(prompt)} tokens, {self.base.reference} has positions for "
                f"{self.limit}; shorten it or set training.max_length"
            )
        return min(max_new_tokens, self.limit - len(prompt))

    def cancel(self, number: int) -> None:
        """End a request at the next step."""
        self._cancelled.add(number)

    def add_adapter(self, name: str, folder: Path) -> None:
        """Load a LoRA adapter of PEFT's format beside the others. Raises ModelError."""
        if not name:
            raise ModelError("adapter: no name; give it one")
        paths = [path.replace(".base_layer", "") for path, module
                 in self.base.plain.named_modules() if _is_linear(module)]  # fmt: skip
        self.adapters[name] = read_low_rank(folder, name, paths)
        if isinstance(self.decoder, ModularDecoder) and self.decoder.mixed is None:
            self.decoder.mixed = MixedLayers(self.base.plain, self.adapters)
            self.mixers = self.decoder.mixed.mixers
        self._forget_mixes()

    def drop_adapter(self, name: str) -> None:
        """Unload an adapter. Raises ModelError while a request follows it."""
        if any(row.adapter == name for row in (*self.active, *self.waiting)):
            raise ModelError(f"adapter {name!r}: in use; wait for its requests, or cancel them")
        self.adapters.pop(name, None)
        self._forget_mixes()

    def step(self) -> list[Token]:
        """One forward pass; the tokens that it gave, and what was cancelled."""
        tokens = self._drop_cancelled()
        try:
            tokens += self._join() if self._may_join() else self._go_on()
        except Exception as error:
            if not is_out_of_memory(error) or len(self.active) <= 1:
                raise
        else:
            return tokens
        self._begin_anew()  # outside the `except`, so that the failed step's tensors are gone
        return tokens

    def score(
        self, prompts: Sequence[Sequence[int]], *, adapter: str | None = None, tops: int = 1
    ) -> list[Scores]:
        """How likely every token of each prompt is after those before it, from the modules.

        Raises ModelError where a prompt cannot be read. Not while a step is under way.
        """
        for prompt in prompts:
            if len(prompt) > 1:
                self.space(prompt[:-1], 1)
        if self._hooks is None and adapter is not None:
            self._hooks = self._hook_modules()
        if self._hooks is not None:
            self._hooks.route = make_route([adapter], self.base.device) if adapter else None
        try:
            return score_prompts(self.base, prompts, tops)
        finally:
            if self._hooks is not None:
                self._hooks.route = None

    def _hook_modules(self) -> MixedLayers:
        """Adapters mixed into the modules: what decodes by them has that already."""
        if isinstance(self.decoder, ModularDecoder) and self.decoder.mixed is not None:
            return self.decoder.mixed
        hooks = MixedLayers(self.base.plain, self.adapters)
        self.mixers = [*self.mixers, *hooks.mixers]
        return hooks

    def close(self) -> None:
        """Give back what the engine put into the model and its memory."""
        self.decoder.clear()
        if self._hooks is not None:
            self._hooks.remove()
        if isinstance(self.decoder, ModularDecoder) and self.decoder.mixed is not None:
            self.decoder.mixed.remove()

    def _open(self, packed: bool, modules: bool) -> Decoder:
        with torch.inference_mode():
            stack = None if modules else read_stack(self.base, self.adapters, packed=packed)
            if stack is not None:
                self.mixers = stack.mixers
                if stack.own:
                    self.adapters[OWN] = LowRank(OWN, stack.own)
                decoder = SlotDecoder(stack)
                if _agrees(decoder, self.base, OWN if stack.own else None):
                    return decoder
                self.adapters.pop(OWN, None)
        return ModularDecoder(self.base)

    def _forget_mixes(self) -> None:
        for mixer in self.mixers:
            mixer.forget()

    def _may_join(self) -> bool:
        """Whether waiting rows are read now, before the others go on.

        Reading few prompts at a time costs a pass over all weights each time, so rows wait for
        company, though not long.
        """
        if not self.waiting or not self.active:
            return bool(self.waiting)
        if not self.decoder.joins or not self._fits(self.waiting[0], self.active):
            return False
        self._waited += 1
        company = min(len(self.waiting), self.max_rows - len(self.active))
        return company >= self.max_rows // JOIN_SHARE or self._waited > JOIN_AFTER

    def _fits(self, row: _Row, beside: Sequence[_Row]) -> bool:
        if not beside:
            return True
        used = sum(len(other.request.prompt) + other.space for other in beside)
        new = len(row.request.prompt) + row.space
        return len(beside) < self.max_rows and used + new <= self.max_tokens

    def _join(self) -> list[Token]:
        """Read the prompts of as many waiting rows as there is room for."""
        self._waited = 0
        new: list[_Row] = []
        while self.waiting and self._fits(self.waiting[0], [*self.active, *new]):
            new.append(self.waiting.popleft())
        first = len(self.active)
        self.active += new
        logits_BV = self.decoder.add([row.known for row in new], [row.adapter for row in new])
        return self._write(logits_BV, first)

    def _go_on(self) -> list[Token]:
        if not self.active:
            return []
        logits_BV = self.decoder.step([row.ids[-1] for row in self.active])
        return self._write(logits_BV, 0)

    def _write(self, logits_BV: Tensor, first: int) -> list[Token]:
        """Choose a token for the rows from `first` on; those that end make room."""
        rows = self.active[first:]
        with torch.inference_mode():
            for logits_V, row in zip(logits_BV, rows, strict=True):
                if row.grammar is not None:
                    row.grammar.mask(logits_V)
            choice = choose(logits_BV, rows)
        tokens, gone = [], []
        for place, row in enumerate(rows):
            token = choice.ids[place]
            ended = self._take(row, token)
            text = ""
            if row.spelling is not None:
                text = row.spelling.grow(row.ids, last=ended is not None)
                ended = "stop" if row.spelling.stopped else ended
            tops = () if choice.tops is None else choice.tops[place]
            tokens.append(
                Token(row.number, token, choice.log_probabilities[place], text, ended, tops)
            )
            if ended is not None:
                gone.append(first + place)
        self._remove(gone)
        return tokens

    def _take(self, row: _Row, token: int) -> str | None:
        """Add the token to the row; why it ended, if it did."""
        if token in self.ends:
            return "stop"
        row.ids.append(token)
        if row.grammar is not None:
            row.grammar.take(token)
            if row.grammar.is_complete:
                return "stop"
        return "length" if len(row.ids) >= row.space else None

    def _remove(self, places: Sequence[int]) -> None:
        if places:
            order = self.decoder.remove(places)
            self.active = [self.active[place] for place in order]

    def _drop_cancelled(self) -> list[Token]:
        if not self._cancelled:
            return []
        numbers, self._cancelled = self._cancelled, set()
        kept = [row for row in self.waiting if row.number not in numbers]
        gone = [place for place, row in enumerate(self.active) if row.number in numbers]
        ended = [row.number for row in self.waiting if row.number in numbers]
        ended += [self.active[place].number for place in gone]
        self.waiting = deque(kept)
        self._remove(gone)
        return [Token(number, -1, 0.0, "", "cancelled", ()) for number in ended]

    def _begin_anew(self) -> None:
        """Memory was short: half the rows, each read again from what it has."""
        self.max_rows = max(1, len(self.active) // 2)
        self.waiting.extendleft(reversed(self.active))
        self.active = []
        self.decoder.clear()
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()


def position_limit(base: Base) -> int | None:
    """Positions of a learned table, beyond which a decoder cannot look; None for rotary ones."""
    if base.kind != "decoder":
        return None
    for name, module in base.plain.named_modules():
        if name.rsplit(".", 1)[-1] in _POSITION_TABLES and isinstance(module, nn.Embedding):
            return int(module.num_embeddings - getattr(module, "offset", 0))
    return None


def tokens_that_fit(base: Base) -> int:
    """Tokens whose keys and values take a quarter of the free memory, 4 GiB at most."""
    config = base.plain.config.get_text_config()
    layers = int(getattr(config, "num_hidden_layers", 0) or 12)
    heads = int(getattr(config, "num_attention_heads", 0) or 12)
    keys = int(getattr(config, "num_key_value_heads", None) or heads)
    width = getattr(config, "head_dim", None) or int(config.hidden_size) // heads
    per_token = 2 * layers * keys * int(width) * base.dtype.itemsize
    room = min(MOST_CACHE_BYTES, int(CACHE_SHARE * available_memory(base.device)))
    return max(4096, room // max(1, per_token))


def _agrees(decoder: SlotDecoder, base: Base, adapter: str | None) -> bool:
    """Whether our forward pass gives the logits that the modules give, on a few tokens.

    A new version of a library may do something that we do not know of.
    """
    vocabulary = int(base.plain.get_input_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (12,), generator=generator).tolist()
    wanted = base.model(input_ids=torch.tensor([ids], device=base.device), use_cache=False)
    decoder.add([ids[:5]], [adapter])
    for token in ids[5:]:
        found = decoder.step([token])
    decoder.clear()
    last = wanted.logits[0, -1].float()
    error = float((found[0].float() - last).abs().max() / last.std().clamp(min=1e-6))
    return error < _AGREES.get(base.dtype, _AGREES_IN_HALF)


def _is_linear(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() == 2 and not isinstance(module, nn.Embedding)
