"""Whether a way of choosing rows beats chance: both choose, the same cheap model learns, and the
same held-out rows judge. The cheap model stands in for the costly one; it can only rank choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from tunewright.data.audit.folds import Floats, Ints, gaussian_scores

Choose = Callable[[Ints, int], Ints]
"""(row numbers to choose from, repeat) to the numbers chosen."""
Learn = Callable[[Ints, Ints], Floats]
"""(row numbers to learn from, row numbers to judge by) to a score of each judged row."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Chosen rows against random ones: mean scores, their difference with a 95 % interval.

    verdict: "better than random", "worse than random", or "no better than random" where the
    interval holds 0.
    """

    chosen: float
    random: float
    delta: float
    ci95: tuple[float, float]
    num_repeats: int
    num_rows: int
    verdict: str

    def sentence(self) -> str:
        """The outcome in words."""
        low, high = self.ci95
        return (
            f"{self.num_rows:,} chosen rows: {self.verdict} ({self.chosen:.4f} against "
            f"{self.random:.4f}, difference {self.delta:+.4f}, 95 % interval {low:+.4f} to "
            f"{high:+.4f}, {self.num_repeats} repeats with a cheap model)"
        )


def run_trial(
    choose: Choose,
    learn: Learn,
    num_rows: int,
    most: int,
    *,
    judged: Ints | None = None,
    repeats: int = 10,
    held_share: float = 0.3,
    seed: int = 17,
    advance: Callable[[float, str], None] | None = None,
) -> Trial:
    """`most` rows chosen by `choose` against as many at random, over repeats.

    judged: rows that judge (never chosen from); None sets held_share of the rows aside anew in
    each repeat. The interval allows for repeats that share rows (Nadeau and Bengio 2003), or for
    the chance in which rows judge where they are always the same.
    """
    differences, scores = [], []
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat])
        shuffled = rng.permutation(num_rows)
        if judged is None:
            cut = int(held_share * num_rows)
            held, pool = shuffled[:cut], np.sort(shuffled[cut:])
        else:
            # Nine tenths of the rows are on offer, others each time, so that chance has its say.
            outside = shuffled[~np.isin(shuffled, judged)]
            held, pool = judged, np.sort(outside[: max(1, int(0.9 * len(outside)))])
        number = min(most, len(pool))
        mine = learn(choose(pool, repeat), held)
        theirs = learn(rng.choice(pool, number, replace=False), held)
        scores.append((mine.mean(), theirs.mean()))
        differences.append(mine - theirs)
        if advance is not None:
            advance((repeat + 1) / repeats, f"repeat {repeat + 1} of {repeats}")
    means = [float(difference.mean()) for difference in differences]
    delta = float(np.mean(means))
    between = float(np.var(means, ddof=1))
    if judged is None:
        error = (between * (1 / repeats + held_share / (1 - held_share))) ** 0.5
    else:
        by_row = np.mean(differences, axis=0)
        error = (between / repeats + float(np.var(by_row)) / len(by_row)) ** 0.5
    half = float(student.ppf(0.975, repeats - 1)) * error
    verdict = "no better than random"
    if delta - half > 0:
        verdict = "better than random"
    elif delta + half < 0:
        verdict = "worse than random"
    chosen, random = (float(value) for value in np.mean(scores, axis=0))
    return Trial(chosen, random, delta, (delta - half, delta + half), repeats, most, verdict)


def classify_score(table: Floats, labels: Ints, num_labels: int) -> Learn:
    """Learn for labelled vectors: accuracy of shrunken discriminant analysis."""

    def learn(known: Ints, held: Ints) -> Floats:
        scores = gaussian_scores(table[known], labels[known], table[held], num_labels)
        return np.asarray(scores.argmax(axis=1) == labels[held], dtype=np.float64)

    return learn


def nearest_score(
    table: Floats, answers: Sequence[Any], alike: Callable[[Any, Any], float]
) -> Learn:
    """Learn for written answers: how alike the nearest row's answer is to the right one, 0 to 1."""

    def learn(known: Ints, held: Ints) -> Floats:
        near = known[(table[held] @ table[known].T).argmax(axis=1)]
        return np.array([alike(answers[i], answers[j]) for i, j in zip(near, held, strict=True)])

    return learn
