"""Examples to tokens: which ids go in, which of them carry loss. No tensors here.

A chat template comes from the tokenizer; the loss covers the assistant's turns, each up to and
including the token that ends it, so that the tuned model learns to stop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunewright.errors import DataError
from tunewright.records import Example, Message, Span

Tokenizer = Any
"""A transformers tokenizer; handed in, so that this shelf needs no model code."""

ENCODED_TEXTS = 1000
"""Texts that go to the tokenizer at a time: enough for its threads, little in memory."""
PROMPT_END = "\n"
"""Stands between prompt and completion where the tokenizer has no chat template of its own."""


@dataclass(frozen=True, slots=True)
class Row:
    """One example in tokens.

    input_ids: (T,) int32. For encoder-decoder models the encoder's input.
    target_weights: (T,) float32; weight of *predicting* token t from those before it; None where
        the target is not text.
    target: class index (int), number (float), multi-hot (K,) float32, tag per token (T,) int32 with
        -100 on tokens that carry none, or decoder ids (D,) int32 for encoder-decoder models.
    lost_targets: tokens of the target that did not fit.
    """

    id: str
    input_ids: NDArray[np.int32]
    target_weights: NDArray[np.float32] | None = None
    target: int | float | NDArray[np.float32] | NDArray[np.int32] | None = None
    weight: float = 1.0
    lost_targets: int = 0
    other: Row | None = None
    """Of a preference: the worse answer; of a single liked or disliked one: a mismatched answer.
    Of a pair of texts: the one that belongs, whose own `other` is one that does not."""
    liked: bool | None = None
    """Of a single answer that was judged by itself."""
    advantage: float | None = None
    """Of an answer that the model itself tried: how much better it was than its group."""
    before: NDArray[np.float32] | None = None
    """(N,) log-probability of every target token when the answer was written."""
    start: NDArray[np.float32] | None = None
    """(N,) and before training."""
    reference: tuple[float, ...] = ()
    """Log-probability of the answer, then of the other one, before tuning."""

    @property
    def num_tokens(self) -> int:
        """Tokens that go through the model, the decoder's included."""
        extra = self.target.size if isinstance(self.target, np.ndarray) and self.is_seq2seq else 0
        extra += 0 if self.other is None else self.other.num_tokens
        return int(self.input_ids.size + extra)

    @property
    def is_seq2seq(self) -> bool:
        """True when target holds decoder ids."""
        return (
            isinstance(self.target, np.ndarray)
            and self.target.dtype == np.int32
            and self.target_weights is not None
        )

    @property
    def target_weight(self) -> float:
        """What this row adds to the denominator of the loss."""
        if self.other is not None or self.liked is not None:
            return self.weight
        if self.target_weights is not None:
            # Nothing predicts the first token of a decoder's row.
            learned = self.target_weights if self.is_seq2seq else self.target_weights[1:]
            return float(learned.sum()) * self.weight
        if isinstance(self.target, np.ndarray) and self.target.dtype == np.int32:
            return float((self.target != -100).sum()) * self.weight
        return self.weight


@dataclass(frozen=True, slots=True)
class Rendering:
    """How examples of one run become tokens.

    labels: class or entity names in index order. seq2seq: the model has an encoder of its own.
    native_template: the tokenizer brought its own chat template.
    """

    task: str
    tokenizer: Tokenizer
    max_length: int
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    seq2seq: bool = False
    native_template: bool = False
    column_edges: tuple[tuple[str, tuple[float, ...]], ...] = ()
    prefers: Literal["pairs", "single"] | None = None
    """Answers are compared (preferences.py): in pairs, or each judged by itself."""
    prompts: tuple[str, str] = ("", "")
    """Put before inputs, and before texts that are to be found (embed)."""
    rewards: Literal["texts", "pairs"] | None = None
    """Answers that are compared get a number each (reward): as one text, or as the second of two
    texts, for bases that read two."""
    prompt_loss: bool = False
    """Of answers that are compared: the better one's prompt carries loss too, marked by half (ORPO
    learns the whole text, and compares the answers)."""


def render(examples: Sequence[Example], how: Rendering) -> list[Row]:
    """Tokens for every example, in order. Raises DataError for one that cannot be rendered."""
    return RENDERERS[how.task](examples, how)


