"""The graders of a recipe put together: one reward for each answer, and each grader's own score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunewright.aims import GraderSection
from tunewright.data.places import RowsByPlace
from tunewright.data.preferences import reward_rows
from tunewright.errors import ModelError, RecipeError
from tunewright.evaluate.api_graders import grade as grade_by_spec
from tunewright.evaluate.api_graders import read_grader
from tunewright.evaluate.graders import GRADERS, Grade
from tunewright.evaluate.judge import Judge, Write
from tunewright.evaluate.predict import Asker, Graded, rewards_of
from tunewright.records import Example, Message
from tunewright.remote_chat import ask, open_server
from tunewright.sections import is_url

NUMBER_TOKENS = 8
RESULT_TOKENS = 64


def make_graded(
    sections: Sequence[GraderSection], open_model: Callable[[str], Asker]
) -> Graded | None:
    """Every answer's scores by name, and their weighted mean as "reward"; None without graders.

    open_model: a run, folder or hub model, ready to be asked; each is opened at its first use.
    Raises RecipeError for what no grader can use.
    """
    if not sections:
        return None
    names = [how.name or how.type for how in sections]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise RecipeError(f"graders: two are called {twice!r}; give them a name each")
    graders = [_open(how, open_model) for how in sections]
    total = sum(how.weight for how in sections) or 1.0

    def grade(examples: Sequence[Example], answers: Sequence[str]) -> list[Mapping[str, float]]:
        columns = [grader(examples, answers) for grader in graders]
        rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
        for row in rows:
            shares = zip(sections, names, strict=True)
            row["reward"] = sum(how.weight * row[name] for how, name in shares) / total
        return [dict(row) for row in rows]

    return grade


def open_writer(name: str, served: str | None, api_key_env: str,
                open_model: Callable[[str], Asker], max_new_tokens: int) -> Write:  # fmt: skip
    """A model that answers prompts, local (loaded when first asked) or behind a URL."""
    if is_url(name):
        if not served:
            raise RecipeError(f"{name}: a server needs the model's name there")
        server = open_server(name, served, api_key_env)
        return lambda prompts: ask(
            server, [[Message("user", p)] for p in prompts], max_new_tokens=max_new_tokens
        )
    opened: list[Asker] = []

    def write(prompts: Sequence[str]) -> list[str]:
        if not opened:
            opened.append(replace(open_model(name), max_new_tokens=max_new_tokens))
            if opened[0].rendering.task not in ("generate", "chat"):
                raise ModelError(f"{name}: writes no text, and so cannot judge; name one that does")
        examples = [Example(str(n), "", p, "") for n, p in enumerate(prompts)]
        found = opened[0].predict(examples, system="judge", split="judge")
        return [str(p.prediction) for p in found]

    return write


def _open(how: GraderSection, open_model: Callable[[str], Asker]) -> Grade:
    if how.type == "model":
        write = open_writer(
            str(how.model), how.served_model, "OPENAI_API_KEY", open_model, NUMBER_TOKENS
        )
        return _judged(write, how.question)
    if how.type == "reward":
        return _rewarded(str(how.model), open_model)
    if how.type == "api":
        return _as_sent(how, open_model)
    return GRADERS[how.type](how)


def _judged(write: Write, question: str) -> Grade:
    judge = Judge(write)

    def grade(examples: Sequence[Example], answers: Sequence[str]) -> list[float]:
        return judge.grade([e.input for e in examples], answers, question)

    return grade


def _as_sent(how: GraderSection, open_model: Callable[[str], Asker]) -> Grade:
    """A grader of OpenAI's API; {{item.KEY}} leads to the example's row in its own file."""
    spec, rows = read_grader(how.grader), RowsByPlace()
    opened: dict[str, Asker] = {}

    def write(
        model: str, turns: Sequence[tuple[str, str]], params: Mapping[str, Any],
        schema: Mapping[str, Any],
    ) -> str:  # fmt: skip
        if model not in opened:
            opened[model] = replace(open_model(model), max_new_tokens=RESULT_TOKENS)
        said = [Message(_role(role), text) for role, text in turns]
        talk = (*said, Message("assistant", ""))
        example = Example("grader", "", said[-1].content, "", messages=talk)
        (found,) = opened[model].predict([example], system="grader", split="grader")
        return str(found.prediction)

    def grade(examples: Sequence[Example], answers: Sequence[str]) -> list[float]:
        return [
            grade_by_spec(spec, _item(rows, example), answer, write).reward
            for example, answer in zip(examples, answers, strict=True)
        ]

    return grade


def _role(role: str) -> Any:
    return "system" if role == "developer" else role


def _item(rows: RowsByPlace, example: Example) -> Mapping[str, Any]:
    """The row as it was sent; where that is not to be had, what the example holds of it."""
    found = rows.find(example.place)
    return {"input": example.input, "output": example.output} if found is None else found


def _rewarded(name: str, open_model: Callable[[str], Asker]) -> Grade:
    opened: list[Asker] = []

    def grade(examples: Sequence[Example], answers: Sequence[str]) -> list[float]:
        if not opened:
            opened.append(open_model(name))
        asker = opened[0]
        if asker.base.task != "reward":
            raise ModelError(f"{name}: no reward model; train one with objective: reward")
        rows = reward_rows(examples, answers, asker.rendering)
        return rewards_of(asker, rows, lambda share: None)

    return grade
