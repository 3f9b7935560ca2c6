"""`tunewright release`: versions of tuned models, from candidate to production and back."""

from __future__ import annotations

import getpass
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewright.cli.options import AsJson, Server, open_server
from tunewright.cli.output import Answer
from tunewright.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.releases.board import Release

COLOURS = {"production": "green", "canary": "yellow", "shadow": "cyan"}


def list_(
    name: Annotated[str | None, typer.Argument(help="Of this release only.")] = None,
    server: Server = None,
    as_json: AsJson = False,
) -> Answer:
    """List releases: version, stage, run, deciding score, when.

    Example:
      tunewright release list
      tunewright release list support --json

    Exit status:
      0 done
      2 the server's database cannot be opened
      4 our own fault
    """
    from tunewright.releases.board import list_moves, list_releases

    with closing(open_server(server)) as database:
        found = list_releases(database, name)
        moves = list_moves(database, name, most=20)

    def show(console: Console) -> None:
        if found:
            _print_table(found, console)
        else:
            console.print("No releases; start with: tunewright release promote RUN --name NAME",
                          markup=False)  # fmt: skip

    return Answer({"releases": [_plain(item) for item in found], "moves": moves}, show)


def promote(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="NAME, NAME@VERSION, or a run.")],
    name: Annotated[
        str | None, typer.Option("--name", help="For a run: the release it becomes a version of.")
    ] = None,
    to: Annotated[
        str, typer.Option("--to", help="candidate, shadow, canary, production or archived.")
    ] = "production",
    share: Annotated[
        float | None, typer.Option("--share", help="Of requests, for a canary; default 0.1.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DATA", help="Compare with the champion on these rows."),
    ] = None,
    server: Server = None,
    as_json: AsJson = False,
) -> Answer:
    """Put a version on a stage. Canary and production stand behind a gate.

    The gate opens for what answers after export as it was trained, and is not worse than what is
    in production in a paired test. A running server takes the new version up by itself, and ends
    what it answers with the old one.

    Example:
      tunewright release promote runs/tickets --name support
      tunewright release promote support@2 --to canary --share 0.05

    Exit status:
      0 done
      1 the gate stays closed
      2 no such run or version
      4 our own fault
    """
    from tunewright.journal import ConsoleJournal
    from tunewright.releases.board import STAGES
    from tunewright.releases.story import enter_run, find_version
    from tunewright.releases.story import promote as put

    stage = next((known for known in STAGES if known == to), None)
    if stage is None:
        raise UserError(f"--to {to}: unknown; use one of {', '.join(STAGES)}")
    with closing(open_server(server)) as database:
        if Path(what).is_dir():
            release = enter_run(database, Path(what), name, who=_who())
        elif name is not None:
            raise UserError(f"{what}: no such run folder; --name goes with a run")
        else:
            release = find_version(database, what)
        done = put(database, release, stage, ConsoleJournal(), who=_who(), share=share, data=data)

    def show(console: Console) -> None:
        console.print(f"{done.id} is in {done.stage}{_share(done)}", markup=False)
        for check in done.gate:
            console.print(f"  {check['name']}: {check['says']}", markup=False, soft_wrap=True)

    return Answer(_plain(done), show)


def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The release.")],
    server: Server = None,
    as_json: AsJson = False,
) -> Answer:
    """Bring back the version that was in production before; a canary ends.

    Example:
      tunewright release rollback support

    Exit status:
      0 done
      2 nothing was in production before
      4 our own fault
    """
    from tunewright.releases.board import roll_back

    with closing(open_server(server)) as database:
        done = roll_back(database, name, who=_who())
    return Answer(_plain(done), lambda console: console.print(f"{done.id} is in production again"))


def make_group() -> typer.Typer:
    """The group of commands."""
    group = typer.Typer(help="Versions of tuned models: list, promote, roll back.",
                        no_args_is_help=True)  # fmt: skip
    for command in (list_, promote, rollback):
        group.command(command.__name__.rstrip("_"))(command)
    return group


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user of that number
        return "command line"


def _plain(release: Release) -> dict[str, Any]:
    from tunewright.store import to_plain

    return {"id": release.id, **to_plain(release)}


def _share(release: Release) -> str:
    return f", {100 * release.share:g} % of requests" if release.share else ""


def _print_table(found: list[Release], console: Console) -> None:
    from datetime import datetime

    from rich.table import Table

    from tunewright.figures import metric_title, show_value

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("release", "stage", "run", "score", "when"):
        table.add_column(column, overflow="fold", no_wrap=column == "when")
    for release in found:
        lineage = release.lineage
        metric = str(lineage.get("primary_metric") or "")
        value = (lineage.get("scores") or {}).get(metric)
        colour = COLOURS.get(release.stage, "default")
        table.add_row(
            release.id,
            f"[{colour}]{release.stage}[/]{_share(release)}",
            Path(release.run).name,
            f"{metric_title(metric)} {show_value(metric, value)}" if value is not None else "",
            datetime.fromtimestamp(release.changed_at).strftime("%Y-%m-%d %H:%M"),
        )
    console.print(table)
