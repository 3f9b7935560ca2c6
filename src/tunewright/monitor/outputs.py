"""What a model answers: its calibrated confidence, refusals, broken answers, and how often it is
right as far as that can be told without labels.

Shapes: n rows, K classes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewright.metrics.stats import Z
from tunewright.records import Output, Request

Floats = NDArray[np.float64]
FEWEST_CALIBRATION_ROWS = 50
NUM_STEPS = 20
"""Most steps of the calibration curve: fewer rows than 1/20 of the reference say little."""
REFUSAL = re.compile(
    r"^\W*(?:i(?:'|’)?m|i am|we are|we're)?\W*(?:(?:very |so |truly )?sorry|unable|afraid)\b"
    r"|\b(?:i|we)\s+(?:can(?:no|')t|can not|cannot|could not|couldn't|am unable|won't|will not)\s+"
    r"(?:help|assist|answer|comply|provide|do that|fulfil|fulfill|continue|discuss)"
    r"|\bas an ai\b",
    re.IGNORECASE,
)
LOOKED_AT = 300
"""Characters of an answer in which a refusal is looked for."""


@dataclass(frozen=True)
class Calibration:
    """Confidence to the share of right answers at that confidence, rising, by straight pieces."""

    confidence: tuple[float, ...]
    right: tuple[float, ...]

    def of(self, confidence_n: Floats) -> Floats:
        """(n,) calibrated confidence, 0 ... 1; the confidence itself if nothing was learned."""
        if not self.confidence:
            return np.clip(np.asarray(confidence_n, dtype=np.float64), 0, 1)
        return np.interp(confidence_n, self.confidence, self.right)


def fit_calibration(confidence_n: Floats, right_n: Floats) -> Calibration:
    """Isotonic regression of right on confidence (Zadrozny and Elkan 2002), smoothed at the steps.

    right_n: 1, 0 or nan where nobody knows. Fewer than 50 known rows: confidences stay as they are.
    """
    known = np.isfinite(right_n) & np.isfinite(confidence_n)
    if known.sum() < FEWEST_CALIBRATION_ROWS:
        return Calibration((), ())
    from sklearn.isotonic import IsotonicRegression

    order = np.argsort(confidence_n[known], kind="stable")
    parts = np.array_split(order, min(NUM_STEPS, len(order) // 10))
    x = np.array([confidence_n[known][part].mean() for part in parts])
    share = np.array([right_n[known][part].mean() for part in parts])
    weight = np.array([len(part) for part in parts])
    y = IsotonicRegression(y_min=0, y_max=1).fit(x, share, sample_weight=weight).predict(x)
    # Straight pieces between steps cut corners; their mean is put right.
    y += share @ weight / weight.sum() - float(np.interp(confidence_n[known], x, y).mean())
    return Calibration(tuple(map(float, x)), tuple(map(float, np.clip(y, 0, 1))))


@dataclass(frozen=True, slots=True)
class AccuracyEstimate:
    """Accuracy of a window as its confidences tell it, with a 95 % interval.

    valid False: too many requests are unlike anything that calibration saw, and `because` says so;
    the value flatters then. least: the accuracy if every answer to an unknown request is wrong.
    """

    value: float
    ci95: tuple[float, float]
    n: int
    valid: bool
    novel_share: float
    least: float
    because: str


MOST_NOVEL = 0.045
"""Share of unknown requests above which confidence is not believed."""


def estimate_accuracy(
    calibrated_n: Floats,
    ratios_n: Floats,
    *,
    novel_share: float,
    num_reference: int,
    most_novel: float = MOST_NOVEL,
) -> AccuracyEstimate:
    """Mean calibrated confidence (confidence-based performance estimation, Kivimäki et al. 2024,
    arXiv 2401.08348), unless the share of unknown requests is above `most_novel`.

    ratios_n: log likelihood ratios of novelty. num_reference: rows that calibration learned from.
    """
    known = np.isfinite(calibrated_n)
    calibrated, ratios = calibrated_n[known], ratios_n[known]
    n = len(calibrated)
    if n == 0:
        nothing = (math.nan, math.nan)
        return AccuracyEstimate(
            math.nan,
            nothing,
            0,
            False,
            novel_share,
            math.nan,
            "invalid: no answer has a confidence",
        )
    value = float(calibrated.mean())
    # Rows come out right or wrong by chance, and the curve itself was learned from few rows.
    rows = float((calibrated * (1 - calibrated)).sum()) / n**2
    curve = value * (1 - value) / max(num_reference, 1)
    reach = Z * math.sqrt(rows + curve)
    odds = novel_share * np.exp(ratios)
    unknown = odds / np.maximum(1 - novel_share + odds, 1e-12)
    valid = novel_share <= most_novel
    because = "from calibrated confidence"
    if not valid:
        because = (
            f"invalid: about {100 * novel_share:.0f} % of the requests are unlike training data, "
            "and confidence on them means nothing"
        )
    return AccuracyEstimate(
        value=value,
        ci95=(max(0.0, value - reach), min(1.0, value + reach)),
        n=n,
        valid=valid,
        novel_share=novel_share,
        least=float(((1 - unknown) * calibrated).mean()),
        because=because,
    )


def refusals(answers: Sequence[Output]) -> Floats:
    """(n,) 1 where a written answer declines to answer, else 0."""
    return np.array(
        [float(isinstance(a, str) and bool(REFUSAL.search(a[:LOOKED_AT]))) for a in answers]
    )


def broken_answers(
    requests: Sequence[Request], labels: Sequence[str], *, expects_json: bool
) -> Floats:
    """(n,) 1 where an answer is missing, is no known label, or is not the JSON it should be."""
    known = set(labels)
    return np.array([float(_is_broken(item, known, expects_json)) for item in requests])


def _is_broken(item: Request, known: set[str], expects_json: bool) -> bool:
    answer = item.answer
    if item.failed or answer is None:
        return True
    if isinstance(answer, tuple):
        return bool(known) and any(isinstance(a, str) and a not in known for a in answer)
    if not isinstance(answer, str):
        return False
    if known:
        return answer not in known
    return not answer.strip() or (expects_json and not parses(answer))


def parses(text: str) -> bool:
    """True where the text is one JSON object or list."""
    try:
        return isinstance(json.loads(text), (dict, list))
    except ValueError:
        return False


def answer_lengths(answers: Sequence[Output]) -> Floats:
    """(n,) log of 1 + characters of written answers; 0 for other kinds."""
    return np.log1p([float(len(a)) if isinstance(a, str) else 0.0 for a in answers])
