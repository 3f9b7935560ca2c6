"""How far each rule may go: set for all of them together, by streams drawn from reference rows.

A rule's parameters come from one resample of the reference and its stream from another, so the
doubt of a small reference is part of what a limit allows; for the kernel and the classifier this
takes the place of a permutation test. All rules look at the same streams, and one level is shared
out such that any of them speaks in at most `budget` of the streams without a change.

Shapes: S streams, B batches of n rows, r reference rows, m rules of means, R rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewright.monitor.inputs import (
    NEAR,
    DomainClassifier,
    RandomFeatures,
    make_domain_classifier,
    make_features,
)
from tunewright.monitor.profile import Facts, Lens
from tunewright.monitor.rules import RULES, Rule, has_news
from tunewright.monitor.sequences import (
    MEMORY,
    WINDOW_BATCHES,
    Baseline,
    Sums,
    make_baseline,
    read_means,
)

Floats = NDArray[np.float64]
NUM_BATCHES = 500
NUM_STREAMS = 100
RATE_BUDGET = 0.01
"""Expected false alarms of each rate rule in NUM_BATCHES batches; they are rare events."""
BUDGET = 0.3
"""Share of streams of NUM_BATCHES batches without a change in which any other rule may speak."""
FLOOD_SHARE = 0.2
EULER = 0.5772156649
Advance = Callable[[float, str], None]


@dataclass(frozen=True)
class Ground:
    """All that stays the same while a model is watched."""

    lens: Lens
    batch_size: int
    means: tuple[Rule, ...]
    rates: tuple[Rule, ...]
    others: tuple[Rule, ...]
    baseline: Baseline
    features: RandomFeatures
    classifier: DomainClassifier
    classes: int

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Every rule that can speak, in the order of the table."""
        mine = {rule.name for rule in (*self.means, *self.rates, *self.others)}
        return tuple(rule for rule in RULES.values() if rule.name in mine)


def make_ground(
    lens: Lens, *, batch_size: int = 50, leave_out: tuple[str, ...] = (), seed: int = 17
) -> Ground:
    """Rules that have something to say on this profile, and their baselines."""
    reference = lens.reference
    rules = [r for r in RULES.values() if r.name not in leave_out and has_news(r, reference)]
    means = [rule for rule in rules if rule.kind == "mean"]
    features = make_features(reference.states_nH, seed=seed)
    classes = len(lens.profile.labels)
    mix = np.bincount(reference.classes_n, minlength=classes + 1).astype(np.float64)
    return Ground(
        lens=lens,
        batch_size=batch_size,
        means=tuple(means),
        rates=tuple(rule for rule in rules if rule.kind == "rate"),
        others=tuple(rule for rule in rules if rule.kind not in ("mean", "rate")),
        baseline=make_baseline(
            read_means(means, reference), features.of(reference.states_nH), mix
        ),
        features=features,
        classifier=make_domain_classifier(reference.states_nH, seed=seed),
        classes=classes,
    )  # fmt: skip


def set_limits(
    ground: Ground,
    *,
    budget: float = BUDGET,
    num_streams: int = NUM_STREAMS,
    seed: int = 17,
    advance: Advance | None = None,
) -> dict[str, float]:
    """The limit of each rule, by name.

    budget: share of streams of 500 batches without a change in which the rules, all together, may
    raise an alarm (rate rules have RATE_BUDGET each on top).
    """
    names, peaks_SR = simulate(ground, num_streams=num_streams, seed=seed, advance=advance)
    low, high = 1e-5, 0.5
    for _ in range(40):
        middle = (low * high) ** 0.5
        limits_R = np.array([gumbel_quantile(column, 1 - middle) for column in peaks_SR.T])
        spoke = float((peaks_SR > limits_R).any(axis=1).mean()) if len(names) else 0.0
        low, high = (middle, high) if spoke <= budget else (low, middle)
    limits = {
        name: gumbel_quantile(column, 1 - low)
        for name, column in zip(names, peaks_SR.T, strict=True)
    }
    if "flood" in limits:
        limits["flood"] = max(limits["flood"], FLOOD_SHARE * ground.batch_size)
    for rule in ground.rates:
        limits[rule.name] = float(np.log(NUM_BATCHES / RATE_BUDGET))
    return limits


def gumbel_quantile(peaks_S: Floats, level: float) -> float:
    """Quantile of highest points, by a Gumbel law with their mean and deviation.

    Maxima of many batches follow it nearly (Fisher and Tippett 1928); the few streams that can be
    simulated tell two moments better than a tail.
    """
    scale = float(peaks_S.std(ddof=1)) * np.sqrt(6) / np.pi
    place = float(peaks_S.mean()) - EULER * scale
    return float(place - scale * np.log(-np.log(level)))


