"""Before a new version answers everybody: in the shadow it answers recorded requests for nobody, as
a canary it answers a share of the users. What each must show is decided here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tunewright.evaluate.forgetting import exact_harm_p
from tunewright.evaluate.predict import Asker
from tunewright.metrics.labels import is_right as answer_is_right
from tunewright.monitor.outcomes import is_right
from tunewright.records import Example, Prediction, Request
from tunewright.releases.gate import Check

LEVEL = 0.05
SLOWER = 3.0
"""A new model that takes so many times as long is not let in unseen."""


@dataclass(frozen=True, slots=True)
class CanaryVerdict:
    """What the answers of a canary say. says: in a sentence."""

    verdict: Literal["wait", "promote", "roll back"]
    says: str
    answered: int
    labelled: int


def check_shadow(old: Asker, new: Asker, requests: Sequence[Request], known: set[str]) -> Check:
    """The new model answers recorded requests beside the old one, and nobody hears of it.

    known: ids of requests whose labels the new model may have learned; they judge nothing. Fails
    where answers are missing, where the new one is worse on labelled requests beyond chance, or
    takes SLOWER times as long.
    """
    name = "shadow"
    if not requests:
        return Check(name, True, "no recorded request to answer")
    rows = [Example(id=r.id, place="traffic", input=r.input, output=r.label) for r in requests]
    before, old_s = _timed(old, rows)
    after, new_s = _timed(new, rows)
    missing = sum(p.prediction in (None, "") for p in after)
    same = float(
        np.mean([a.prediction == b.prediction for a, b in zip(before, after, strict=True)])
    )
    judged = [i for i, r in enumerate(requests) if r.label is not None and r.id not in known]
    right = [(answer_is_right(before[i]), answer_is_right(after[i])) for i in judged]
    gained = sum(b and not a for a, b in right)
    lost = sum(a and not b for a, b in right)
    p = exact_harm_p(gained, lost)
    said = f"{len(rows):,} recorded requests: {100 * same:.0f} % answered as before"
    if judged:
        said += f"; of {len(judged):,} with a label {gained} mended, {lost} spoilt"
    details = {"requests": len(rows), "same": same, "labelled": len(judged), "gained": gained,
               "lost": lost, "p": p, "seconds": [old_s, new_s]}  # fmt: skip
    if missing:
        return Check(name, False, f"{said}; {missing} got no answer", details)
    if p < LEVEL:
        return Check(name, False, f"{said}; worse beyond chance (p {p:.3g})", details)
    if new_s > SLOWER * max(old_s, 1e-9) and new_s > 1.0:
        return Check(name, False, f"{said}; it takes {new_s / old_s:.1f} times as long", details)
    return Check(name, True, said, details)


def _timed(asker: Asker, rows: Sequence[Example]) -> tuple[list[Prediction], float]:
    begun = time.perf_counter()
    answers = asker.predict(rows, system="tuned", split="shadow")
    return answers, time.perf_counter() - begun


def judge_canary(
    mine: Sequence[Request], theirs: Sequence[Request], *, enough: int
) -> CanaryVerdict:
    """Whether a canary takes all requests, goes, or goes on.

    mine, theirs: requests that canary and production answered since it began, labels joined where
    they came. Rolled back where answers fail, or labels call them wrong, more often than those of
    production beyond chance (Fisher's exact test, one-sided, 5 % in all over both).
    """
    from scipy.stats import fisher_exact

    def worse(bad: float, of: float, their_bad: float, of_theirs: float) -> bool:
        if not of or not of_theirs or bad * of_theirs <= their_bad * of:
            return False
        table = [[bad, of - bad], [their_bad, of_theirs - their_bad]]
        return bool(fisher_exact(table, "greater")[1] < LEVEL / 2)

    failed = [
        sum(r.failed is not None or r.answer is None for r in side) for side in (mine, theirs)
    ]
    right = [
        np.array([is_right(r) for r in side if r.label is not None]) for side in (mine, theirs)
    ]
    wrong = [float((1 - values).sum()) for values in right]
    labelled = len(right[0])
    said = f"{len(mine):,} of {enough:,} requests answered"
    if labelled:
        said += f", {100 * float(right[0].mean()):.1f} % of {labelled:,} labelled ones right"
        if len(right[1]):
            said += f" ({100 * float(right[1].mean()):.1f} % of production's {len(right[1]):,})"
    if worse(failed[0], len(mine), failed[1], len(theirs)):
        return CanaryVerdict(
            "roll back", f"{said}; {failed[0]} answers failed", len(mine), labelled
        )
    if worse(wrong[0], labelled, wrong[1], len(right[1])):
        return CanaryVerdict("roll back", f"{said}; worse beyond chance", len(mine), labelled)
    if len(mine) >= enough:
        return CanaryVerdict("promote", said, len(mine), labelled)
    return CanaryVerdict("wait", said, len(mine), labelled)
