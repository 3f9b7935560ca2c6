"""Is the tuning worth its money? Pure functions: figures in, a decision with its doubt out.

Sources: the model of EVIDENCE section 8. Value of information: Raiffa and Schlaifer 1961 (EVPI);
EVPPI of one input by binning one set of draws (Strong and Oakley 2013 give the idea).

Letters: V requests a month, T months, N draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tunewright.metrics import stats

Array = NDArray[np.float64]
Word = Literal["GO", "PILOT", "STOP"]
SURE = 0.9
"""GO from this probability of a positive net present value; STOP up to one minus it."""
NUM_DRAWS = 20_000
BINS = 40
Z90 = 1.6449
"""Half the width of a normal 90 % interval in standard deviations."""


@dataclass(frozen=True, slots=True)
class Range:
    """A figure and the ends between which it lies with 90 % probability; equal when it is known."""

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """True when there is nothing to doubt."""
        return self.low == self.high

    def draw(self, rng: np.random.Generator, size: int) -> Array:
        """Draws: lognormal left and right of the value where all are positive, else normal."""
        if self.known:
            return np.full(size, self.value)
        z = rng.standard_normal(size)
        if min(self.low, self.value) > 0:
            down, up = math.log(self.value / self.low), math.log(self.high / self.value)
            reach = np.where(z < 0, down, up) / Z90
            return np.asarray(self.value * np.exp(z * reach))
        reach = np.where(z < 0, self.value - self.low, self.high - self.value) / Z90
        return np.asarray(self.value + z * reach)


def exactly(value: float) -> Range:
    """A figure without doubt."""
    return Range(value, value, value)


@dataclass(frozen=True, slots=True)
class Doubt:
    """A price that is known within a range, and how often an option pays it: so many times with
    each request, and once for building. The option's own sums hold it at its likely value.
    """

    name: str
    price: Range
    each: float = 0.0
    once: float = 0.0


@dataclass(frozen=True, slots=True)
class Option:
    """One way to answer requests. error: share of wrong answers. Prices in USD a million tokens.

    cached_tokens of input_tokens are read from the provider's cache. request_usd: beside tokens.
    build_usd: once. month_usd: hosting, monitoring, tuning again.
    """

    name: str
    error: float = 0.0
    input_tokens: float = 0.0
    cached_tokens: float = 0.0
    output_tokens: float = 0.0
    input_usd: float = 0.0
    cached_usd: float = 0.0
    output_usd: float = 0.0
    request_usd: float = 0.0
    build_usd: float = 0.0
    month_usd: float = 0.0
    latency_s: float = 0.0
    doubts: tuple[Doubt, ...] = ()


@dataclass(frozen=True, slots=True)
class Stakes:
    """What answers are worth. relevance: share of errors that cost anything."""

    requests: Range
    error_usd: Range
    relevance: float = 1.0
    months: int = 12
    discount: float = 0.0
    second_usd: float = 0.0
    price_spread: float = 0.0
    """Prices may turn out this share lower or higher (90 % range)."""


@dataclass(frozen=True, slots=True)
class Value:
    """One option against another at the figures as they stand."""

    request_usd: float
    month_usd: float
    npv_usd: float
    pay_back_months: float
    break_even_requests: float
    """A month; infinite where no volume pays."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of the tornado: net present value with one figure at its ends."""

    name: str
    low: float
    high: float
    npv_low: float
    npv_high: float


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict and what it rests on. probability: of a positive net present value.

    npv95: between which it lies with 95 %. information: worth of knowing each figure for certain
    before deciding, the dearest first (EVPPI); perfect_usd: of knowing all of them (EVPI).
    """

    word: Word
    against: str
    probability: float
    npv_usd: float
    npv95: tuple[float, float]
    value: Value
    break_even90: tuple[float, float]
    information: tuple[tuple[str, float], ...]
    perfect_usd: float
    tornado: tuple[Bar, ...]
    because: tuple[str, ...] = field(default=())


def request_usd(option: Option) -> float:
    """What one request costs beside errors: tokens, cached ones at their own price."""
    fresh = option.input_tokens - option.cached_tokens
    tokens = (
        fresh * option.input_usd
        + option.cached_tokens * option.cached_usd
        + option.output_tokens * option.output_usd
    )
    return tokens / 1e6 + option.request_usd


def labelling_usd(rows: float, minutes: float, usd_per_hour: float) -> float:
    """What labelling rows costs."""
    return rows * minutes / 60 * usd_per_hour


def token_training_usd(tokens: float, epochs: float, usd_per_million: float) -> float:
    """What a provider asks for training by tokens: tokens times passes times price."""
    return tokens * epochs * usd_per_million / 1e6


def electricity_usd(kwh: float, usd_per_kwh: float) -> float:
    """What the energy of a run costs."""
    return kwh * usd_per_kwh


def retuning_usd(times_per_year: float, usd_each: float) -> float:
    """What tuning again costs a month."""
    return times_per_year * usd_each / 12


def gain_per_request(new: Option, old: Option, stakes: Stakes, error_gain: float) -> float:
    """USD that the new option saves on each request; error_gain is old error minus new."""
    return (
        request_usd(old)
        - request_usd(new)
        + error_gain * stakes.relevance * stakes.error_usd.value
        + (old.latency_s - new.latency_s) * stakes.second_usd
    )


def annuity(months: int, discount: float) -> float:
    """What a dollar a month is worth today, paid at the end of each of so many months."""
    monthly = float((1.0 + discount) ** (1.0 / 12.0))
    if monthly == 1.0:
        return float(months)
    return float((1.0 - monthly**-months) / (monthly - 1.0))


def find_value(new: Option, old: Option, stakes: Stakes, error_gain: float | None = None) -> Value:
    """The new option against the old one, at the middle of every range."""
    gain = old.error - new.error if error_gain is None else error_gain
    each = gain_per_request(new, old, stakes, gain)
    fixed, running = new.build_usd - old.build_usd, new.month_usd - old.month_usd
    month = stakes.requests.value * each - running
    pay_back = fixed / month if month > 0 else math.inf
    return Value(
        request_usd=each,
        month_usd=month,
        npv_usd=month * annuity(stakes.months, stakes.discount) - fixed,
        pay_back_months=max(0.0, pay_back),
        break_even_requests=break_even(fixed, running, each, stakes.months),
    )


def break_even(fixed_usd: float, month_usd: float, each_usd: float, months: float) -> float:
    """Requests a month from which the money comes back within so many months, undiscounted."""
    wanted = fixed_usd / months + month_usd
    if wanted <= 0 and each_usd >= 0:
        return 0.0
    return wanted / each_usd if each_usd > 0 else math.inf


def error_draws(
    difference: Array, groups: Sequence[str | None] | None, size: int, seed: int
) -> Array:
    """Paired bootstrap of the mean difference of right answers (new minus old), (N,).

    difference: per row 1 where only the new one was right, -1 where only the old one was, else 0.
    Whole groups are drawn where rows come in groups. A row is added on either side of each draw's
    sums, so that few rows without a single difference still leave doubt (Agresti and Min 2005).
    """
    units = stats.find_units(groups) if groups else None
    rng = np.random.default_rng(seed)
    n = len(difference)
    if units is None or not units.clustered:
        ups, downs = float((difference > 0).sum()), float((difference < 0).sum())
        chances = np.array([ups + 0.5, downs + 0.5, n - ups - downs]) / (n + 1.0)
        counts = rng.multinomial(n, chances, size=size)
        return np.asarray((counts[:, 0] - counts[:, 1]) / n, dtype=np.float64)
    draws = [
        difference @ weights_nB / weights_nB.sum(axis=0)
        for weights_nB in stats.bootstrap_weights(units, min(size, 4000), seed)
    ]
    return np.asarray(rng.choice(np.concatenate(draws), size=size), dtype=np.float64)


def decide(
    new: Option, old: Option, stakes: Stakes, gain_draws: Array, *, seed: int = 17
) -> Decision:
    """GO, PILOT or STOP for building `new` in place of `old`.

    gain_draws: draws of old error minus new, as error_draws gives them; (N,).
    """
    rng = np.random.default_rng(seed)
    size = len(gain_draws)
    draws = {
        "error difference": gain_draws,
        "requests a month": stakes.requests.draw(rng, size),
        "cost of an error": stakes.error_usd.draw(rng, size),
        "prices": _price_range(stakes).draw(rng, size),
    }
    for doubt in (*new.doubts, *old.doubts):  # one price has one draw, whoever pays it
        if doubt.name not in draws:
            draws[doubt.name] = doubt.price.draw(rng, size)
    npv = _npv(new, old, stakes, draws)
    probability = float((npv > 0).mean())
    word: Word = "GO" if probability >= SURE else "STOP" if probability <= 1 - SURE else "PILOT"
    middle = float(np.mean(gain_draws))
    ends = np.quantile(npv, (0.025, 0.975))
    decision = Decision(
        word=word,
        against=old.name,
        probability=probability,
        npv_usd=float(npv.mean()),
        npv95=(float(ends[0]), float(ends[1])),
        value=find_value(new, old, stakes, middle),
        break_even90=_break_even_band(new, old, stakes, draws),
        information=_information(npv, draws),
        perfect_usd=max(0.0, float(np.maximum(npv, 0).mean() - max(0.0, float(npv.mean())))),
        tornado=_tornado(new, old, stakes, draws),
    )
    return replace(decision, because=tuple(_sentences(decision, stakes)))


def _price_range(stakes: Stakes) -> Range:
    spread = stakes.price_spread
    return Range(1.0, 1.0 / (1.0 + spread), 1.0 + spread) if spread else exactly(1.0)


def _each(new: Option, old: Option, stakes: Stakes, draws: Mapping[str, Array]) -> Array:
    """USD that the new option saves on each request, by draws."""
    tokens = (
        request_usd(old) - request_usd(new) + _off(old, draws, "each") - _off(new, draws, "each")
    )
    return np.asarray(
        tokens * draws["prices"]
        + draws["error difference"] * stakes.relevance * draws["cost of an error"]
        + (old.latency_s - new.latency_s) * stakes.second_usd
    )


def _fixed(new: Option, old: Option, draws: Mapping[str, Array]) -> float | Array:
    """USD that building the new option takes more, by draws."""
    return new.build_usd + _off(new, draws, "once") - old.build_usd - _off(old, draws, "once")


def _off(
    option: Option, draws: Mapping[str, Array], which: Literal["each", "once"]
) -> float | Array:
    """By how much doubtful prices move an option's sum from its middle; 0 where none is."""
    moved: float | Array = 0.0
    for doubt in option.doubts:
        times = doubt.each if which == "each" else doubt.once
        moved = moved + times * (draws[doubt.name] - doubt.price.value)
    return moved


