"""`tunewright check`: is this data fit to learn from?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewright.cli.options import AsJson, Overrides, check_is_file_like
from tunewright.cli.output import Answer
from tunewright.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.checking import Checkup
    from tunewright.config import Recipe
    from tunewright.records import Finding

SHOWN_ROWS = 5
SIGNS = {"error": ("red", "✕"), "warn": ("yellow", "!"), "info": ("dim", "i")}


def check(
    what: Annotated[
        str,
        typer.Argument(
            metavar="DATA|RECIPE",
            help="A recipe, or a file, folder, hub id, https URL, embedded:NAME.",
        ),
    ],
    task: Annotated[
        str | None, typer.Option(help="Where the data leaves a choice: classify, generate, ...")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 1 on any warning, not only on unfit data.")
    ] = False,
    every_row: Annotated[
        bool, typer.Option("--all", help="List every row of every finding, not the first five.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a page.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> Answer:
    """Look for what would spoil a training run, row by row, before a step is trained.

    Example:
      tunewright check tickets.csv
      tunewright check recipe.yaml --html check.html
      tunewright check embedded:support-tickets --json

    Exit status:
      0 done, the data is fit
      1 the data is unfit; or --strict, and something was found
      2 the data or recipe cannot be read
      4 our own fault
    """
    recipe = read_what(what, task, overrides or [])
    if html is not None and html.exists() and not force:
        raise UserError(f"{html}: exists already; add --force to replace it, or name another file")

    from tunewright.checking import check as look
    from tunewright.journal import ProgressJournal

    checkup = look(recipe, ProgressJournal())
    if html is not None:
        from tunewright.report_check import make_check_page
        from tunewright.store import write_atomic

        write_atomic(html, make_check_page(what, checkup.card, checkup.unfit))
    found = any(item.severity != "info" for item in checkup.findings)
    closed = bool(checkup.unfit) or (strict and found)

    def show(console: Console) -> None:
        _show(what, checkup, console, every_row=every_row)
        if html is not None:
            console.print(f"Page: {html}", markup=False, soft_wrap=True)

    document = {"data": what, "fit": not checkup.unfit, "unfit": checkup.unfit, **checkup.card}
    return Answer(document, show, exit_status=1 if closed else 0)


def read_what(what: str, task: str | None, overrides: list[str]) -> Recipe:
    """The recipe at a path, or one made up for data. Raises UserError."""
    from tunewright.config import make_recipe, parse_recipe, read_recipe

    given = [f"task={task}"] if task else []
    if Path(what).suffix.lower() in (".yaml", ".yml"):
        return read_recipe(Path(what), [*overrides, *given])
    check_is_file_like(what)
    if not overrides:
        return make_recipe({"data": {"train": what}, **({"task": task} if task else {})})
    return parse_recipe("", what, [f"data.train={what}", *given, *overrides])


def _show(what: str, checkup: Checkup, console: Console, *, every_row: bool) -> None:
    from rich.table import Table

    layout, splits = checkup.prepared.layout, checkup.prepared.splits
    labels = f", {len(layout.labels)} labels" if layout.labels else ""
    console.print(
        f"{what}: {layout.task}{labels}; {len(splits.train):,} train, "
        f"{len(splits.validation):,} validation, {len(splits.test):,} test rows",
        markup=False,
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 1, 0))
    table.add_column("", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("finding, and where: file:line (row id)", overflow="fold")
    for item in checkup.findings:
        colour, sign = SIGNS[item.severity]
        rows = f"{len(item.rows):,}" if item.rows else ""
        table.add_row(f"[{colour}]{sign}[/]", rows, _say(item, every_row=every_row))
    if checkup.findings:
        console.print(table)
    learned = checkup.card.get("learnability")
    if learned:
        console.print(_begin(learned["line"]), markup=False)
    _show_end(checkup, console)


def _say(item: Finding, *, every_row: bool) -> Any:
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
