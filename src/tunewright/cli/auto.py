"""`tunewright auto`: watch, decide, tune again, judge and promote, unattended."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.options import AsJson, Overrides, Server, open_server
from tunewright.cli.output import Answer
from tunewright.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.unattended.rounds import Round


def auto(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The release to look after.")],
    traffic: Annotated[
        Path,
        typer.Option(
            "--traffic", metavar="DIR", help="What `serve --capture DIR` writes, or a log."
        ),
    ],
    labels: Annotated[
        list[Path] | None,
        typer.Option("--labels", metavar="FILE", help="Rows with labels filled in; repeatable."),
    ] = None,
    every_s: Annotated[
        float, typer.Option("--every-s", min=0.1, help="Seconds between two rounds.")
    ] = 600.0,
    once: Annotated[bool, typer.Option("--once", help="One round, then stop.")] = False,
    server: Server = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> Answer:
    """Look after a release: watch its traffic, tune it again when errors have cost as much as that
    does, and promote what passes every gate, first to a share of the users.

    A round does one thing at most and can be killed at any time. Labels come as feedback
    (POST /v1/feedback) or from watch/review.jsonl of the run with its labels filled in. What
    happened is told by the story of the release, in the dashboard and in SERVER/auto/NAME.

    Example:
      tunewright auto support --traffic traffic/ --set retune.retune_usd=20
      tunewright auto support --traffic traffic/ --once --json

    Exit status:
      0 with --once: whatever was decided
      1 with --once: a new model was made, and the gate stayed closed
      2 no such release, no cost to weigh, a mistake in the log
      3 stopped by a signal; the next start goes on where it stood
      4 our own fault
    """
    import threading

    from tunewright.journal import ConsoleJournal
    from tunewright.releases.board import check_name
    from tunewright.settings import server_folder
    from tunewright.store import RunFolder, owning_run
    from tunewright.unattended.rounds import Keeper, keep_going, one_round, round_document

    for path in (traffic, *(labels or ())):
        if not path.exists():
            raise UserError(f"{path}: no such log; check the path")
    journal = ConsoleJournal()
    with closing(open_server(server)) as database:
        keeper = Keeper(
            name=check_name(name),
            traffic=traffic,
            database=database,
            folder=server_folder(server).auto(name),
            labels=tuple(labels or ()),
            overrides=tuple(overrides or ()),
        )
        keeper.folder.mkdir(parents=True, exist_ok=True)
        with owning_run(RunFolder(keeper.folder)):
            done = one_round(keeper, journal)  # mistakes are told before anybody goes home
            if once:
                document = round_document(done)
                status = 1 if done.what == "kept" else 0
                return Answer(document, lambda console: _print(done, console), exit_status=status)
            journal.say(_line(done))
            keep_going(
                keeper, journal, every_s=every_s, stop=threading.Event(), later=True,
                tell=lambda done: journal.say(_line(done)),
            )  # fmt: skip
    return Answer({"stopped": True}, lambda console: None)


def _line(done: Round) -> str:
    return f"{done.release}: {done.what}; {done.says[0]}"


def _print(done: Round, console: Console) -> None:
    console.print(done.what.upper(), style="bold", markup=False)
    for line in done.says:
        console.print(f"  {line}", markup=False, soft_wrap=True)
