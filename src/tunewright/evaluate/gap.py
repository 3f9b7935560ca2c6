"""The generalisation gap: training goes on getting better while validation gets worse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RISE = 0.02
"""Share of the lowest validation loss by which it must have risen to count."""
LOOKS = 2
"""Looks after the lowest one that must all lie above it."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Where validation loss was lowest and where it ended, and training loss at both places."""

    step: int
    last_step: int
    validation: tuple[float, float]
    training: tuple[float, float]

    @property
    def line(self) -> str:
        """In one sentence."""
        low, high = self.validation
        before, after = self.training
        return (
            f"Overfitting: from step {self.step} to {self.last_step} validation loss rose from "
            f"{low:.3g} to {high:.3g} while training loss fell from {before:.3g} to {after:.3g}."
        )


def find_gap(
    steps: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]
) -> Gap | None:
    """The gap of a run, from lines of steps.jsonl and evaluations.jsonl; None where there is none.

    Losses of single batches are noisy: training loss is the mean over the steps up to each look.
    """
    looks = [
        (int(row["step"]), float(row["loss"]))
        for row in evaluations
        if row.get("loss") is not None and math.isfinite(row["loss"]) and int(row["step"]) > 0
    ]
    if len(looks) <= LOOKS:
        return None
    lowest = min(range(len(looks)), key=lambda place: looks[place][1])
    after = looks[lowest + 1 :]
    (step, low), (last_step, high) = looks[lowest], looks[-1]
    least = low + RISE * abs(low)
    if len(after) < LOOKS or high < least or any(loss <= low for _, loss in after):
        return None
    width = max(1, last_step // len(looks))
    trained = [_mean_before(steps, at, width) for at in (step, last_step)]
    if not all(map(math.isfinite, trained)) or trained[1] >= trained[0]:
        return None
    return Gap(step, last_step, (low, high), (trained[0], trained[1]))


def _mean_before(steps: Sequence[Mapping[str, Any]], step: int, width: int) -> float:
    losses = [float(row["loss"]) for row in steps if step - width < int(row["step"]) <= step]
    return float(np.mean(losses)) if losses else math.nan
