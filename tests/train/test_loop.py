"""Which weights a run ends with: the best look's, never those of a look that is not a number."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from train.tiny_runs import Setting, make_tiny_run
from tunewright.journal import Journal
from tunewright.train.loop import fit

SETTING = Setting("bert", "full", "fp32", 0)
LOOKS = (4, 8, 12, 16, 20)


@pytest.fixture
def play(tmp_path):
    """Train with the given values as what validation says; (fitted, weights at every look)."""

    def call(*values, patience=None, setting=SETTING):
        tiny = make_tiny_run(setting)
        model = copy.deepcopy(tiny.model)
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        seen = []

        def evaluate():
            seen.append({name: p.detach().clone() for name, p in named})
            return values[len(seen) - 1], 1.0, {}

        fitted = fit(
            model, named, tiny.rows, replace(tiny.plan, fitted_start=False),
            tiny.config.model_copy(update={"early_stopping_patience": patience}),
            objective=tiny.objective, evaluate=evaluate, checkpoints=tmp_path / "checkpoints",
            log_step=lambda step: None, log_evaluation=lambda look: None,
            forget_after=lambda step: None, journal=Journal(),
        )  # fmt: skip
        return fitted, dict(zip(LOOKS, seen, strict=False)), dict(named)

    return call


def equal(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def test_the_best_weights_come_back_and_a_look_that_is_no_number_is_never_best(play):
    fitted, seen, model = play(0.1, math.nan, 0.5, 0.3, math.nan)
    assert (fitted.steps, fitted.best_step, fitted.ended) == (20, 12, "all steps taken")
    assert [look.best for look in fitted.evaluations] == [True, False, True, False, False]
    assert equal(seen[12], model) and not equal(seen[20], model)
    assert equal(seen[12], fitted.weights)


def test_patience_counts_looks_without_a_gain_and_numbers_alone_are_gains(play):
    fitted, seen, model = play(0.5, 0.4, math.nan, patience=2)
    assert (fitted.steps, fitted.best_step) == (12, 4)
    assert fitted.ended == "no better for 2 evaluations"
    assert equal(seen[4], model)


def test_without_one_good_number_the_last_weights_stay(play):
    fitted, seen, model = play(*[math.nan] * 5)
    assert (fitted.steps, fitted.best_step) == (20, 20)
    assert equal(seen[20], model)


def test_averaged_weights_are_what_is_judged_and_kept(play):
    fitted, seen, model = play(0.1, 0.2, 0.9, 0.3, 0.4, setting=replace(SETTING, ema=0.9))
    assert fitted.best_step == 12
    assert equal(seen[12], model)
    _, plain, _ = play(0.1, 0.2, 0.9, 0.3, 0.4)
    assert not equal(seen[12], plain[12])
