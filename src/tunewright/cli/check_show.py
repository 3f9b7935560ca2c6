"""How `tunewright check` shows what it found, on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tunewright.checking import Checkup
    from tunewright.cleaning import Written
    from tunewright.records import Finding

SHOWN_ROWS = 5
SIGNS = {"error": ("red", "✕"), "warn": ("yellow", "!"), "info": ("dim", "i")}


def show_checkup(what: str, checkup: Checkup, console: Console, *, every_row: bool) -> None:
    """The findings as a table with file, line and row id, and what they come to."""
    layout, splits = checkup.prepared.layout, checkup.prepared.splits
    labels = f", {len(layout.labels)} labels" if layout.labels else ""
    console.print(
        f"{what}: {layout.task}{labels}; {len(splits.train):,} train, "
        f"{len(splits.validation):,} validation, {len(splits.test):,} test rows",
        markup=False,
        soft_wrap=True,
    )
    if checkup.findings:
        console.print(make_table(checkup.findings, every_row=every_row))
    for name, value in checkup.card.get("preflight", {}).items():
        console.print(f"{_begin(name)}: {value}", markup=False)
    learned = checkup.card.get("learnability")
    if learned:
        console.print(_begin(learned["line"]), markup=False)
    _show_end(checkup, console)


def make_table(findings: Sequence[Finding], *, every_row: bool) -> Table:
    """Findings as a table: sign, number of rows, what and where."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 1, 0))
    table.add_column("", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("finding, and where: file:line (row id)", overflow="fold")
    for item in findings:
        colour, sign = SIGNS[item.severity]
        rows = f"{len(item.rows):,}" if item.rows else ""
        table.add_row(f"[{colour}]{sign}[/]", rows, _say(item, every_row=every_row))
    return table


def _say(item: Finding, *, every_row: bool) -> Text:
    """Kind, message, and the rows concerned with what is suggested for them."""
    from rich.text import Text

    text = Text(f"{item.kind.replace('_', ' ')}: ", style="bold")
    text.append(item.message, style="not bold")
    shown = item.places if every_row else item.places[:SHOWN_ROWS]
    for number, place in enumerate(shown):
        text.append("\n" if number == 0 else ", ", style="not bold")
        text.append(f"{place} ({item.rows[number]})", style="not bold dim")
        if number < len(item.suggestions) and item.suggestions[number]:
            text.append(f" → {item.suggestions[number][:60]}", style="not bold dim")
        if number < len(item.counterparts) and item.counterparts[number]:
            text.append(f" ~ {item.counterparts[number]}", style="not bold dim")
    if len(item.places) > len(shown):
        text.append(f", {len(item.places) - len(shown):,} more (--all)", style="not bold dim")
    return text


def _show_end(checkup: Checkup, console: Console) -> None:
    counts = dict.fromkeys(SIGNS, 0)
    for item in checkup.findings:
        counts[item.severity] += 1
    if checkup.unfit:
        console.print(
            f"[bold red]Unfit to learn from[/]: {len(checkup.unfit)} of these must go first."
        )
    elif counts["warn"]:
        console.print(f"Fit to learn from, with {counts['warn']} warnings to look at.")
    else:
        console.print("Fit to learn from.")


def _begin(text: str) -> str:
    return text[:1].upper() + text[1:]


def show_written(written: Written, console: Console) -> None:
    """What a clean copy holds and lacks, and the way back."""
    console.print(
        f"Written: {written.target}: {written.kept:,} rows as they were, {written.changed:,} "
        f"changed, "
        f"{written.dropped:,} left out",
        markup=False,
        soft_wrap=True,
    )
    for kind, times in written.by_kind.items():
        console.print(f"  {times:,} {kind.replace('_', ' ')}", markup=False)
    console.print(f"Every row and its reason: {written.dropped_file}", markup=False, soft_wrap=True)
    console.print(
        f"Undo:    tunewright check {written.target} --undo", markup=False, soft_wrap=True
    )