def render_prompts(examples: Sequence[Example], how: Rendering) -> list[NDArray[np.int32]]:
    """Token ids up to where the answer begins, for generation; cut from the left to max_length."""
    limit = how.max_length
    if how.seq2seq:
        sources = _encode(how.tokenizer, [e.input for e in examples], special=True, literal=True)
        return [ids[:limit] for ids in sources]
    if not _uses_template(examples, how):
        return [ids[-limit:] for ids in _prompt_ids(examples, how)]
    prompts = [_template(how, prompt_messages(e), e, generation=True) for e in examples]
    return [ids[-limit:] for ids in _encode(how.tokenizer, prompts, special=False)]


def prompt_messages(example: Example) -> tuple[Message, ...]:
    """The conversation up to, not including, the answer that is asked for."""
    if not example.messages:
        return (Message("user", example.input),)
    last = max(
        (i for i, turn in enumerate(example.messages) if turn.role == "assistant"),
        default=len(example.messages),
    )
    return example.messages[:last]


def input_text(example: Example, how: Rendering) -> str:
    """The text a classifier reads: side columns first, each as `name: value`, then the text.

    Numbers come with the fifth of the training values they fall in, because a language model
    reads "very high" more easily than 4812.5.
    """
    if not example.columns:
        return example.input
    edges = dict(how.column_edges)
    parts = []
    for name, value in example.columns:
        if value is None:
            parts.append(f"{name}: missing")
        elif isinstance(value, float):
            parts.append(f"{name}: {value:.6g}{_fifth(value, edges.get(name))}")
        else:
            parts.append(f"{name}: {value}")
    return " ; ".join(parts) + " | " + example.input


def find_column_edges(examples: Sequence[Example]) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """Borders between the fifths of each numeric side column, from the training examples."""
    values: dict[str, list[float]] = {}
    for example in examples:
        for name, value in example.columns:
            if isinstance(value, float):
                values.setdefault(name, []).append(value)
    return tuple(
        (name, tuple(float(q) for q in np.quantile(column, (0.2, 0.4, 0.6, 0.8))))
        for name, column in sorted(values.items())
    )


def target_tokens_lost(rows: Sequence[Row]) -> int:
    """Tokens of targets that were cut by max_length, over all rows."""
    return sum(row.lost_targets for row in rows)


def _fifth(value: float, edges: tuple[float, ...] | None) -> str:
    if not edges or edges[0] == edges[-1]:
        return ""
    words = ("very low", "low", "middle", "high", "very high")
    return f" ({words[sum(value > edge for edge in edges)]})"


def _render_classes(examples: Sequence[Example], how: Rendering) -> list[Row]:
    index = {label: i for i, label in enumerate(how.labels)}
    ids = encode_texts([input_text(e, how) for e in examples], how)
    rows = []
    for example, tokens in zip(examples, ids, strict=True):
        target: int | NDArray[np.float32]
        if how.multi_label:
            target = np.zeros(len(how.labels), dtype=np.float32)
            wanted = example.output if isinstance(example.output, tuple) else (example.output,)
            for label in wanted:
                if label in index:
                    target[index[str(label)]] = 1.0
        else:
            # A label that training never saw cannot be learned or scored by index; -100 ignores it.
            target = index.get(str(example.output), -100)
        rows.append(Row(example.id, tokens, target=target, weight=example.weight))
    return rows


def _render_numbers(examples: Sequence[Example], how: Rendering) -> list[Row]:
    ids = encode_texts([input_text(e, how) for e in examples], how)
    return [
        Row(e.id, tokens, target=float(e.output), weight=e.weight)  # type: ignore[arg-type]
        for e, tokens in zip(examples, ids, strict=True)
    ]


def _render_tags(examples: Sequence[Example], how: Rendering) -> list[Row]:
    index = {name: i for i, name in enumerate(tag_names(how.labels))}
    encoded = how.tokenizer(
        [e.input for e in examples],
        truncation=True,
        max_length=how.max_length,
        return_offsets_mapping=True,
    )
    rows = []
    for number, example in enumerate(examples):
        offsets = encoded["offset_mapping"][number]
        # An entity that training never saw has no tag; it is judged by its span, as missed.
        spans = [s for s in example.output or () if isinstance(s, Span) and s.label in how.labels]  # type: ignore[union-attr]
        tags, lost = _tag_tokens(offsets, spans, index)
        ids = np.asarray(encoded["input_ids"][number], dtype=np.int32)
        rows.append(Row(example.id, ids, target=tags, weight=example.weight, lost_targets=lost))
    return rows


