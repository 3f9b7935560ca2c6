"""How rules add up evidence from batch to batch. The same arithmetic runs live (one stream) and in
the simulation that sets the limits (many at once).

Shapes: S streams (1 when live), m rules of means, D random features, C classes, w window rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tunewright.monitor.inputs import DomainClassifier, RandomFeatures
from tunewright.monitor.profile import Facts
from tunewright.monitor.rules import Rule

Floats = NDArray[np.float64]
SLACK = 0.5
"""Standard deviations of a batch mean that a cumulative sum forgives each batch, at least."""
DOUBT = 2.0
"""Standard errors of the reference's own mean that it forgives on top."""
START_ROWS = 1000
"""Requests without an alarm that join the reference when a watch begins."""
STRAY = 3.0
MOST_Z = 6.0
"""One wild batch counts this much at most."""
MEMORY = 0.1
"""Weight of the newest batch in a running average of a distribution."""
WINDOW_BATCHES = 4
LEAST_MORE = 0.04
"""A rate is watched for having doubled, or risen by four points, whichever is more."""
RATE_LEVEL = 0.95


@dataclass
class Sums:
    """Cumulative sums up and down, and the batch at which each last stood at zero."""

    up: Floats
    down: Floats
    since_up: NDArray[np.int64]
    since_down: NDArray[np.int64]

    @classmethod
    def fresh(cls, shape: tuple[int, ...]) -> Sums:
        """All at zero."""
        zero = np.zeros(shape, dtype=np.int64)
        return cls(np.zeros(shape), np.zeros(shape), zero, zero.copy())

    def step(self, z: Floats, slack: Floats, batch: int) -> None:
        """Add one batch; z in standard deviations, nan where a rule saw nothing."""
        seen = np.clip(np.nan_to_num(z), -MOST_Z, MOST_Z)
        forgiven = np.where(np.isfinite(z), slack, 0.0)
        self.up = np.maximum(0.0, self.up + seen - forgiven)
        self.down = np.maximum(0.0, self.down - seen - forgiven)
        self.since_up = np.where(self.up > 0, self.since_up, batch + 1)
        self.since_down = np.where(self.down > 0, self.since_down, batch + 1)


@dataclass(frozen=True)
class Baseline:
    """What no change looks like. mean_m, deviation_m: of one row, per rule of means; count_m: of
    how many reference rows.
    """

    mean_m: Floats
    deviation_m: Floats
    count_m: Floats
    kernel_D: Floats
    mix_C: Floats

    def z(self, means_Sm: Floats, counts_Sm: Floats) -> Floats:
        """Batch means in standard deviations of a batch mean; nan where no row counted."""
        with np.errstate(divide="ignore", invalid="ignore"):
            error = self.deviation_m / np.sqrt(counts_Sm)
            return np.asarray((means_Sm - self.mean_m) / error)

    def slack(self, batch_size: int) -> Floats:
        """(m,) what a cumulative sum forgives each batch: a reference of few rows may be off."""
        return np.asarray(SLACK + DOUBT * np.sqrt(batch_size / np.maximum(self.count_m, 1)))

    def kernel_distance(self, running_SD: Floats) -> Floats:
        """(S,) squared distance of running mean features from the reference's."""
        return np.asarray(((running_SD - self.kernel_D) ** 2).sum(axis=-1))

    def mix_distance(self, running_SC: Floats) -> Floats:
        """(S,) chi-square distance of a running mix of classes from the reference's."""
        return np.asarray(((running_SC - self.mix_C) ** 2 / self.mix_C).sum(axis=-1))


