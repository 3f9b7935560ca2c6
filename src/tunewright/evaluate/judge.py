"""A model as judge of open answers: which of two is better, asked in both orders, and a grade.

A judge favours places and lengths (Zheng et al. 2023, "Judging LLM-as-a-Judge"): so each pair is
asked twice with the answers swapped, and counts only where both agree; else it is a tie. How far a
judge agrees with people is measured (`agreement`), not assumed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tunewright.metrics.stats import wilson_interval

Write = Callable[[Sequence[str]], list[str]]
"""Prompts to what the judge writes."""
WINNERS = ("first", "second", "tie")
_PAIR = """Which answer to the request is better? Answer with one letter: A, B, or T for a tie.

Request:
{prompt}

Answer A:
{a}

Answer B:
{b}

Better:"""
_GRADE = """{question} Answer with a number from 0 to 10.

Request:
{prompt}

Answer:
{answer}

Number:"""
_SAID = re.compile(r"\b(?i:answer|better|winner|is)\b[\s:*\"']*([AB])\b")
_LETTER = re.compile(r"\b([ABT])\b")
_TIE = re.compile(r"\btie\b", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\d.])\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Judge:
    """A judge by what it writes."""

    write: Write

    def compare(
        self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]
    ) -> list[str]:
        """ "first", "second" or "tie" for each pair; a tie where the two orders disagree."""
        rows = list(zip(prompts, firsts, seconds, strict=True))
        asked = [_PAIR.format(prompt=p, a=a, b=b) for p, a, b in rows]
        swapped = [_PAIR.format(prompt=p, a=b, b=a) for p, a, b in rows]
        said = self.write([*asked, *swapped])
        plain = [read_letter(text) for text in said[: len(rows)]]
        turned = [read_letter(text) for text in said[len(rows) :]]
        return [_agreed(one, other) for one, other in zip(plain, turned, strict=True)]

    def grade(self, prompts: Sequence[str], answers: Sequence[str], question: str) -> list[float]:
        """0 to 1 for each answer; 0 where the judge gave no number."""
        asked = [
            _GRADE.format(question=question, prompt=p, answer=a)
            for p, a in zip(prompts, answers, strict=True)
        ]
        return [read_number(text) for text in self.write(asked)]


def read_letter(text: str) -> str | None:
    """A, B or T: alone, as "answer B" or "is B", or the first such capital; None without any."""
    bare = text.strip(" .:()*\n").upper()
    if bare in ("A", "B", "T"):
        return bare
    if _TIE.search(text):
        return "T"
    found = _SAID.search(text) or _LETTER.search(text)
    return None if found is None else found[1]


def read_number(text: str) -> float:
    """The first number of a text as a share of ten, 0 to 1; 0 where there is none."""
    found = _NUMBER.search(text)
    return 0.0 if found is None else min(10.0, float(found[0])) / 10.0


def _agreed(plain: str | None, turned: str | None) -> str:
    if (plain, turned) == ("A", "B"):
        return "first"
    return "second" if (plain, turned) == ("B", "A") else "tie"


@dataclass(frozen=True)
class Agreement:
    """How far a judge agrees with people. kappa: Cohen's, 0 is chance; decided: pairs that it did
    not call a tie, and right: its share of them on the people's side."""

    n: int
    agree: float
    agree_ci95: tuple[float, float]
    kappa: float
    decided: int
    right: float
    right_ci95: tuple[float, float]

    @property
    def line(self) -> str:
        """In one sentence."""
        low, high = (100 * end for end in self.agree_ci95)
        text = (
            f"the judge agrees with people on {100 * self.agree:.1f} % of {self.n} pairs "
            f"({low:.1f} to {high:.1f}), kappa {self.kappa:.2f}"
        )
        if self.decided:
            text += f"; of {self.decided} pairs that it decides {100 * self.right:.1f} % are right"
        return text


def agreement(judged: Sequence[str], people: Sequence[str]) -> Agreement:
    """The judge's winners beside the people's, pair by pair ("first", "second" or "tie")."""
    n = len(people)
    agree = float(np.mean([a == b for a, b in zip(judged, people, strict=True)]))
    mine, theirs = Counter(judged), Counter(people)
    chance = sum(mine[w] * theirs[w] for w in WINNERS) / n**2
    kappa = (agree - chance) / (1 - chance) if chance < 1 else 0.0
    pairs = [(a, b) for a, b in zip(judged, people, strict=True) if "tie" not in (a, b)]
    right = float(np.mean([a == b for a, b in pairs])) if pairs else 0.0
    ends = wilson_interval(right, len(pairs)) if pairs else (0.0, 1.0)
    return Agreement(n, agree, wilson_interval(agree, n), kappa, len(pairs), right, ends)