def tag_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Token tags in index order: O, then B- and I- of every entity label."""
    return ("O", *(f"{part}-{label}" for label in labels for part in ("B", "I")))


def _tag_tokens(
    offsets: Sequence[tuple[int, int]], spans: Sequence[Span], index: dict[str, int]
) -> tuple[NDArray[np.int32], int]:
    tags = np.full(len(offsets), index["O"], dtype=np.int32)
    for position, (start, end) in enumerate(offsets):
        if start == end:  # special tokens carry no tag
            tags[position] = -100
    lost = 0
    for span in spans:
        inside = [
            position
            for position, (start, end) in enumerate(offsets)
            if start != end and start < span.end and end > span.start
        ]
        lost += not inside
        for order, position in enumerate(inside):
            tags[position] = index[f"{'B' if order == 0 else 'I'}-{span.label}"]
    return tags, lost


def _render_generation(examples: Sequence[Example], how: Rendering) -> list[Row]:
    if how.seq2seq:
        return _seq2seq_rows(examples, how)
    if _uses_template(examples, how):
        return _template_rows(examples, how)
    return _plain_rows(examples, how)


def _uses_template(examples: Sequence[Example], how: Rendering) -> bool:
    """Plain prompt and completion stay plain unless the base was made for chat."""
    return how.task == "chat" or how.native_template


def _plain_rows(examples: Sequence[Example], how: Rendering) -> list[Row]:
    prompts, answers = _prompt_ids(examples, how), _answer_ids(examples, how)
    rows = []
    for example, prompt, answer in zip(examples, prompts, answers, strict=True):
        weights = np.zeros(prompt.size + answer.size, dtype=np.float32)
        weights[prompt.size :] = 1.0
        row = Row(example.id, np.concatenate([prompt, answer]), weights, weight=example.weight)
        rows.append(_cut(row, how.max_length))
    return rows


def _answer_ids(examples: Sequence[Example], how: Rendering) -> list[NDArray[np.int32]]:
    """The completions and the token that ends them."""
    eos = how.tokenizer.eos_token_id
    texts = [str(example.output) for example in examples]
    answers = _encode(how.tokenizer, texts, special=False, literal=True)
    return answers if eos is None else [np.append(ids, np.int32(eos)) for ids in answers]


def _prompt_ids(examples: Sequence[Example], how: Rendering) -> list[NDArray[np.int32]]:
    tokenizer, eos = how.tokenizer, how.tokenizer.eos_token_id
    texts = [example.input + PROMPT_END for example in examples]
    prompts = _encode(tokenizer, texts, special=True, literal=True)
    bare = _encode(tokenizer, [PROMPT_END], special=False)[0]
    mark = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else eos
    blurred = []
    for place, ids in enumerate(prompts):
        if ids.size and eos is not None and ids[-1] == eos:  # some tokenizers close every text
            prompts[place] = ids = ids[:-1]
        if bare.size == 0 or bare[-1] != ids[-1]:
            blurred.append(place)
    if blurred and mark is not None:
        # The separator is unknown to this tokenizer or merged away: mark the border with the bos
        # or eos token instead, so that the model can tell prompt from completion.
        inputs = [examples[place].input for place in blurred]
        for place, ids in zip(
            blurred, _encode(tokenizer, inputs, special=True, literal=True), strict=True
        ):
            prompts[place] = np.append(ids, np.int32(mark))
    return prompts


def _template_rows(examples: Sequence[Example], how: Rendering) -> list[Row]:
    talks = [
        example.messages
        or (Message("user", example.input), Message("assistant", str(example.output)))
        for example in examples
    ]
    spoken = [_assistant_spans(e, turns, how) for e, turns in zip(examples, talks, strict=True)]
    rows = []
    for start in range(0, len(examples), ENCODED_TEXTS):
        texts = [text for text, _ in spoken[start : start + ENCODED_TEXTS]]
        encoded = how.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        for place, (ids, offsets) in enumerate(
            zip(encoded["input_ids"], encoded["offset_mapping"], strict=True), start
        ):
            turns, spans = talks[place], spoken[place][1]
            rows.append(_template_row(examples[place], turns, spans, ids, offsets, how))
    return rows


def _template_row(
    example: Example,
    turns: Sequence[Message],
    spans: Sequence[tuple[int, int, float]],
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    how: Rendering,
) -> Row:
    weights = np.zeros(len(ids), dtype=np.float32)
    if spans:
        place_T2 = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
        for first, last, weight in spans:
            inside = (place_T2[:, 1] > place_T2[:, 0]) & (place_T2[:, 0] >= first)
            weights[inside & (place_T2[:, 0] < last)] = weight
    end_weight = spans[-1][2] if spans else 0.0
    whole, weights = _with_end(list(ids), weights, end_weight, turns, how)
    row = Row(example.id, np.asarray(whole, np.int32), weights, weight=example.weight)
    return _cut(row, how.max_length)


def _with_end(
    ids: list[int],
    weights: NDArray[np.float32],
    weight: float,
    turns: Sequence[Message],
    how: Rendering,
) -> tuple[list[int], NDArray[np.float32]]:
    """Append the end token where the template closes an assistant's last turn without one."""
    eos = how.tokenizer.eos_token_id
    if turns[-1].role != "assistant" or eos is None:
        return ids, weights
    special = set(how.tokenizer.all_special_ids)
    if any(weights[i] > 0 and ids[i] in special for i in range(len(ids))) or weight == 0:
        return ids, weights
    return [*ids, eos], np.append(weights, np.float32(weight))


