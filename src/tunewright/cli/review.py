"""The terminal review of `check --review`: row by row, keep, drop or relabel; stops and goes on."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunewright.cleaning import SURE_KINDS, Decision, add_decision, read_decisions

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.records import Example, Finding

SHOWN_CHARS = 1200
ABOUT_ALL = frozenset({"tiny_class", "class_too_small", "split_by_row"})
"""Findings that no decision about a single row can mend."""
HELP = "[k]eep  [d]rop  [r LABEL] relabel  [a]ccept suggestion  [s]kip for now  [q]uit"


@dataclass(frozen=True, slots=True)
class Item:
    """One row to decide on, and what the finding says of it."""

    kind: str
    message: str
    place: str
    id: str
    suggestion: str
    counterpart: str


def review(
    findings: Sequence[Finding],
    examples: Mapping[str, Example],
    labels: Sequence[str],
    decisions_file: Path,
    console: Console,
) -> dict[str, int]:
    """Ask about every row that a warning names and nobody decided yet; how many were decided how.

    examples: by place. Each decision is written down before the next row is shown. End of input
    and `q` stop; the next review goes on there.
    """
    done = {(item.place, item.kind) for item in read_decisions(decisions_file)}
    items = [item for item in list_items(findings) if (item.place, item.kind) not in done]
    counts = {"keep": 0, "drop": 0, "relabel": 0, "left": len(items), "before": len(done)}
    if done:
        console.print(f"{len(done)} rows decided before; going on.")
    for number, item in enumerate(items, 1):
        _show(item, number, len(items), examples, console)
        decision = _ask(item, labels, console)
        if decision is None:
            break
        if decision.decision == "skip":
            continue
        add_decision(decisions_file, decision)
        counts[decision.decision] += 1
        counts["left"] -= 1
    return counts


def list_items(findings: Sequence[Finding]) -> list[Item]:
    """The rows of warnings, one item a row and kind; rows that go unasked are left out."""
    items: dict[tuple[str, str], Item] = {}
    for finding in findings:
        calm = finding.severity == "info" and not any(finding.suggestions)
        if calm or finding.dropped or finding.kind in SURE_KINDS or finding.kind in ABOUT_ALL:
            continue
        for number, place in enumerate(finding.places):
            item = Item(
                finding.kind,
                finding.message.partition(" (first")[0],
                place,
                finding.rows[number],
                finding.suggestions[number] if number < len(finding.suggestions) else "",
                finding.counterparts[number] if number < len(finding.counterparts) else "",
            )
            items.setdefault((place, finding.kind), item)
    return list(items.values())


def _show(
    item: Item, number: int, total: int, examples: Mapping[str, Example], console: Console
) -> None:
    example = examples.get(item.place)
    console.rule(f"{number} of {total}: {item.kind.replace('_', ' ')}")
    console.print(f"{item.place} ({item.id})", style="dim", markup=False)
    if example is not None:
        console.print(example.input[:SHOWN_CHARS], markup=False)
        console.print(f"= {str(example.output)[:SHOWN_CHARS]}", style="bold", markup=False)
    if item.suggestion:
        console.print(f"suggested: {item.suggestion}", style="green", markup=False)
    beside = examples.get(item.counterpart)
    if item.counterpart:
        text = f": {beside.input[:SHOWN_CHARS]} = {beside.output}" if beside is not None else ""
        console.print(f"beside {item.counterpart}{text}", style="dim", markup=False)


def _ask(item: Item, labels: Sequence[str], console: Console) -> Decision | None:
    """The decision typed for a row; None to stop. "skip" decides nothing."""
    while True:
        console.print(HELP, style="dim", markup=False)
        line = sys.stdin.readline()
        if not line:
            return None
        word, _, rest = line.strip().partition(" ")
        if word in ("q", "quit"):
            return None
        if word in ("s", "skip", "k", "keep", "d", "drop"):
            decision = {"s": "skip", "k": "keep", "d": "drop"}[word[0]]
            return Decision(item.place, item.id, item.kind, decision)
        label = rest.strip() if word in ("r", "relabel") else ""
        if word in ("a", "accept", ""):
            label = item.suggestion
        if label and (not labels or label in labels):
            return Decision(item.place, item.id, item.kind, "relabel", label)
        _complain(word, label, labels, console)


def _complain(word: str, label: str, labels: Sequence[str], console: Console) -> None:
    import difflib

    if label:
        near = difflib.get_close_matches(label, labels, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        console.print(f"no label {label!r} in the data{hint}", markup=False)
    elif word in ("a", "accept", ""):
        console.print("there is no suggestion for this row", markup=False)
    else:
        console.print(f"{word!r} is none of these", markup=False)
