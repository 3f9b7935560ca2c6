"""A judge's view of written answers beside the references, and how far it agrees with people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from tunewright.aims import JudgeSection
from tunewright.asking import open_asker
from tunewright.config import Recipe
from tunewright.data.preferences import reward_rows
from tunewright.data.prepare import prepare
from tunewright.errors import DataError, RecipeError
from tunewright.evaluate.judge import Agreement, Judge, agreement
from tunewright.evaluate.predict import Asker, rewards_of
from tunewright.grading import open_writer
from tunewright.journal import Journal
from tunewright.metrics.table import find_metric
from tunewright.records import Example, Prediction
from tunewright.sections import DataSection, is_url

METRIC = "judge"
LETTER_TOKENS = 8
Compare = Callable[[Sequence[Example], Sequence[str], Sequence[str]], list[str]]
"""Examples, first and second answers to winners: first, second or tie."""


def check_judge(recipe: Recipe) -> None:
    """Raise RecipeError where a judge is asked for and none is named."""
    if recipe.evaluation.metrics == "auto" or METRIC not in recipe.evaluation.metrics:
        return
    if recipe.evaluation.judge.model is None:
        raise RecipeError(
            "evaluation.metrics: judge needs evaluation.judge.model: a run, folder, hub model or "
            "server URL, or a reward model's run"
        )
    find_metric(METRIC)


def with_judge(
    recipe: Recipe, predictions: Mapping[str, list[Prediction]], journal: Journal
) -> dict[str, list[Prediction]]:
    """The predictions of every system with the judge's score beside: 1 where it prefers the answer
    to the reference, .5 for a tie."""
    metrics = recipe.evaluation.metrics
    if metrics == "auto" or METRIC not in metrics:
        return dict(predictions)
    compare = open_judge(recipe.evaluation.judge)
    done = {}
    with journal.progress("asking the judge", len(predictions)) as advance:
        for number, (system, rows) in enumerate(predictions.items(), 1):
            asked = [Example(p.id, p.id, p.input, str(p.reference)) for p in rows]
            answers = [str(p.prediction) for p in rows]
            winners = compare(asked, answers, [str(p.reference) for p in rows]) if rows else []
            done[system] = [
                replace(p, graded={**p.graded, METRIC: SCORES[winner]})
                for p, winner in zip(rows, winners, strict=True)
            ]
            advance(number, system)
    return done


def open_judge(how: JudgeSection) -> Compare:
    """A judge by prompt, asked in both orders, or a reward model, which has no order."""
    assert how.model is not None
    if not is_url(how.model):
        asker = open_asker(how.model)
        if asker.base.task == "reward":
            return lambda examples, a, b: _by_reward(asker, examples, a, b)
        write = open_writer(how.model, None, how.api_key_env, lambda name: asker, LETTER_TOKENS)
    else:
        write = open_writer(how.model, how.served_model, how.api_key_env, open_asker, LETTER_TOKENS)
    judge = Judge(write)
    return lambda examples, a, b: judge.compare([e.input for e in examples], a, b)


def measure_agreement(how: JudgeSection, journal: Journal) -> dict[str, Any] | None:
    """How far the judge agrees with the people of judge.people, as plain JSON; None without any.

    The file holds pairs, the better answer marked; which comes first is a coin's choice by content.
    """
    if how.people is None or how.model is None:
        return None
    data = DataSection(train=how.people, validation=0.0, test=0.0)
    rows = [e for e in prepare(data, "generate", Journal()).splits.train if e.output and e.rejected]
    if not rows:
        raise DataError(
            f"{how.people}: no pair in which people chose; give rows of prompt, chosen, rejected"
        )
    found = agree_on(open_judge(how), rows)
    journal.say(f"judge {how.model}: {found.line}")
    return {"model": how.model, "line": found.line, **asdict(found)}


def agree_on(compare: Compare, rows: Sequence[Example]) -> Agreement:
    """The judge beside people, on rows with a better and a worse answer."""
    first = [int(e.id[:1], 16) % 2 == 0 for e in rows]
    pairs = [(str(e.output), str(e.rejected)) for e in rows]
    shown = [pair if front else pair[::-1] for pair, front in zip(pairs, first, strict=True)]
    winners = compare(rows, [a for a, _ in shown], [b for _, b in shown])
    return agreement(winners, ["first" if front else "second" for front in first])


def _by_reward(
    asker: Asker, examples: Sequence[Example], firsts: Sequence[str], seconds: Sequence[str]
) -> list[str]:
    rewards = [
        np.array(
            rewards_of(asker, reward_rows(examples, part, asker.rendering), lambda share: None)
        )
        for part in (firsts, seconds)
    ]
    return [
        "tie" if a == b else "first" if a > b else "second" for a, b in zip(*rewards, strict=True)
    ]


SCORES = {"first": 1.0, "tie": 0.5, "second": 0.0}
