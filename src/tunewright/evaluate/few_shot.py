"""The untuned base with training examples put before the prompt: the same ones before every prompt,
or those that are nearest to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunewright.data.batch import random_stream
from tunewright.data.render import PROMPT_END, render_prompts
from tunewright.evaluate.material import Material, NotPossible, need_asker, need_task
from tunewright.evaluate.nearest import nearest_rows
from tunewright.evaluate.predict import Asker
from tunewright.model.load import longest_input
from tunewright.records import Example, Message, Prediction

MAX_WINDOW_TOKENS = 2048
"""Prompts are not made longer than this, even where the base could read more."""
BLOCK_END = "\n\n"
"""Stands between examples in a plain prompt; what the base writes after it is not its answer."""
_MOST_CANDIDATES = 50


def few_shot(material: Material) -> list[Prediction]:
    """The base's answers with the same few training examples before every prompt.

    The examples are a seeded draw; a row whose prompt leaves too little room gets fewer. A chat
    model reads them as earlier turns, any other as blocks of prompt and completion.
    Raises NotPossible where none fits.
    """
    need_task(material, "generate", "chat")
    asker = _with_whole_window(need_asker(material))
    shots = choose_shots(material, asker)
    return _ask(material, asker, [shots] * len(material.test), "few_shot")


def retrieved(material: Material) -> list[Prediction]:
    """The base's answers with those training examples before a prompt that resemble it most.

    Found by character n-grams; the nearest stands last, and goes last where room is short.
    Raises NotPossible where none fits.
    """
    need_task(material, "generate", "chat")
    if material.num_few_shot == 0:
        raise NotPossible("evaluation.num_few_shot is 0, so no example is retrieved")
    asker = _with_whole_window(need_asker(material))
    near = nearest_rows(material.train, material.test, material.num_few_shot, material.seed)
    return _ask(material, asker, near, "retrieved", best_last=True)


def _ask(
    material: Material,
    asker: Asker,
    shots: Sequence[Sequence[Example]],
    system: str,
    *,
    best_last: bool = False,
) -> list[Prediction]:
    """Answers with shots of its own before each test row."""
    asked = fit_shots(material.test, shots, asker, best_last=best_last)
    predictions = asker.predict(
        asked, system=system, split=material.split, advance=material.advance
    )
    plain = not _in_turns(asker)
    cut = plain and not any(BLOCK_END in str(shot.output) for part in shots for shot in part)
    return [
        replace(
            row,
            input=example.input,
            prediction=_first_block(row.prediction) if cut else row.prediction,
        )
        for row, example in zip(predictions, material.test, strict=True)
    ]


def choose_shots(material: Material, asker: Asker) -> list[Example]:
    """Training examples for the prompt: different inputs, none beyond its share of the window."""
    if material.num_few_shot == 0:
        raise NotPossible("evaluation.num_few_shot is 0, which is the base as it comes")
    rows = sorted(material.train, key=lambda row: row.id)
    order = random_stream(material.seed, "few_shot").permutation(len(rows))
    room = asker.rendering.max_length // (material.num_few_shot + 1)
    chosen: list[Example] = []
    for number in order[:_MOST_CANDIDATES]:
        row = rows[number]
        known = row.input in {shot.input for shot in chosen}
        if not known and _num_tokens([row], asker) + _num_answer_tokens(row, asker) <= room:
            chosen.append(row)
        if len(chosen) == material.num_few_shot:
            break
    if not chosen:
        raise NotPossible(f"no training example fits into its share of {room} tokens")
    return chosen


def fit_shots(
    examples: Sequence[Example],
    shots: Sequence[Sequence[Example]],
    asker: Asker,
    *,
    best_last: bool = False,
) -> list[Example]:
    """Every example with as many of its own shots before it as leave room for an answer, the first
    ones of each list. best_last: they are put in backwards.
    """
    way = -1 if best_last else 1
    room = asker.rendering.max_length - asker.max_new_tokens
    out = list(examples)
    waiting = list(range(len(out)))
    for count in range(max(map(len, shots), default=0), 0, -1):
        trial = [with_shots(examples[i], shots[i][:count][::way], asker) for i in waiting]
        sizes = _prompt_sizes(trial, asker)
        for number, example, size in zip(waiting, trial, sizes, strict=True):
            if size <= room:
                out[number] = example
        waiting = [i for i, size in zip(waiting, sizes, strict=True) if size > room]
    if len(waiting) == len(out):
        raise NotPossible(f"no prompt leaves room for an example within {room} tokens")
    return out


def with_shots(example: Example, shots: Sequence[Example], asker: Asker) -> Example:
    """The example with the shots before it: as earlier turns, or as blocks of text."""
    if not _in_turns(asker):
        blocks = [f"{shot.input}{PROMPT_END}{shot.output}{BLOCK_END}" for shot in shots]
        return replace(example, input="".join(blocks) + example.input)
    own = example.messages or _two_turns(example)
    opening = tuple(turn for turn in own[:1] if turn.role == "system")
    earlier = [
        # Weight 0: the loss of the reference counts the asked answer only.
        replace(turn, weight=0.0) if turn.role == "assistant" else turn
        for shot in shots
        for turn in shot.messages or _two_turns(shot)
        if turn.role != "system"
    ]
    return replace(example, messages=(*opening, *earlier, *own[len(opening) :]))


def _with_whole_window(asker: Asker) -> Asker:
    """Training rows may be short; a prompt with examples may use all that the base can read."""
    limit = min(longest_input(asker.base) or MAX_WINDOW_TOKENS, MAX_WINDOW_TOKENS)
    length = max(limit, asker.rendering.max_length)
    return replace(asker, rendering=replace(asker.rendering, max_length=length))


def _in_turns(asker: Asker) -> bool:
    how = asker.rendering
    return not how.seq2seq and (how.task == "chat" or how.native_template)


def _two_turns(example: Example) -> tuple[Message, ...]:
    return (Message("user", example.input), Message("assistant", str(example.output)))


def _first_block(text: object) -> str:
    return str(text).split(BLOCK_END)[0].strip()


def _num_tokens(rows: Sequence[Example], asker: Asker) -> int:
    return sum(_prompt_sizes(rows, asker))


def _num_answer_tokens(row: Example, asker: Asker) -> int:
    return len(asker.rendering.tokenizer(str(row.output), add_special_tokens=False)["input_ids"])


def _prompt_sizes(rows: Sequence[Example], asker: Asker) -> list[int]:
    """Tokens of each prompt, nothing cut."""
    how = replace(asker.rendering, max_length=1 << 30)
    return [int(ids.size) for ids in render_prompts(rows, how)]
