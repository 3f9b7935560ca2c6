"""A probe is a process of its own; what goes wrong in it comes back in words."""

import subprocess

import pytest

from tunewright import probing
from tunewright.config import parse_recipe
from tunewright.errors import Refusal, RunError, UserError
from tunewright.journal import Journal


class Child:
    """Stands for a child process that ended in some way, without running one."""

    def __init__(self, status, said=""):
        self.returncode, self.said = status, said

    def communicate(self, timeout):
        return self.said, None


def test_a_mistake_in_the_child_is_the_users(tmp_path):
    recipe = parse_recipe("base_model: nowhere/\ndata: {train: embedded:support-tickets}\n", "x")
    with pytest.raises(UserError, match="no such folder"):
        probing.probe(recipe, Journal(), steps=2)


def test_a_child_killed_for_memory_is_a_no(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: Child(-9))
    with pytest.raises(Refusal, match="for want of memory"):
        probing.probe(parse_recipe("task: classify\n", "x"), Journal())


def test_a_child_that_breaks_is_told_with_its_last_line(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: Child(1, "one\nlast words\n"))
    with pytest.raises(RunError, match="last words"):
        probing.probe(parse_recipe("task: classify\n", "x"), Journal())