def _npv(new: Option, old: Option, stakes: Stakes, draws: Mapping[str, Array]) -> Array:
    running = (new.month_usd - old.month_usd) * draws["prices"]
    month = draws["requests a month"] * _each(new, old, stakes, draws) - running
    worth = annuity(stakes.months, stakes.discount)
    return np.asarray(month * worth - _fixed(new, old, draws))


def _break_even_band(
    new: Option, old: Option, stakes: Stakes, draws: Mapping[str, Array]
) -> tuple[float, float]:
    """Between which the break-even volume lies with 90 %; infinite where no volume pays."""
    each = _each(new, old, stakes, draws)
    fixed = np.asarray(_fixed(new, old, draws), dtype=np.float64)
    wanted = np.broadcast_to(fixed / stakes.months + new.month_usd - old.month_usd, each.shape)
    volumes = np.full(each.shape, np.inf)
    np.divide(wanted, each, out=volumes, where=each > 0)
    volumes[wanted <= 0] = 0.0
    ranked = np.sort(volumes)
    n = len(ranked)
    return float(ranked[int(0.05 * (n - 1))]), float(ranked[int(0.95 * (n - 1))])


def _information(npv: Array, draws: Mapping[str, Array]) -> tuple[tuple[str, float], ...]:
    """Worth of knowing each doubtful figure before deciding, in USD, the dearest first."""
    blind = max(0.0, float(npv.mean()))
    worth = []
    for name, values in draws.items():
        if float(np.ptp(values)) == 0.0:
            continue
        order = np.argsort(values, kind="stable")
        means = np.array([part.mean() for part in np.array_split(npv[order], BINS)])
        sizes = np.array([len(part) for part in np.array_split(order, BINS)])
        told = float((np.maximum(means, 0.0) * sizes).sum() / sizes.sum())
        worth.append((name, max(0.0, told - blind)))
    return tuple(sorted(worth, key=lambda item: -item[1]))


