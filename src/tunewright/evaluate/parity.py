"""Does what was exported answer like what was trained? The gate after every export.

The same prompts go through both. Logits are compared within a stated tolerance, greedy answers
token by token; a near-tie between two tokens is not a difference of the models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Ask = Callable[[Sequence[Sequence[int]]], list[Logits]]
"""Token ids of prompts to logits: (T, V) of each for language models, (K,) for classifiers."""

TIE = 1e-4
"""Two tokens whose logits differ by less than this are a tie in fp32."""


@dataclass(frozen=True, slots=True)
class Parity:
    """What a comparison of two forms of one model found.

    max_logit_difference: largest absolute difference of any logit.
    same_top: share of positions (or rows) with the same best token (or label), ties excused.
    same_text: share of prompts with the same greedy text; None where nothing is written.
    same_tokens: the exported tokenizer gives the same ids for the same texts.
    metrics: name to (trained, exported) on the test rows, where both were asked.
    """

    checked_by: str
    num_prompts: int
    num_positions: int
    max_logit_difference: float
    tolerance: float
    same_top: float
    same_text: float | None = None
    same_tokens: bool = True
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    least_same_top: float = 0.999
    least_same_text: float = 0.999

    @property
    def passed(self) -> bool:
        """True when everything is within tolerance."""
        return not self.faults

    @property
    def faults(self) -> list[str]:
        """What is out of tolerance, in plain words."""
        found = []
        if not self.same_tokens:
            found.append("the exported tokenizer cuts the same text into other tokens")
        if not self.max_logit_difference <= self.tolerance:
            found.append(
                f"logits differ by up to {self.max_logit_difference:.3g}, more than "
                f"{self.tolerance:g}"
            )
        if self.same_top < self.least_same_top:
            found.append(f"only {100 * self.same_top:.2f} % of the best tokens are the same")
        if self.same_text is not None and self.same_text < self.least_same_text:
            found.append(f"only {100 * self.same_text:.1f} % of the answers are the same")
        return found


def compare_logits(
    trained: Sequence[Logits], exported: Sequence[Logits], *, tie: float = TIE
) -> tuple[float, float, int]:
    """(largest difference, share of equal best entries with ties excused, positions).

    Each item is (..., V): the last axis is compared. Raises ValueError for other shapes.
    """
    largest, same, total = 0.0, 0, 0
    for left, right in zip(trained, exported, strict=True):
        if left.shape != right.shape:
            raise ValueError(f"logits of shape {left.shape} and {right.shape}")
        a, b = left.reshape(-1, left.shape[-1]), right.reshape(-1, right.shape[-1])
        largest = max(largest, float(np.abs(a - b).max()))
        best_a, best_b = a.argmax(1), b.argmax(1)
        rows = np.arange(len(a))
        gap = a[rows, best_a] - a[rows, best_b]
        same += int(((best_a == best_b) | (gap <= tie)).sum())
        total += len(a)
    return largest, same / max(1, total), total


def same_answers(
    trained: Sequence[Sequence[int]],
    exported: Sequence[Sequence[int]],
    is_tie: Callable[[int, int], bool] = lambda prompt, position: False,
) -> float:
    """Share of greedy answers that are the same to the last token, or part at a tie.

    is_tie(prompt, position): whether the trained model was undecided where they part.
    """
    same = 0
    for number, (left, right) in enumerate(zip(trained, exported, strict=True)):
        part = next(
            (at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
            None if len(left) == len(right) else min(len(left), len(right)),
        )
        same += part is None or is_tie(number, part)
    return same / max(1, len(trained))
