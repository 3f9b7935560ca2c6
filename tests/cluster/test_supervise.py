"""Retries, and what ends them: real processes that play ranks, without the weight of torch."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tunewright.cluster.attempt import PLACE, Attempt, new_attempt
from tunewright.cluster.command import read_hosts
from tunewright.cluster.supervise import Supervisor
from tunewright.errors import DiskFull, Interrupted, Refusal, RunError, UserError
from tunewright.journal import silence
from tunewright.store import RunFolder

RANK = """
import os, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
from tunewright.cluster.attempt import PLACE, Pulse
folder, rank = Path(os.environ[PLACE]), int(sys.argv[1])
number = int(folder.name[-4:])
pulse = Pulse(folder, rank)
def at(step, waiting=False):
    pulse.note(SimpleNamespace(stage="step", step=step), waiting)
    time.sleep(0.7)
def end(status, kind="", message=""):
    pulse.end(status, kind, message)
    os._exit(status)
def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""


class Scripts:
    """A launcher of ranks that each run a few lines."""

    def __init__(self, *lines):
        self.lines = lines
        self.children = []

    def places(self):
        return len(self.lines)

    def start(self, command, attempt):
        env = {**os.environ, PLACE: str(attempt.folder.absolute())}
        self.children = [
            subprocess.Popen([sys.executable, "-c", RANK + line, str(rank)], env=env)
            for rank, line in enumerate(self.lines)
        ]
        self.attempt = attempt
        return self

    def ended(self):
        return all(child.poll() is not None for child in self.children)

    def kill(self):
        for child in self.children:
            child.kill()

    def stop(self):
        for child in self.children:
            child.send_signal(signal.SIGTERM)


def supervise(tmp_path, *lines):
    journal = silence()
    launcher = Scripts(*lines)
    Supervisor(lambda again: [], RunFolder(tmp_path), launcher, journal).run(resume=False)
    return journal.warnings


def test_a_killed_rank_is_named_and_the_run_goes_on(tmp_path):
    first = "at(number); at(number)\nend(5, 'LostRankError') if number < 3 else end(0)"
    second = "at(number)\ndie() if number < 3 else end(0)"
    warnings = supervise(tmp_path, first, second)
    assert len(warnings) == 2
    assert "rank 1 on " in warnings[0]
    assert "killed from outside" in warnings[0]
    assert sorted(p.name for p in (tmp_path / ".launch").iterdir())[-1] == "attempt-0003"


def test_a_step_that_fails_three_times_ends_it(tmp_path):
    with pytest.raises(Interrupted, match="step 7 failed 3 times.*ZeroDivisionError"):
        supervise(tmp_path, "at(7)\nend(4, 'ZeroDivisionError', 'division by zero')")


@pytest.mark.parametrize(
    ("ending", "error"),
    [
        ("end(2, 'RunError', 'rank 1 on b: other data')", RunError),
        ("end(1, 'Refusal', 'will not fit')", Refusal),
        ("end(3, 'DiskFull', 'no space left')", DiskFull),
        ("end(3, 'Interrupted', 'stopped at step 3')", Interrupted),
    ],
)
def test_what_is_no_failure_is_not_tried_again(tmp_path, ending, error):
    with pytest.raises(error):
        supervise(tmp_path, ending, "end(5, 'LostRankError')")
    assert len(list((tmp_path / ".launch").iterdir())) == 1


def test_a_stopped_process_is_found_and_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("tunewright.cluster.watch.SILENT_S", 2.0)
    stop = "at(2)\nos.kill(os.getpid(), signal.SIGSTOP) if number == 1 else end(0)"
    wait = "while number == 1: at(2, True)\nend(0)"
    began = time.monotonic()
    warnings = supervise(tmp_path, wait, stop)
    assert "rank 1 on " in warnings[0]
    assert "stalls at step 2" in warnings[0]
    assert time.monotonic() - began < 30


def test_ctrl_c_stops_all_ranks_and_is_resumable(tmp_path):
    rank = ("signal.signal(signal.SIGTERM, lambda *_: end(3, 'Interrupted', 'stopped at step 1'))\n"
            "while True: at(1)")  # fmt: skip
    folder = tmp_path / ".launch" / "attempt-0001"

    def press():
        while len(list(folder.glob("*.beat"))) < 2:
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(Interrupted, match="stopped at step 1"):
        supervise(tmp_path, rank, rank)
    assert {e.status for e in Attempt(folder).endings().values()} == {3}


def test_ranks_of_an_attempt_that_was_given_up_leave(tmp_path):
    attempt = new_attempt(tmp_path)
    child = Scripts("while True: at(1)").start([], attempt).children[0]
    while not attempt.beats():
        time.sleep(0.05)
    attempt.give_up()
    assert child.wait(10) == 6


def test_folders_of_old_attempts_go(tmp_path):
    names = [new_attempt(tmp_path, keep=2).folder.name for _ in range(5)]
    assert names[-1] == "attempt-0005"
    assert sorted(p.name for p in tmp_path.iterdir()) == names[-3:]


def test_hosts_are_read():
    assert [(h.name, h.address) for h in read_hosts("a=10.0.0.1, b")] == [
        ("a", "10.0.0.1"),
        ("b", "b"),
    ]
    for wrong in ("a,,b", "a,a=1"):
        with pytest.raises(UserError, match="--hosts"):
            read_hosts(wrong)