def simulate(
    ground: Ground, *, num_streams: int, seed: int, advance: Advance | None = None
) -> tuple[list[str], Floats]:
    """(rules, (S, R) the highest point that each reached in each stream without a change)."""
    reference = ground.lens.reference
    means_rm = read_means(list(ground.means), reference)
    kernel_rD = ground.features.of(reference.states_nH)
    main_rC = ground.classifier.project(reference.states_nH)
    near_rr = reference.states_nH @ reference.states_nH.T >= NEAR
    np.fill_diagonal(near_rr, False)
    rng = np.random.default_rng(seed)
    r = len(means_rm)
    rows: list[Mapping[str, float]] = []
    for stream in range(num_streams):
        known, population = rng.integers(0, r, r), rng.integers(0, r, r)
        drawn_Bn = population[rng.integers(0, r, (NUM_BATCHES, ground.batch_size))]
        counts = np.bincount(reference.classes_n[known], minlength=ground.classes + 1)
        baseline = make_baseline(means_rm[known], kernel_rD[known], counts.astype(np.float64))
        peaks = _peaks_of_means(ground, baseline, means_rm, drawn_Bn)
        peaks |= _peaks_of_spreads(ground, baseline, kernel_rD, reference, drawn_Bn)
        if any(rule.kind == "classifier" for rule in ground.others):
            peaks["domain_classifier"] = _peak_of_classifier(ground, main_rC, rng)
        if any(rule.kind == "flood" for rule in ground.others):
            peaks["flood"] = _peak_of_floods(near_rr, drawn_Bn[::10])
        rows.append({rule.name: peaks[rule.name] for rule in (*ground.means, *ground.others)})
        if advance:
            advance((stream + 1) / num_streams, "")
    names = list(rows[0]) if rows else []
    return names, np.array([[row[name] for name in names] for row in rows])


def _peaks_of_means(
    ground: Ground, baseline: Baseline, means_rm: Floats, drawn_Bn: NDArray[np.int64]
) -> dict[str, float]:
    drawn_Bnm = means_rm[drawn_Bn]
    counts_Bm = np.isfinite(drawn_Bnm).sum(axis=1)
    with np.errstate(invalid="ignore"):
        batch_Bm = np.nansum(drawn_Bnm, axis=1) / counts_Bm
    z_Bm = baseline.z(batch_Bm, counts_Bm)
    sums, slack = Sums.fresh((len(ground.means),)), baseline.slack(ground.batch_size)
    top = np.zeros(len(ground.means))
    for batch, z in enumerate(z_Bm):
        sums.step(z, slack, batch)
        top = np.maximum(top, height(ground.means, sums))
    return {rule.name: float(value) for rule, value in zip(ground.means, top, strict=True)}


def height(rules: tuple[Rule, ...], sums: Sums) -> Floats:
    """(m,) how far each rule of means has gone, whichever way alarms it."""
    up = np.where([rule.rises for rule in rules], sums.up, 0.0)
    down = np.where([rule.falls for rule in rules], sums.down, 0.0)
    return np.maximum(up, down)


def _peaks_of_spreads(
    ground: Ground, baseline: Baseline, kernel_rD: Floats, facts: Facts, drawn_Bn: NDArray[np.int64]
) -> dict[str, float]:
    kernel, mix = baseline.kernel_D, baseline.mix_C
    top_kernel = top_mix = 0.0
    for drawn in drawn_Bn:
        kernel = (1 - MEMORY) * kernel + MEMORY * kernel_rD[drawn].mean(axis=0)
        counts = np.bincount(facts.classes_n[drawn], minlength=ground.classes + 1)
        mix = (1 - MEMORY) * mix + MEMORY * counts / len(drawn)
        top_kernel = max(top_kernel, float(baseline.kernel_distance(kernel)))
        top_mix = max(top_mix, float(baseline.mix_distance(mix)))
    return {"kernel": top_kernel, "class_mix": top_mix}


def _peak_of_classifier(ground: Ground, main_rC: Floats, rng: np.random.Generator) -> float:
    """Highest separation over windows of four batches, permuted: the reference is one part of the
    rows and windows come from the other, since a row on both sides would hide how well fresh rows
    can be told apart.
    """
    order = rng.permutation(len(main_rC))
    size = min(len(ground.classifier.reference_rC), len(main_rC) // 2)
    reference, rest = main_rC[order[:size]], main_rC[order[size:]]
    width = WINDOW_BATCHES * ground.batch_size
    windows = rng.integers(0, len(rest), (NUM_BATCHES // WINDOW_BATCHES, width))
    return max(ground.classifier.separation(rest[window], reference) for window in windows)


def _peak_of_floods(near_rr: NDArray[np.bool_], drawn_Bn: NDArray[np.int64]) -> float:
    """Most rows of a batch that are near to one of its rows; rows drawn twice count once."""
    most = 1
    for drawn in drawn_Bn:
        once = np.unique(drawn)
        most = max(most, 1 + int(near_rr[np.ix_(once, once)].sum(axis=1).max()))
    return float(most)