def _assistant_spans(
    example: Example, turns: Sequence[Message], how: Rendering
) -> tuple[str, list[tuple[int, int, float]]]:
    """The rendered conversation and the character spans (start, end, weight) the assistant speaks.

    Found by rendering prefixes of the conversation: works for every template that renders a
    prefix of the turns to a prefix of the text. Trailing whitespace after the end token is left
    out of the loss, because generation stops before it.
    """
    text = _template(how, turns, example, generation=False)
    spans = []
    for number, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        before = _template(how, turns[:number], example, generation=True)
        after = _template(how, turns[: number + 1], example, generation=False)
        start = _common_prefix(before, text)
        end = _common_prefix(after, text)
        if end <= start or turn.content.strip() not in text[start:end]:
            # Some templates write a turn otherwise when it is the last one (Qwen 3: its thoughts).
            start, end = _find_turn(turns, number, example, how, text) or (start, end)
        if end <= start:
            raise DataError(
                f"{example.place}: the chat template changes earlier turns, so turn {number + 1} "
                "cannot be located; give data.chat_template"
            )
        spoken = text[start:end].rstrip()
        weight = 1.0 if turn.weight is None else float(turn.weight)
        spans.append((start, start + len(spoken), weight))
    return text, spans


def _find_turn(
    turns: Sequence[Message], number: int, example: Example, how: Rendering, text: str
) -> tuple[int, int] | None:
    """Where one turn's content and its end token stand in the whole conversation's text."""
    mark = "\ue000turn\ue001"
    marked_turn = replace(turns[number], content=mark)
    changed = (*turns[:number], marked_turn, *turns[number + 1 :])
    before, found, tail = _template(how, changed, example, generation=False).partition(mark)
    end = len(text) - len(tail)
    if not found or not text.startswith(before) or not text.endswith(tail) or end < len(before):
        return None
    ends = [token for token in how.tokenizer.all_special_tokens if tail.startswith(token)]
    return len(before), end + max(map(len, ends), default=0)


def _common_prefix(a: str, b: str) -> int:
    if b.startswith(a):
        return len(a)
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _template(
    how: Rendering, turns: Sequence[Message], example: Example, *, generation: bool
) -> str:
    plain = [_message_dict(turn) for turn in turns]
    if not plain:  # a conversation that opens with the assistant
        return ""
    try:
        text = how.tokenizer.apply_chat_template(
            plain,
            tools=[dict(tool) for tool in example.tools] or None,
            tokenize=False,
            add_generation_prompt=generation,
        )
    except Exception as error:  # a template may raise anything; it is the model's code
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise DataError(
            f"{example.place}: the chat template refuses this conversation ({reason}); "
            "check the order of roles, or data.chat_template if you gave one"
        ) from error
    return str(text)


def _message_dict(turn: Message) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        plain["tool_calls"] = [_call_dict(call) for call in turn.tool_calls]
    for key in ("name", "tool_call_id"):
        if getattr(turn, key):
            plain[key] = getattr(turn, key)
    return plain


