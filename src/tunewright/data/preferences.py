"""Answers that are compared: pairs of a better and a worse one, or single ones liked or not.

Of a conversation only the last turn of the assistant is compared; what comes before is the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tunewright.data.render import Rendering, Row, render
from tunewright.errors import DataError
from tunewright.records import Example, Message


def render_training(examples: Sequence[Example], how: Rendering) -> list[Row]:
    """Rows to learn from, whatever the objective wants them to look like."""
    return render(examples, how) if how.prefers is None else render_preferences(examples, how)


def render_preferences(examples: Sequence[Example], how: Rendering) -> list[Row]:
    """Rows of two answers each (how.prefers "pairs"), or of one and a mismatched one ("single").

    The mismatched answer is that of the row before: what the model thinks of it says how far it
    has moved in general (KTO). Raises DataError for rows that cannot be compared.
    """
    plain = replace(how, prefers=None)
    if how.prefers == "single":
        return _render_singles(examples, plain)
    for example in examples:
        if example.output is None or example.rejected is None:
            raise DataError(
                f"{example.place}: no better and worse answer to compare; give chosen and "
                "rejected, or use objective: kto, which takes single answers"
            )
    if how.rewards is not None:
        return _render_rewards(examples, plain)
    better = render([with_answer(e, str(e.output)) for e in examples], plain)
    if how.prompt_loss:
        better = [_with_prompt(row) for row in better]
    worse = render([with_answer(e, str(e.rejected)) for e in examples], plain)
    return [
        replace(a, other=replace(b, weight=1.0), lost_targets=a.lost_targets + b.lost_targets)
        for a, b in zip(better, worse, strict=True)
    ]


def _render_rewards(examples: Sequence[Example], how: Rendering) -> list[Row]:
    """Rows of two answers, each whole with its prompt, to be given a number."""
    better, worse = (
        _answered(examples, [str(getattr(e, side)) for e in examples], how)
        for side in ("output", "rejected")
    )
    return [
        Row(e.id, a, target=0, weight=e.weight, other=Row(f"{e.id}-worse", b, target=0))
        for e, a, b in zip(examples, better, worse, strict=True)
    ]


def reward_rows(examples: Sequence[Example], answers: Sequence[str], how: Rendering) -> list[Row]:
    """One row for each answer, as a reward model reads it with its prompt."""
    encoded = _answered(examples, answers, replace(how, prefers=None))
    return [Row(e.id, ids, target=0) for e, ids in zip(examples, encoded, strict=True)]


def _answered(
    examples: Sequence[Example], answers: Sequence[str], how: Rendering
) -> list[NDArray[np.int32]]:
    if how.rewards == "texts":
        said = [with_answer(e, a) for e, a in zip(examples, answers, strict=True)]
        return [row.input_ids for row in render(said, how)]
    prompts = [e.input for e in examples]
    encoded = how.tokenizer(prompts, list(answers), truncation=True, max_length=how.max_length)
    return [np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"]]


def _with_prompt(row: Row) -> Row:
    if row.target_weights is None or row.is_seq2seq:
        return row
    half = np.where(row.target_weights > 0, row.target_weights, np.float32(0.5))
    return replace(row, target_weights=half.astype(np.float32))


def _render_singles(examples: Sequence[Example], plain: Rendering) -> list[Row]:
    judged: list[tuple[Example, str, bool]] = []
    for example in examples:
        if example.output is not None:
            judged.append((example, str(example.output), True))
        if example.rejected is not None:
            other = replace(example, id=f"{example.id}-worse")
            judged.append((other, example.rejected, False))
    if len(judged) < 2:
        raise DataError("kto: one answer alone cannot be compared with any other; give more rows")
    answers = [answer for _, answer, _ in judged]
    own = render([with_answer(e, a) for e, a, _ in judged], plain)
    mismatched = [with_answer(e, answers[number - 1]) for number, (e, _, _) in enumerate(judged)]
    return [
        replace(row, other=replace(partner, weight=1.0), liked=liked)
        for row, partner, (_, _, liked) in zip(own, render(mismatched, plain), judged, strict=True)
    ]


def with_answer(example: Example, answer: str) -> Example:
    """The example with another last answer; earlier turns of the assistant carry no loss."""
    turns = example.messages
    if turns:
        before = turns[:-1] if turns[-1].role == "assistant" else turns
        quiet = [replace(t, weight=0.0) if t.role == "assistant" else t for t in before]
        last = turns[-1] if turns[-1].role == "assistant" else None
        said = (
            replace(last, content=answer, weight=None, tool_calls=())
            if last is not None
            else _spoken(answer)
        )
        turns = (*quiet, said)
    return replace(example, output=answer, messages=turns, rejected=None, references=())


def _spoken(answer: str) -> Message:
    return Message("assistant", answer)
