"""ACC, BWT and FWT by hand; the gate blocks what loses and lets pass what does not."""

from __future__ import annotations

import numpy as np
import pytest

from tunewright.evaluate.forgetting import (
    judge_old_task,
    noninferiority_p,
    open_gate,
    summarise,
)


def test_the_three_figures_equal_those_by_hand():
    told = summarise([[0.9, 0.2, 0.1], [0.7, 0.8, 0.3], [0.6, 0.7, 0.95]], [0.1, 0.1, 0.2])
    assert told.acc == pytest.approx((0.6 + 0.7 + 0.95) / 3, abs=1e-9)
    assert told.bwt == pytest.approx(((0.6 - 0.9) + (0.7 - 0.8)) / 2, abs=1e-9)
    assert told.fwt == pytest.approx(((0.2 - 0.1) + (0.3 - 0.2)) / 2, abs=1e-9)
    assert summarise([[0.5]]).bwt == 0.0
    with pytest.raises(ValueError, match="one row for each task"):
        summarise([[0.5, 0.4]])


def answers(n: int, gained: int, lost: int) -> tuple[np.ndarray, np.ndarray]:
    old = np.ones(n)
    old[:gained] = 0
    new = np.ones(n)
    new[gained : gained + lost] = 0
    return old, new


def test_a_loss_is_blocked_and_no_loss_passes():
    harmless, harmful = answers(1000, 40, 42), answers(1000, 20, 70)
    gate = open_gate({"a": harmless, "b": harmful})
    assert not gate.open
    assert [task.blocked for task in gate.tasks] == [False, True]
    assert "worse beyond chance" in gate.because[0]
    assert open_gate({"a": harmless}).open
    assert open_gate({}).open


def test_too_few_rows_are_told_how_many_would_do():
    task = judge_old_task("old", *answers(60, 2, 2))
    assert task.blocked
    assert "rows would tell" in task.because
    assert task.delta == 0


def test_score_statistic_agrees_with_its_definition():
    """At the observed difference the constrained estimate is the plain one: z has no pull left."""
    assert noninferiority_p(30, 60, 1000, 0.03) == pytest.approx(0.5, abs=1e-6)
    assert noninferiority_p(50, 50, 1000, 0.03) < 0.005
    assert noninferiority_p(0, 0, 1000, 0.03) < 1e-6
    assert noninferiority_p(0, 0, 0, 0.03) == 1.0