def _tornado(
    new: Option, old: Option, stakes: Stakes, draws: Mapping[str, Array]
) -> tuple[Bar, ...]:
    middles = {name: np.array([np.median(values)]) for name, values in draws.items()}
    bars = []
    for name, values in draws.items():
        low, high = (float(q) for q in np.quantile(values, (0.05, 0.95)))
        if low == high:
            continue
        ends = [
            float(_npv(new, old, stakes, {**middles, name: np.array([end])})[0])
            for end in (low, high)
        ]
        if abs(ends[1] - ends[0]) < 0.005:
            continue  # it matters to nobody
        bars.append(Bar(name, low, high, *ends))
    return tuple(sorted(bars, key=lambda bar: -abs(bar.npv_high - bar.npv_low)))


def _sentences(decision: Decision, stakes: Stakes) -> list[str]:
    sure = f"{decision.probability:.1%}"
    low, high = decision.npv95
    worth = (
        f"Net present value over {stakes.months} months against {decision.against}: "
        f"{say_usd(decision.npv_usd)} ({say_usd(low)} to {say_usd(high)}); positive with "
        f"probability {sure}."
    )
    said = [worth]
    if decision.word == "PILOT" and decision.information:
        name, usd = decision.information[0]
        said.append(
            f"Find out about {name} first: knowing it before deciding is worth {say_usd(usd)}."
        )
    value = decision.value
    if math.isfinite(value.pay_back_months) and value.month_usd > 0:
        said.append(f"At the middle of all figures it pays back in {_months(value)}.")
    if math.isfinite(value.break_even_requests):
        said.append(f"Break-even at {value.break_even_requests:,.0f} requests a month.")
    else:
        said.append("No number of requests pays for it: a request saves no more than it costs.")
    return said


def _months(value: Value) -> str:
    months = value.pay_back_months
    return f"{months:.1f} months" if months >= 1 else f"{30 * months:.0f} days"


def say_usd(value: float) -> str:
    """ "-$1,250", "$0.0042"."""
    size = abs(value)
    digits = 0 if size >= 1000 else 2 if size >= 0.1 or size == 0 else 4
    return f"{'-' if value < 0 else ''}${size:,.{digits}f}"