@dataclass
class Start:
    """The first requests of a watch, added up until they join the reference. sums, counts: per rule
    of means; kernel, mix: sums of features and counts of classes.
    """

    sums_m: Floats
    counts_m: Floats
    kernel_D: Floats
    mix_C: Floats
    rows: int = 0

    def add(self, means_nm: Floats, kernel_nD: Floats, classes_n: NDArray[np.int64]) -> None:
        """Take one batch in."""
        self.sums_m = self.sums_m + np.nansum(means_nm, axis=0)
        self.counts_m = self.counts_m + np.isfinite(means_nm).sum(axis=0)
        self.kernel_D = self.kernel_D + kernel_nD.sum(axis=0)
        self.mix_C = self.mix_C + np.bincount(classes_n, minlength=len(self.mix_C))
        self.rows += len(classes_n)

    def join(self, base: Baseline, reference_rows: int) -> Baseline:
        """The baseline of reference and start together.

        A reference of a few hundred rows is off by chance, always in the same way; traffic that
        raised no alarm tells better what is usual. A rule whose mean lies further off than the
        doubt of both explains (STRAY standard errors) keeps its own: that is a change.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            here_m = self.sums_m / self.counts_m
            error_m = base.deviation_m * np.sqrt(1 / base.count_m + 1 / self.counts_m)
            joins_m = np.abs(here_m - base.mean_m) <= STRAY * error_m
        total_m = base.count_m + self.counts_m
        mean_m = (base.mean_m * base.count_m + self.sums_m) / np.maximum(total_m, 1)
        rows = reference_rows + self.rows
        return Baseline(
            mean_m=np.where(joins_m, mean_m, base.mean_m),
            deviation_m=base.deviation_m,
            count_m=np.where(joins_m, total_m, base.count_m),
            kernel_D=(base.kernel_D * reference_rows + self.kernel_D) / rows,
            mix_C=smooth_mix(base.mix_C * reference_rows + self.mix_C),
        )


def read_means(rules: list[Rule], facts: Facts) -> Floats:
    """(n, m) the numbers that rules of means follow."""
    columns = [rule.read(facts) for rule in rules if rule.read is not None]
    return np.stack(columns, axis=1) if columns else np.zeros((len(facts.length), 0))


def smooth_mix(counts_C: Floats) -> Floats:
    """Shares of classes from counts, half a row added to each, so that none is impossible."""
    return np.asarray(
        (counts_C + 0.5) / (counts_C.sum(-1, keepdims=True) + 0.5 * counts_C.shape[-1])
    )


def make_baseline(means_rm: Floats, kernel_rD: Floats, mix_C: Floats) -> Baseline:
    """Of reference rows (nan left out)."""
    with np.errstate(invalid="ignore"):
        mean, deviation = np.nanmean(means_rm, axis=0), np.nanstd(means_rm, axis=0)
    count = np.isfinite(means_rm).sum(axis=0).astype(np.float64)
    kernel = kernel_rD.mean(axis=0)
    return Baseline(mean, np.maximum(deviation, 1e-9), count, kernel, smooth_mix(mix_C))


@dataclass
class RateSum:
    """Cumulative log likelihood ratio of a raised rate against the usual one, in nats.

    usual: the upper end of what the reference allows, so that its own doubt raises no alarm. A
    limit of log(N) is crossed no more than once in N batches (Lorden 1971).
    """

    usual: float
    raised: float
    total: float = 0.0
    since: int = 0

    def step(self, bad: float, count: float, batch: int) -> None:
        """Add a batch in which `bad` of `count` rows were bad."""
        gain = bad * math.log(self.raised / self.usual)
        gain += (count - bad) * math.log((1 - self.raised) / (1 - self.usual))
        self.total = max(0.0, self.total + gain)
        if self.total <= 0:
            self.since = batch + 1


def make_rate_sum(values: Floats) -> RateSum:
    """Of reference rows that are bad (1) or not (0); nan left out."""
    known = values[np.isfinite(values)]
    bad, n = float(known.sum()), len(known)
    usual = float(stats.beta.ppf(RATE_LEVEL, bad + 1, n - bad)) if bad < n else 0.99
    usual = min(max(usual, 1e-4), 0.94)
    return RateSum(usual, min(0.99, max(2 * usual, usual + LEAST_MORE)))


@dataclass
class Running:
    """Running averages of distributions, and the last rows for the domain classifier."""

    kernel_D: Floats
    mix_C: Floats
    window_wC: list[Floats] = field(default_factory=list)
    batches: int = 0

    def step(
        self, facts: Facts, features: RandomFeatures, classifier: DomainClassifier, classes: int
    ) -> None:
        """Add one batch."""
        kernel = features.of(facts.states_nH).mean(axis=0)
        counts = np.bincount(facts.classes_n, minlength=classes + 1).astype(np.float64)
        self.kernel_D = (1 - MEMORY) * self.kernel_D + MEMORY * kernel
        self.mix_C = (1 - MEMORY) * self.mix_C + MEMORY * counts / max(counts.sum(), 1)
        self.window_wC = [*self.window_wC, classifier.project(facts.states_nH)][-WINDOW_BATCHES:]
        self.batches += 1
