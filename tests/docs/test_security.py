"""docs/security.md: every kind of hole is answered by tests that exist, and no name is made up."""

import ast
import re
from pathlib import Path

REPO = Path(__file__).parents[2]
PAGE = (REPO / "docs" / "security.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (S\d+) \| (.*) \| (.*) \|$", re.MULTILINE)


def names_in(path):
    tree = ast.parse((REPO / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_all_eighteen_are_answered_by_named_tests():
    rows = {number: tests for number, _, tests in ROW.findall(PAGE)}
    assert list(rows) == [f"S{n}" for n in range(1, 19)]
    for number, tests in rows.items():
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
        assert named, number
        for path, name in named:
            assert name in names_in(path), f"{number}: {path}::{name}"


def test_every_file_of_tests_that_the_page_names_exists():
    for path in re.findall(r"`(tests/[\w/]+\.py)`", PAGE):
        assert (REPO / path).is_file(), path


def test_the_holes_tests_stand_in_the_table():
    """A test of a hole that is not in the table would be lost to whoever reads it."""
    ours = {name for name in names_in("tests/test_holes.py") if name.startswith("test_S")}
    numbers = {number for name in ours for number in re.findall(r"S\d+", name)}
    assert numbers == {f"S{n}" for n in range(1, 19)}
