"""Uncertainty: intervals, paired tests, power. Numbers in, numbers out; no predictions, no metrics.

Rows are resampled by *weights*: a resample of n rows is a column of n small whole numbers that say
how often each row was drawn. A metric that is a function of weighted sums then costs one matrix
product for all resamples. Where rows come in groups, whole groups are drawn.

Shapes: weights_nB holds one resample per column. n rows, B resamples, U units (rows or groups).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]
Interval = tuple[float, float]

LEVEL = 0.95
ALPHA = 0.05
POWER = 0.80
Z = float(special.ndtri(1 - ALPHA / 2))
Z_POWER = float(special.ndtri(POWER))
MAX_CHUNK_BYTES = 16_000_000


@dataclass(frozen=True)
class Units:
    """What is drawn when rows are resampled: single rows, or whole groups of rows.

    of_row: the unit of each row, 0 ... count - 1.
    """

    of_row: NDArray[np.intp]
    count: int
    clustered: bool

    def sums(self, values: Array) -> Array:
        """Sum of `values` (one per row) over each unit."""
        sums = np.bincount(self.of_row, weights=values, minlength=self.count)
        return np.asarray(sums, dtype=np.float64)


def find_units(groups: Sequence[str | None]) -> Units:
    """Units of rows: groups where any group has two rows, else the rows. None: a row by itself."""
    if all(group is None for group in groups):
        return Units(np.arange(len(groups)), len(groups), clustered=False)
    names: dict[str | tuple[int], int] = {}
    of_row = [
        names.setdefault((row,) if group is None else group, len(names))
        for row, group in enumerate(groups)
    ]
    return Units(np.array(of_row, dtype=np.intp), len(names), len(names) < len(of_row))


def num_resamples_for(num_rows: int) -> int:
    """2,000 resamples for small sets, 1,000 beyond 10,000 rows, where rows smooth the tails."""
    return 2000 if num_rows <= 10_000 else 1000


def bootstrap_weights(units: Units, num_resamples: int, seed: int) -> Iterator[Array]:
    """Chunks of weights_nB: how often each row is drawn when units are drawn with replacement."""
    rng = np.random.Generator(np.random.Philox(seed))
    for size in _chunk_sizes(len(units.of_row), num_resamples):
        drawn_BU = rng.integers(0, units.count, size=(size, units.count))
        drawn_BU += np.arange(size)[:, None] * units.count
        counts = np.bincount(drawn_BU.ravel(), minlength=drawn_BU.size)
        counts_UB = counts.reshape(drawn_BU.shape).T.astype(np.float64, order="C")
        yield counts_UB[units.of_row] if units.clustered else counts_UB


def swap_weights(units: Units, num_resamples: int, seed: int) -> Iterator[Array]:
    """Chunks of swaps_nB: 1 where a unit's two answers change places, by a fair coin, else 0."""
    rng = np.random.Generator(np.random.Philox(seed))
    for size in _chunk_sizes(len(units.of_row), num_resamples):
        num_bytes = -(-units.count * size // 8)
        bits = np.unpackbits(np.frombuffer(rng.bytes(num_bytes), dtype=np.uint8))
        coins_UB = bits[: units.count * size].reshape(units.count, size).astype(np.float64)
        yield coins_UB[units.of_row] if units.clustered else coins_UB


def bootstrap_interval(
    value: float, replicates: Array, num_units: int, *, acceleration: float = 0.0
) -> Interval:
    """95 % interval from bootstrap replicates: bias-corrected, accelerated, t-tailed.

    Efron 1987 (BCa); the tails are those of t with num_units - 1 degrees of freedom and widened by
    sqrt(n / (n - 1)), which mends the narrowness of the bootstrap for few units (Hesterberg 2015).
    Replicates that are not finite are left out. (nan, nan) when nothing is left.
    """
    kept = np.sort(replicates[np.isfinite(replicates)])
    if not math.isfinite(value) or len(kept) < 2 or num_units < 2:
        return (math.nan, math.nan)
    below = np.searchsorted(kept, value, "left") + np.searchsorted(kept, value, "right")
    share_below = np.clip(below / (2 * len(kept)), 1 / len(kept), 1 - 1 / len(kept))
    shift = special.ndtri(share_below)
    reach = t_quantile(num_units - 1) * math.sqrt(num_units / (num_units - 1))
    ends = shift + np.array([-reach, reach])
    levels = special.ndtr(shift + ends / np.maximum(1 - acceleration * ends, 0.1))
    low, high = np.quantile(kept, levels)
    return (float(low), float(high))


def percentile_interval(replicates: Array, num_units: int) -> Interval:
    """95 % interval of a difference from its bootstrap replicates, with tails as above.

    A difference of two like systems has next to no bias or skew; correcting for them adds only the
    noise of the correction (bench/null_simulations.py covers best so).
    """
    kept = replicates[np.isfinite(replicates)]
    if len(kept) < 2 or num_units < 2:
        return (math.nan, math.nan)
    reach = t_quantile(num_units - 1) * math.sqrt(num_units / (num_units - 1))
    low, high = np.quantile(kept, special.ndtr([-reach, reach]))
    return (float(low), float(high))


def inflated_interval(value: float, replicates: Array) -> Interval:
    """95 % interval of a value >= 0 that noise alone raises, such as a calibration error.

    A resample has the noise of its sample once more, so replicates overshoot the value as the value
    overshoots the truth: by 2.4 times as much where the truth is 0 (1 / (sqrt(2) - 1)), less where
    it is large. The lower end allows for all of that, the upper for none: errs on the wide side.
    """
    kept = replicates[np.isfinite(replicates)]
    if not math.isfinite(value) or len(kept) < 2:
        return (math.nan, math.nan)
    noise = max(0.0, float(kept.mean()) - value) / (math.sqrt(2) - 1)
    reach = Z * float(kept.std(ddof=1))
    return (max(0.0, value - noise - reach), value + reach)


def acceleration_of(leave_one_out: Array) -> float:
    """Skewness term of BCa from the values with each unit left out; 0 where they don't vary."""
    kept = leave_one_out[np.isfinite(leave_one_out)]
    if len(kept) < 3:
        return 0.0
    pull = kept.mean() - kept
    spread = float((pull**2).sum())
    if spread <= 1e-30:
        return 0.0
    return float(np.clip((pull**3).sum() / (6 * spread**1.5), -0.2, 0.2))


def t_quantile(degrees: float) -> float:
    """Two-sided 95 % quantile of Student's t."""
    return float(special.stdtrit(max(degrees, 1.0), 1 - ALPHA / 2))


def wilson_interval(share: float, num_rows: float, *, z: float = Z) -> Interval:
    """Wilson's score interval of a share of num_rows rows; never of zero width (Wilson 1927)."""
    if num_rows <= 0 or not math.isfinite(share):
        return (math.nan, math.nan)
    scale = 1 + z * z / num_rows
    centre = (share + z * z / (2 * num_rows)) / scale
    reach = z / scale * math.sqrt(share * (1 - share) / num_rows + (z / (2 * num_rows)) ** 2)
    return (
        0.0 if share == 0 else max(0.0, centre - reach),
        1.0 if share == 1 else min(1.0, centre + reach),
    )


def share_interval(right: Array, units: Units) -> Interval:
    """95 % interval of the share of right rows (`right` holds 0 and 1).

    Wilson's; where rows come in groups, on the effective number of rows that the spread between
    groups leaves (Korn and Graubard 1998), and on the number of groups when no spread is seen.
    """
    num_rows = len(right)
    share = float(right.mean()) if num_rows else math.nan
    if not units.clustered or num_rows == 0:
        return wilson_interval(share, num_rows)
    if units.count < 2:
        return (0.0, 1.0)
    error = cluster_error(right - share, units)
    effective = share * (1 - share) / error**2 if error > 0 else units.count
    return wilson_interval(share, min(effective, num_rows), z=t_quantile(units.count - 1))


def cluster_error(deviations: Array, units: Units) -> float:
    """Standard error of a mean over rows that come in units; `deviations` are rows minus mean."""
    sums = units.sums(deviations)
    spread = float((sums**2).sum()) * units.count / max(units.count - 1, 1)
    return math.sqrt(spread) / len(deviations)


def paired_share_interval(difference: Array, units: Units) -> Interval:
    """95 % interval of the mean of `difference` (-1, 0 or 1 per row): a's rights less b's.

    Adjusted Wald of Bonett and Price 2012 (one row each way is added), so never of zero width;
    where rows come in groups, the same with the spread between groups and Student's t.
    """
    n = len(difference)
    ahead, behind = float((difference > 0).sum()), float((difference < 0).sum())
    if not units.clustered:
        plus, minus = (ahead + 1) / (n + 2), (behind + 1) / (n + 2)
        centre = plus - minus
        reach = Z * math.sqrt((plus + minus - centre**2) / (n + 2))
    else:
        centre = (ahead - behind) / n
        error = cluster_error(difference - centre, units)
        least = math.sqrt(2 / (units.count + 2)) / (units.count + 2)
        reach = t_quantile(units.count - 1) * max(error, least)
    return (max(-1.0, centre - reach), min(1.0, centre + reach))


def exact_mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact McNemar p-value from the rows that only a, and only b, got right."""
    fewer, both = min(only_a, only_b), only_a + only_b
    if both == 0:
        return 1.0
    return min(1.0, 2.0 * float(special.bdtr(fewer, both, 0.5)))


def randomisation_p(observed: float, replicates: Array) -> float:
    """Two-sided p-value of approximate randomisation, the observed split counted as one draw."""
    kept = replicates[np.isfinite(replicates)]
    if not math.isfinite(observed):
        return 1.0
    slack = 1e-9 * max(abs(observed), 1e-12)
    return float((1 + (np.abs(kept) >= abs(observed) - slack).sum()) / (1 + len(kept)))


def detectable_share(num_rows: int, discordance: float) -> float:
    """Smallest difference of two shares that compare() calls better or worse 4 times in 5.

    discordance: share of rows that one of the two got right and the other wrong; a difference
    cannot exceed it, so it grows with it. Solved on the exact power, for Connor's (1987) formula
    promises 80 % where the exact test delivers 77. Infinite where no difference can be found.
    """
    if share_power(num_rows, 1.0, 1.0) < POWER:
        return math.inf
    low, high = 0.0, 1.0
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        if share_power(num_rows, max(discordance, middle), middle) < POWER:
            low = middle
        else:
            high = middle
    return high


def share_power(num_rows: int, discordance: float, gain: float) -> float:
    """Chance that a gain is found: exact McNemar below .05, and an interval above zero.

    The discordant rows are binomial (num_rows, discordance); of them, those in favour are binomial
    with share (1 + gain / discordance) / 2. Summed over both, tails below 1e-9 left out.
    """
    both, chances, needed = _discordant(num_rows, discordance)
    in_favour = (1 + gain / discordance) / 2
    against = both - needed  # the most that may speak against the gain
    found = np.where(against >= 0, special.bdtr(against.clip(0), both.clip(1), 1 - in_favour), 0.0)
    return float(chances @ found)


@lru_cache(maxsize=16)
def _discordant(
    num_rows: int, discordance: float
) -> tuple[NDArray[np.int64], Array, NDArray[np.int64]]:
    """(numbers of discordant rows, the chance of each, how many must be in favour to be found)."""
    spread = 6 * math.sqrt(num_rows * discordance * (1 - discordance)) + 6
    first = max(0, math.floor(num_rows * discordance - spread))
    last = min(num_rows, math.ceil(num_rows * discordance + spread))
    both = np.arange(first, last + 1)
    chances = special.bdtr(both, num_rows, discordance)
    chances[1:] -= chances[:-1].copy()  # the first keeps its whole tail, which is next to nothing
    return both, chances, _needed_in_favour(both, num_rows)


def _needed_in_favour(both: NDArray[np.int64], num_rows: int) -> NDArray[np.int64]:
    """Of so many discordant rows, the least in favour that make a difference found."""
    against = np.floor(special.bdtrik(ALPHA / 2, both.clip(1), 0.5)).astype(np.int64)
    against += special.bdtr(against + 1, both.clip(1), 0.5) < ALPHA / 2
    against -= special.bdtr(against.clip(0), both.clip(1), 0.5) >= ALPHA / 2
    by_test = both - against
    shares = (both + 2) / (
        num_rows + 2
    )  # the interval of paired_share_interval, solved for its end
    least = Z * np.sqrt(shares / (num_rows + 2 + Z * Z))
    by_interval = np.floor((both + (num_rows + 2) * least) / 2).astype(np.int64) + 1
    return np.asarray(np.maximum(by_test, by_interval))


def rows_needed_share(gain: float, discordance: float) -> float:
    """Rows with which McNemar finds a gain in a share with 80 % power (Connor 1987).

    Approximate, and 4 to 8 % low for the exact test. discordance must be at least |gain|. Infinite
    for no gain.
    """
    if gain == 0:
        return math.inf
    spread = Z * math.sqrt(discordance) + Z_POWER * math.sqrt(max(discordance - gain**2, 0.0))
    return (spread / gain) ** 2


def detectable(standard_error: float, num_units: int) -> float:
    """Smallest difference found with 80 % power at this standard error of the difference.

    Student's t for the spread that is itself estimated, from num_units rows or groups.
    """
    if num_units < 2:
        return math.inf
    degrees = float(num_units - 1)
    reach = t_quantile(degrees) * math.sqrt(num_units / degrees)
    return (reach + float(special.stdtrit(degrees, POWER))) * standard_error


def rows_needed(gain: float, num_rows: int, minimum_detectable: float) -> float:
    """Rows with which a gain is found with 80 % power, from what num_rows rows could detect.

    The detectable difference falls with the square root of the rows. Infinite for no gain.
    """
    return math.inf if gain == 0 else num_rows * (minimum_detectable / gain) ** 2


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """p-values adjusted for being several (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(float(p) for p in adjusted)


def _chunk_sizes(num_rows: int, num_resamples: int) -> Iterator[int]:
    largest = max(1, MAX_CHUNK_BYTES // (8 * max(num_rows, 1)))
    for start in range(0, num_resamples, largest):
        yield min(largest, num_resamples - start)
