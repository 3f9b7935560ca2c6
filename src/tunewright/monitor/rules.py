"""Alert rules: what each measures in a batch, and what it says. How they add up: sequences.py;
how far they may go: limits.py.

A rule is one line in RULES. Three kinds follow one number a row: `mean` (cumulative sums of the
batch mean, Page 1954), `rate` (cumulative log likelihood ratio of a share that doubled), and
`errors`, a rate of known wrong answers. The others are distributions: `mix`, `kernel`,
`classifier`, `flood`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tunewright.monitor.profile import Facts

Floats = NDArray[np.float64]
Layer = Literal["inputs", "outputs", "outcomes"]
Kind = Literal["mean", "rate", "mix", "kernel", "classifier", "flood"]


@dataclass(frozen=True)
class Rule:
    """read: a number for each row (nan: does not count). rises, falls: which way is alarming.

    worst: rows to show are those with the largest (1) or least (-1) number.
    """

    name: str
    layer: Layer
    kind: Kind
    says: str
    read: Callable[[Facts], Floats] | None = None
    rises: bool = True
    falls: bool = False
    worst: int = 1
    unit: Literal["share", "number"] = "number"


def has_news(rule: Rule, reference: Facts) -> bool:
    """True where the rule can say something: its numbers are known and not all the same.

    A rate counts from the first bad row on, so it needs no variation in the reference.
    """
    if rule.read is None:
        if rule.kind == "mix":
            return len(np.unique(reference.classes_n)) > 1
        return True
    values = rule.read(reference)
    known = values[np.isfinite(values)]
    if rule.kind == "rate":
        return known.size > 0
    return bool(known.size and known.std() > 1e-9)


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("length", "inputs", "mean", "requests changed in length",
             lambda f: f.length, falls=True),
        Rule("language", "inputs", "rate", "requests come in languages that training lacks",
             lambda f: f.foreign, unit="share"),
        Rule("unknown_words", "inputs", "mean", "requests hold words that training lacks",
             lambda f: f.unknown, unit="share"),
        Rule("flood", "inputs", "flood", "one question is repeated over and over"),
        Rule("novelty", "inputs", "mean", "requests are unlike anything trained",
             lambda f: f.novelty),
        Rule("distance", "inputs", "mean", "requests lie far from training rows",
             lambda f: f.distance),
        Rule("kernel", "inputs", "kernel", "requests are spread unlike before (MMD)",
             lambda f: f.novelty),
        Rule("domain_classifier", "inputs", "classifier",
             "a classifier tells requests from reference rows", lambda f: f.novelty),
        Rule("confidence", "outputs", "mean", "confidence fell",
             lambda f: f.sureness, rises=False, falls=True, worst=-1, unit="share"),
        Rule("class_mix", "outputs", "mix", "answers fall into other classes than before"),
        Rule("refusals", "outputs", "rate", "the model declines to answer more often",
             lambda f: f.refused, unit="share"),
        Rule("broken_answers", "outputs", "rate", "more answers are empty or malformed",
             lambda f: f.broken, unit="share"),
        Rule("answer_length", "outputs", "mean", "answers changed in length",
             lambda f: f.answer_length, falls=True),
        Rule("errors", "outcomes", "rate", "more answers turn out wrong",
             lambda f: 1 - f.right, unit="share"),
    )
}  # fmt: skip
