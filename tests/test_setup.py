"""The set-up files agree with each other: what is declared is pinned, what CI calls exists."""

import os
import re
import tomllib
from pathlib import Path

REPO = Path(__file__).parents[1]
PIN = re.compile(r"([A-Za-z0-9][\w.-]*)==(\d[\w.]*)")


def pins():
    lines = (REPO / "constraints.txt").read_text().splitlines()
    return dict(PIN.fullmatch(line).groups() for line in lines if not line.startswith("#"))


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_constraints_are_plain_pins():
    """No local builds, paths or index hosts: the file must work with any package index."""
    lines = (REPO / "constraints.txt").read_text().splitlines()
    assert not [line for line in lines if not line.startswith("#") and not PIN.fullmatch(line)]
    assert pins()["torch"] == "2.13.0"
    names = [plain(name) for name in pins()]
    assert len(names) == len(set(names))


def test_every_declared_dependency_is_pinned():
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {plain(re.match(r"[\w.-]+", item).group()) for item in declared}
    assert names <= {plain(name) for name in pins()}


def test_ci_runs_make_test():
    script = REPO / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    assert "make test" in text


def test_every_make_target_in_the_docs_exists():
    rules = (REPO / "Makefile").read_text()
    targets = set(re.findall(r"(?m)^([a-z-]+):", rules))
    for path in [REPO / "README.md", REPO / "CONTRIBUTING.md", REPO / "bench" / "README.md"]:
        used = set(re.findall(r"`make ([a-z-]+)", path.read_text()))
        assert used <= targets, path
