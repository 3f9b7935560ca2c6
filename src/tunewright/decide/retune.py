"""When tuning again is worth its money: errors have cost more than usual by as much as it costs.

Waiting costs what the excess errors cost; tuning costs once. Acting when the first has reached the
second never costs more than twice what the best would have in hindsight (the ski-rental argument:
Karlin et al. 1988), whatever comes next, and holds back where tuning is dear.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

Why = Literal["errors", "schedule", "not yet", "cooling down", "no cost"]
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Trigger:
    """error_usd: what a wrong answer costs. retune_usd: what tuning again costs, labels included.

    threshold: how many times retune_usd the excess must have cost. cooldown_s: seconds between two
    tunings at least. every_s: also by schedule, None for never.
    """

    error_usd: float
    retune_usd: float
    threshold: float = 1.0
    cooldown_s: float = DAY_S
    every_s: float | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """Requests of some time: errors beyond those of the reference, as labels or estimates tell."""

    time_s: float
    requests: int
    excess_errors: float


@dataclass(frozen=True, slots=True)
class Account:
    """What excess errors have cost since the last tuning. excess_errors never falls below zero:
    a good day does not pay for a bad month.
    """

    tuned_s: float
    time_s: float
    excess_errors: float = 0.0
    requests: int = 0
    windows: int = 0
    recent: tuple[Window, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Timing:
    """Tune now, or why not yet. until_requests: requests until it will be worth it at this rate,
    None where errors are not rising.
    """

    now: bool
    why: Why
    because: str
    spent_usd: float
    needed_usd: float
    until_requests: float | None


KEPT_WINDOWS = 20


def add_window(account: Account, window: Window) -> Account:
    """The account after one more window of traffic."""
    return replace(
        account,
        time_s=window.time_s,
        excess_errors=max(0.0, account.excess_errors + window.excess_errors),
        requests=account.requests + window.requests,
        windows=account.windows + 1,
        recent=(*account.recent, window)[-KEPT_WINDOWS:],
    )


def add_windows(account: Account, windows: Iterable[Window]) -> Account:
    """The account after several windows."""
    for window in windows:
        account = add_window(account, window)
    return account


def decide_retune(account: Account, trigger: Trigger) -> Timing:
    """Whether to tune again now."""
    spent = account.excess_errors * trigger.error_usd
    needed = trigger.threshold * trigger.retune_usd
    age = account.time_s - account.tuned_s
    until = _until(account, trigger, needed - spent)
    told = f"errors beyond the usual have cost ${spent:,.2f}; tuning again costs ${needed:,.2f}"
    if trigger.threshold != 1:
        told += f" ({trigger.threshold:g} times ${trigger.retune_usd:,.2f})"

    def timing(now: bool, why: Why, because: str) -> Timing:
        return Timing(now, why, because, spent, needed, until)

    if trigger.every_s is not None and age >= trigger.every_s:
        return timing(True, "schedule", f"{age / DAY_S:.1f} days since the last tuning; {told}")
    if spent >= needed and account.excess_errors > 0:
        if age < trigger.cooldown_s:
            left = (trigger.cooldown_s - age) / 3600
            return timing(False, "cooling down", f"{told}; {left:.1f} hours of cool-down are left")
        return timing(True, "errors", told)
    if trigger.error_usd <= 0:
        return timing(False, "no cost", "an error costs nothing, so no error is worth mending")
    if until is not None:
        told += f"; at this rate in {until:,.0f} requests"
    return timing(False, "not yet", told)


def _until(account: Account, trigger: Trigger, missing_usd: float) -> float | None:
    """Requests until `missing_usd` more is lost at the rate of the recent windows."""
    lost = sum(window.excess_errors for window in account.recent) * trigger.error_usd
    count = sum(window.requests for window in account.recent)
    if lost <= 0 or count == 0:
        return None
    return max(0.0, missing_usd) / (lost / count)
