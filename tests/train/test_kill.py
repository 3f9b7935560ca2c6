"""A run that is killed at random moments ends in the same bits as one that is left alone."""

from __future__ import annotations

import os
import random
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from train.kill_harness import (
    MUTANTS,
    Kill,
    Played,
    differences,
    is_caught,
    play,
    play_mutant,
    random_kills,
)
from train.tiny_runs import Setting, make_matrix

KILLS = 100


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Forked children must not meet a thread pool that did not come along."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def undisturbed(place) -> dict[Setting, Played]:
    played = {setting: play(setting, place / "whole") for setting in make_matrix()}
    assert not [p.error for p in played.values() if p.outcome is None]
    return played


def test_an_undisturbed_run_repeats_itself(place, undisturbed):
    for setting, whole in list(undisturbed.items())[::5]:
        again = play(setting, place / "again")
        assert differences(whole.outcome, again.outcome) == []


def test_the_runs_use_what_can_go_wrong(undisturbed):
    """Runs that stop early and runs that do not, best steps before the end, several saves each."""
    endings = [played.outcome["ending"] for played in undisturbed.values()]
    assert len({ended for *_, ended in endings}) == 2
    assert sum(best < steps for steps, best, *_ in endings) >= 4
    assert all(len(played.deaths[0].saves) >= 5 for played in undisturbed.values())
    assert len({played.outcome["weights"] for played in undisturbed.values()}) == 10


def test_workers_do_not_change_a_bit(undisturbed):
    settings = list(undisturbed)
    for without, with_two in zip(settings[::2], settings[1::2], strict=True):
        assert replace(without, num_workers=2) == with_two
        assert differences(undisturbed[without].outcome, undisturbed[with_two].outcome) == []


def test_a_hundred_kills_leave_no_trace(place, undisturbed):
    """LoRA and full, fp32 and bf16, 0 and 2 workers, packed; at least 15 % inside a save."""
    dice = random.Random(29)
    settings = list(undisturbed)
    kills = inside = number = 0
    while kills < KILLS or number < len(settings):
        setting = settings[number % len(settings)]
        whole = undisturbed[setting]
        played = play(setting, place / "killed", random_kills(dice, whole))
        number += 1
        assert played.outcome is not None, f"{setting.name}: {played.error}"
        assert differences(whole.outcome, played.outcome) == [], setting.name
        assert played.outcome["warnings"] == [], setting.name  # never a damaged checkpoint
        kills += played.kills
        inside += played.kills_inside_save
    assert inside >= 0.15 * kills


def test_a_polite_stop_saves_and_resumes_to_the_same_bits(place, undisturbed):
    dice = random.Random(3)
    stopped = 0
    for setting in list(undisturbed)[::3]:
        whole = undisturbed[setting]
        seconds = whole.deaths[0].seconds

        def kills(start: int, most: float = seconds) -> Kill | None:
            at = dice.uniform(0.3, 0.8) * most
            return Kill(at, number=signal.SIGTERM) if start < 2 else None

        for _ in range(5):  # on a busy machine the stop may come before fit listens: then again
            played = play(setting, place / "stopped", kills)
            if played.error != f"status -{int(signal.SIGTERM)}":
                break
        assert played.outcome is not None, f"{setting.name}: {played.error}"
        assert differences(whole.outcome, played.outcome) == [], setting.name
        stopped += sum(death.status == 3 for death in played.deaths)
    assert stopped >= 3


@pytest.fixture(scope="module")
def whole_of(place) -> dict[str, tuple[Setting, Played]]:
    plain = Setting("bert", "full", "fp32", 0)
    patient = replace(plain, patience=2)
    made = {setting: (setting, play(setting, place / "whole")) for setting in (plain, patient)}
    return {name: made[patient if name == "best forgotten" else plain] for name in MUTANTS}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_resume_is_caught(place, whole_of, mutant):
    setting, whole = whole_of[mutant]
    dice = random.Random(7)
    caught = [play_mutant(setting, place / "mutant", mutant, whole, dice) for _ in range(4)]
    assert sum(caught) >= (2 if mutant == "save in place" else 3), caught


def test_mutants_that_nobody_kills_end_as_the_original_does(place, whole_of):
    """So what the tests above catch is the resume, not some other change."""
    for mutant, (setting, whole) in whole_of.items():
        if mutant != "random state lost":  # it draws other dropout from the first step on
            assert not is_caught(play(setting, place / "mutant", mutant=mutant), whole), mutant
