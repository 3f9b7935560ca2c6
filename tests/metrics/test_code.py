"""Answers that are code: same meaning, or at least something that parses."""

import importlib.util

import pytest

from tunewright.metrics.table import measure
from tunewright.records import Prediction


def answers(*pairs):
    return [
        Prediction(str(i), "test", "tuned", "", reference, answer)
        for i, (answer, reference) in enumerate(pairs)
    ]


def test_regular_expressions_are_right_by_what_they_match():
    rows = answers(("[ab]+", "(a|b)(a|b)*"), ("a", "a"), ("a*", "a+"), ("a(", "a"))
    assert measure(rows, ["regex_equal", "exact_match"], ()) == {
        "regex_equal": 0.5, "exact_match": 0.25,
    }  # fmt: skip


def test_json():
    rows = answers(('{"a": 1}', ""), ("{'a': 1}", ""), ("", ""), ("[" * 99_999, ""))
    assert measure(rows, ["json_valid"], ()) == {"json_valid": 0.25}


@pytest.mark.skipif(
    importlib.util.find_spec("tree_sitter_bash") is None, reason="tree-sitter-bash is missing"
)
def test_bash():
    rows = answers(
        ("find . -name '*.py' | xargs wc -l", ""), ("for f in *; do echo $f; done", ""),
        ("for f in *; do echo", ""), ("echo 'never closed", ""), ("", ""),
    )  # fmt: skip
    assert measure(rows, ["bash_valid"], ()) == {"bash_valid": 0.4}


def test_pass_at_k_is_the_share_of_choices_that_hold_a_right_one() -> None:
    from itertools import combinations

    from tunewright.metrics.code import pass_at_k

    for right in range(6):
        answers = [True] * right + [False] * (5 - right)
        for k in range(1, 6):
            chosen = list(combinations(answers, k))
            assert pass_at_k(right, 5, k) == pytest.approx(sum(map(any, chosen)) / len(chosen))
