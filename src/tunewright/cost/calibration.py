"""How right earlier forecasts were, and how much wider the next one must be. Arithmetic only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FEWEST = 3
"""Runs before their record changes a forecast."""
COVER = 0.9


@dataclass(frozen=True, slots=True)
class Record:
    """One run's forecast beside what was measured. version: of the tunewright that made both."""

    run: str
    device: str
    forecast: float
    measured: float
    version: str = ""

    @property
    def ratio(self) -> float:
        """measured / forecast: above 1 the forecast was too low."""
        return self.measured / self.forecast


@dataclass(frozen=True, slots=True)
class Calibration:
    """How forecasts of one quantity did. factor: what measured usually is of forecast (median).

    low, high: factors of the forecast between which nine of ten runs lay, never tighter than the
    runs can show. mean_error: mean of |measured / forecast - 1| before the correction.
    """

    runs: int
    factor: float
    low: float
    high: float
    mean_error: float
    worst_under: float
    used: bool


def calibrate(records: Sequence[Record]) -> Calibration:
    """What the records say. With fewer than FEWEST runs nothing is corrected.

    The interval is a prediction interval on the logarithm of the ratio (normal, with Student's
    widening for few runs), so that few runs widen it.
    """
    ratios = [r.ratio for r in records if r.forecast > 0 and r.measured > 0]
    if not ratios:
        return Calibration(0, 1.0, 1.0, 1.0, math.nan, math.nan, used=False)
    logs = sorted(math.log(ratio) for ratio in ratios)
    n = len(logs)
    middle = (logs[(n - 1) // 2] + logs[n // 2]) / 2
    error = sum(abs(ratio - 1.0) for ratio in ratios) / n
    under = max(0.0, max(ratios) - 1.0)
    if n < FEWEST:
        return Calibration(n, 1.0, min(ratios), max(ratios), error, under, used=False)
    spread = math.sqrt(sum((value - middle) ** 2 for value in logs) / (n - 1))
    reach = _student(n - 1) * spread * math.sqrt(1.0 + 1.0 / n)
    return Calibration(
        n, math.exp(middle), math.exp(middle - reach), math.exp(middle + reach), error, under,
        used=True,
    )  # fmt: skip


def _student(degrees: int) -> float:
    """The .95 quantile of Student's t; an expansion good to 1 % from two degrees on."""
    z = 1.6449
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    d = max(2, degrees)
    return z + g1 / d + g2 / d**2 + g3 / d**3