def _call_dict(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call with its arguments as values: templates write them as JSON themselves, and would put
    quotes around those that are JSON text already, as OpenAI's API sends them."""
    function = call.get("function")
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(arguments, str):
        return dict(call)
    try:
        read = json.loads(arguments)
    except (ValueError, RecursionError):
        return dict(call)
    return {**call, "function": {**function, "arguments": read}}


def _seq2seq_rows(examples: Sequence[Example], how: Rendering) -> list[Row]:
    sources = _encode(how.tokenizer, [e.input for e in examples], special=True, literal=True)
    rows = []
    for example, ids, answer in zip(examples, sources, _answer_ids(examples, how), strict=True):
        kept = answer[: how.max_length]
        rows.append(
            Row(
                example.id,
                ids[: how.max_length],
                np.ones(kept.size, dtype=np.float32),
                kept,
                weight=example.weight,
                lost_targets=max(0, answer.size - how.max_length),
            )
        )
    return rows


def _render_text(examples: Sequence[Example], how: Rendering) -> list[Row]:
    """Continued pre-training: every token is learned; long texts become several rows."""
    rows = []
    eos, bos = how.tokenizer.eos_token_id, how.tokenizer.bos_token_id
    texts = _encode(how.tokenizer, [e.input for e in examples], special=False, literal=True)
    for example, ids in zip(examples, texts, strict=True):
        ids = np.append(ids, np.int32(eos)) if eos is not None else ids
        size = how.max_length - (bos is not None)
        for part, start in enumerate(range(0, ids.size, size)):
            piece = ids[start : start + size]
            piece = np.insert(piece, 0, np.int32(bos)) if bos is not None else piece
            weights = np.ones(piece.size, dtype=np.float32)
            weights[0] = 0.0  # nothing stands before it
            name = example.id if part == 0 else f"{example.id}/{part + 1}"
            rows.append(Row(name, piece.astype(np.int32), weights, weight=example.weight))
    return rows


def _render_pairs(examples: Sequence[Example], how: Rendering) -> list[Row]:
    """Texts that belong together, and one that does not where there is one."""
    asked, found = how.prompts
    anchors = encode_texts([asked + e.input for e in examples], how)
    texts = encode_texts([found + str(e.output) for e in examples], how)
    wrong = [e for e in examples if e.rejected]
    others = dict(
        zip(
            (e.id for e in wrong),
            encode_texts([f"{found}{e.rejected}" for e in wrong], how),
            strict=True,
        )
    )
    rows = []
    for example, anchor, text in zip(examples, anchors, texts, strict=True):
        other = others.get(example.id)
        last = None if other is None else Row(f"{example.id}-not", other, target=0)
        pair = Row(f"{example.id}-found", text, target=0, other=last)
        rows.append(Row(example.id, anchor, target=0, weight=example.weight, other=pair))
    return rows


def _cut(row: Row, max_length: int) -> Row:
    """Shorten to max_length: the prompt loses its beginning first, then the answer its end."""
    surplus = row.input_ids.size - max_length
    if surplus <= 0 or row.target_weights is None:
        return row
    targets = np.flatnonzero(row.target_weights)
    first = int(targets[0]) if targets.size else row.input_ids.size - 1
    # Keep a few tokens of prompt even when the answer alone fills the row.
    from_left = max(0, min(surplus, first - min(first, max_length // 8)))
    ids, weights = row.input_ids[from_left:], row.target_weights[from_left:]
    lost = int((weights[max_length:] > 0).sum())
    lost += int((row.target_weights[:from_left] > 0).sum())
    return replace(
        row, input_ids=ids[:max_length], target_weights=weights[:max_length], lost_targets=lost
    )


def _encode(
    tokenizer: Tokenizer, texts: Sequence[str], *, special: bool, literal: bool = False
) -> list[NDArray[np.int32]]:
    """literal: names of special tokens that stand in the user's own text are ordinary text."""
    extra = {"split_special_tokens": True} if literal else {}
    out: list[NDArray[np.int32]] = []
    for start in range(0, len(texts), ENCODED_TEXTS):
        part = list(texts[start : start + ENCODED_TEXTS])
        encoded = tokenizer(part, add_special_tokens=special, **extra)["input_ids"]
        out += [np.asarray(ids, dtype=np.int32) for ids in encoded]
    return out


def encode_texts(texts: Sequence[str], how: Rendering) -> list[NDArray[np.int32]]:
    """Token ids of plain texts for a model with a head, cut to max_length.

    A "</s>" in a user's text would end the row early for models that read their last or end token;
    encoders with a mask token keep the names of theirs, because people join fields with "[SEP]".
    """
    if not texts:
        return []
    literal = how.tokenizer.mask_token_id is None
    extra = {"split_special_tokens": True} if literal else {}
    encoded = how.tokenizer(list(texts), truncation=True, max_length=how.max_length, **extra)
    return [np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"]]


RENDERERS: dict[str, Callable[[Sequence[Example], Rendering], list[Row]]] = {
    "classify": _render_classes,
    "regress": _render_numbers,
    "tag": _render_tags,
    "generate": _render_generation,
    "chat": _render_generation,
    "continue": _render_text,
    "embed": _render_pairs,
}
