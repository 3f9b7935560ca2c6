"""Tuning again is worth it when errors have cost what it costs, and not before."""

from __future__ import annotations

import pytest

from tunewright.decide.retune import Account, Trigger, Window, add_windows, decide_retune

TRIGGER = Trigger(error_usd=2.0, retune_usd=100.0, cooldown_s=3600.0)


def account(*excess: float) -> Account:
    windows = [Window(4000.0 * n, 100, errors) for n, errors in enumerate(excess, 1)]
    return add_windows(Account(0.0, 0.0), windows)


def test_it_waits_until_the_excess_has_cost_as_much():
    early = decide_retune(account(10, 10, 10), TRIGGER)
    assert (early.now, early.why) == (False, "not yet")
    assert early.spent_usd == pytest.approx(60)
    assert early.until_requests == pytest.approx(200)
    due = decide_retune(account(10, 10, 10, 10, 10), TRIGGER)
    assert (due.now, due.why) == (True, "errors")


def test_good_days_do_not_pay_for_bad_ones():
    assert account(-50, 30).excess_errors == 30
    assert account(30, -50).excess_errors == 0
    assert decide_retune(account(-5, -5), TRIGGER).until_requests is None


def test_cooldown_schedule_and_errors_that_cost_nothing():
    soon = add_windows(Account(0.0, 0.0), [Window(10.0, 100, 90)])
    assert decide_retune(soon, TRIGGER).why == "cooling down"
    planned = Trigger(2.0, 1e9, cooldown_s=0, every_s=8000.0)
    assert decide_retune(account(0, 0), planned).why == "schedule"
    assert decide_retune(account(50), Trigger(0.0, 100.0)).why == "no cost"


def test_a_threshold_of_two_waits_twice_as_long():
    patient = Trigger(2.0, 100.0, threshold=2.0, cooldown_s=0)
    assert not decide_retune(account(60), patient).now
    assert decide_retune(account(60, 60), patient).now
