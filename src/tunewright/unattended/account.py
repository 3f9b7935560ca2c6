"""When errors of live traffic have cost as much as tuning again: the trigger, and the account that
it looks at, from labels where they came and from the watch without labels where they did not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tunewright.decide.retune import DAY_S, Account, Trigger, Window, add_windows
from tunewright.errors import RecipeError
from tunewright.monitor.outcomes import is_right
from tunewright.records import Request
from tunewright.watching import Eye, Watch

FEWEST_LABELS = 20
"""Labelled requests of a window from which its errors are taken from labels."""
MOST_WRONG = 0.8
"""Share of wrong answers among labelled ones above which labels are corrections, not a sample."""


def make_trigger(eye: Eye) -> Trigger:
    """What errors and tuning cost, from the recipe. Raises RecipeError where neither is told."""
    how, business = eye.recipe.retune, eye.recipe.business
    price = how.retune_usd
    if price is None and business.train_usd is not None:
        price = business.train_usd + business.evaluation_usd
    cost = eye.error_usd
    if how.every_days is None and (cost is None or price is None):
        raise RecipeError(
            "auto cannot weigh errors against tuning: set business.cost_per_error_usd and "
            "retune.retune_usd, or a schedule with retune.every_days"
        )
    return Trigger(
        error_usd=cost or 0.0,
        retune_usd=price or 0.0,
        threshold=how.threshold,
        cooldown_s=3600 * how.cooldown_hours,
        every_s=None if how.every_days is None else DAY_S * how.every_days,
    )


def account_of(
    seen: Watch, requests: Sequence[Request], eye: Eye, tuned_s: float, now_s: float
) -> Account:
    """What errors beyond the usual came to since the last tuning, window by window.

    Labels tell where a window has FEWEST_LABELS of them; else the estimate without labels, but only
    from where an alarm says that something changed: chance alone must not add up.
    """
    right = eye.lens.reference.right
    usual = 1 - float(np.nanmean(right)) if np.isfinite(right).any() else 0.0
    changed = min((alert.first_batch for alert in seen.alerts), default=None)
    windows, begin, size = [], 0, eye.recipe.watch.batch_size
    for last_batch, estimate, _ in seen.windows:
        part = requests[begin * size : (last_batch + 1) * size]
        begin = last_batch + 1
        recent = [r for r in part if r.time_s >= tuned_s]
        known = [r for r in recent if r.label is not None]
        if len(known) >= FEWEST_LABELS:
            excess = excess_errors(known, len(recent), usual)
        elif changed is not None and last_batch >= changed:
            now = estimate.value if estimate.valid else estimate.least
            excess = max(0.0, 1 - usual - now) * len(recent) if np.isfinite(now) else 0.0
        else:
            continue
        windows.append(Window(part[-1].time_s, len(recent), excess))
    return replace(add_windows(Account(tuned_s, tuned_s), windows), time_s=now_s)


def excess_errors(known: Sequence[Request], count: int, usual: float) -> float:
    """Errors beyond the usual among `count` requests, of which some have a label.

    A sample tells the rate. Where nearly all labels are corrections, people label what is wrong:
    then the errors are those that were named, and all else counts as right.
    """
    wrong = sum(1 - is_right(r) for r in known)
    if wrong > MOST_WRONG * len(known):
        return wrong - usual * count
    return (wrong / len(known) - usual) * count
