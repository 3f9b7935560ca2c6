"""Replay is balanced by class, nested and repeatable."""

from __future__ import annotations

from collections import Counter

from tunewright.data.replay import choose_replay, is_held_out
from tunewright.records import Example


def rows() -> list[Example]:
    sizes = {"common": 900, "some": 90, "rare": 10}
    return [Example(f"{label}-{n}", "x", f"text {label} {n}", label)
            for label, size in sizes.items() for n in range(size)]  # fmt: skip


def test_classes_get_equal_shares_as_far_as_they_go():
    chosen = choose_replay(rows(), 0.15)
    counts = Counter(row.output for row in chosen)
    assert counts == {"rare": 10, "some": 70, "common": 70}
    assert choose_replay(rows(), 0.15) == chosen


def test_more_holds_less_and_ends_are_ends():
    few, many = choose_replay(rows(), 0.05), choose_replay(rows(), 0.3)
    assert {row.id for row in few} < {row.id for row in many}
    assert choose_replay(rows(), 0) == []
    assert choose_replay(rows(), 1.0) == rows()


def test_held_out_rows_depend_on_the_text_alone():
    held = [row for row in rows() if is_held_out(row, 0.2)]
    assert 150 < len(held) < 250
    again = Example("other id", "y", f"  {held[0].input.upper()} ", "another label")
    assert is_held_out(again, 0.2)
