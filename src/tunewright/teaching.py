"""The teacher of objective distill: its answers to the rows, or itself for its distributions.

Answers are kept in the run folder, so that a resumed run asks for none of them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from tunewright.aims import DistillSection
from tunewright.asking import open_asker
from tunewright.config import Recipe
from tunewright.data.preferences import with_answer
from tunewright.data.prepare import Prepared
from tunewright.data.render import prompt_messages
from tunewright.errors import ModelError
from tunewright.evaluate.predict import Asker
from tunewright.journal import Journal
from tunewright.model.catalog import resolve_model
from tunewright.model.tokenizer import load_tokenizer
from tunewright.records import Example, Prediction
from tunewright.remote_chat import ask, open_server
from tunewright.sections import is_url
from tunewright.store import RunFolder, append_jsonl, read_jsonl

PART = 64
"""Rows whose answers are written down together."""


def learns_from_logits(recipe: Recipe) -> bool:
    """Whether the teacher's distributions are learned. Raises ModelError where that cannot be."""
    how = recipe.distill
    if recipe.objective != "distill" or how.learn == "answers" or is_url(how.teacher):
        return False
    teacher, student = (_vocabulary(name) for name in (str(how.teacher), recipe.base_model))
    alike = all(teacher.get(token) == number for token, number in student.items())
    if how.learn == "logits" and not alike:
        raise ModelError(
            f"distill.teacher: {how.teacher} has other tokens than {recipe.base_model}, so their "
            "distributions cannot be compared; use distill.learn: answers"
        )
    return alike


def with_teacher(
    recipe: Recipe, prepared: Prepared, folder: RunFolder, journal: Journal
) -> Prepared:
    """The rows with the teacher's answers: in all of training, elsewhere where one is missing.

    Where distributions are learned, a training row's own answer stays.
    """
    if recipe.objective != "distill":
        return prepared
    own = learns_from_logits(recipe)
    splits = prepared.splits
    wanted = [e for e in splits.train if not own or e.output is None]
    held = [e for e in (*splits.validation, *splits.test) if e.output is None]
    if held:
        journal.warn(
            f"data: {len(held)} validation and test rows have no answer of their own; they are "
            "judged against the teacher's"
        )
    answers = _answers(recipe.distill, [*wanted, *held], folder, journal)
    chosen = {e.id for e in wanted} | {e.id for e in held}

    def filled(rows: Sequence[Example]) -> tuple[Example, ...]:
        done = (_fill(e, answers[e.id]) if e.id in chosen else e for e in rows)
        return tuple(e for e in done if e.output)

    train, validation, test = (filled(getattr(splits, s)) for s in ("train", "validation", "test"))
    if not train:
        raise ModelError(f"distill.teacher: {recipe.distill.teacher} answered nothing to any row")
    how = "distributions" if own else "answers"
    journal.say(f"learning from the {how} of {recipe.distill.teacher}")
    return replace(
        prepared, splits=replace(splits, train=train, validation=validation, test=test), digest=None
    )


def ask_teacher(
    recipe: Recipe, test: Sequence[Example], folder: RunFolder, journal: Journal
) -> list[Prediction]:
    """What the teacher itself answers to test rows."""
    answers = _answers(recipe.distill, test, folder, journal)
    return [
        Prediction(e.id, "test", "teacher", e.input, e.output, answers[e.id], group=e.group,
                   references=e.references)
        for e in test
    ]  # fmt: skip


def load_teacher(recipe: Recipe) -> nn.Module:
    """The frozen model whose distributions are learned."""
    model: nn.Module = open_asker(str(recipe.distill.teacher)).base.model
    return model.eval().requires_grad_(False)


def _fill(example: Example, answer: str) -> Example:
    return replace(with_answer(example, answer), output=answer or None)


def _answers(
    how: DistillSection, rows: Sequence[Example], folder: RunFolder, journal: Journal
) -> dict[str, str]:
    """The teacher's answer by row id; those of an earlier start are read, not asked for."""
    lines = read_jsonl(folder.teacher) if folder.teacher.exists() else []
    known = {str(line["id"]): str(line["answer"]) for line in lines}
    missing = [row for row in rows if row.id not in known]
    if not missing:
        return known
    write = _remote(how) if is_url(how.teacher) else _local(how)
    with journal.progress(f"asking the teacher {len(missing):,} rows", len(missing)) as advance:
        for start in range(0, len(missing), PART):
            part = missing[start : start + PART]
            said = dict(zip((row.id for row in part), write(part), strict=True))
            append_jsonl(folder.teacher, [{"id": i, "answer": a} for i, a in said.items()])
            known.update(said)
            advance(start + len(part), "")
    return known


def _remote(how: DistillSection) -> Any:
    server = open_server(str(how.teacher), str(how.model), how.api_key_env)

    def write(rows: Sequence[Example]) -> list[str]:
        talks = [prompt_messages(row) for row in rows]
        return [a.strip() for a in ask(server, talks, max_new_tokens=how.max_new_tokens)]

    return write


def _local(how: DistillSection) -> Any:
    asker = replace(open_asker(str(how.teacher)), max_new_tokens=how.max_new_tokens)
    if asker.rendering.task not in ("generate", "chat"):
        raise ModelError(
            f"distill.teacher: {how.teacher} is a model of task {asker.rendering.task}; a teacher "
            "must write text"
        )
    return partial(_write, asker)


def _write(asker: Asker, rows: Sequence[Example]) -> list[str]:
    asked = [replace(row, output="") for row in rows]
    answers = asker.predict(asked, system="teacher", split="train")
    return [str(answer.prediction) for answer in answers]


def _vocabulary(reference: str) -> dict[str, int]:
    path = Path(reference)
    place = RunFolder(path).model if (path / "model").is_dir() else path
    source = resolve_model(str(place) if path.exists() else reference)
    tokenizer, _ = load_tokenizer(source, "decoder", False)
    return dict(tokenizer.get_vocab())
