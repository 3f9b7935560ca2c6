"""`tunewright watch`: is production still like the test set, and is quality falling?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.options import AsJson, Overrides, existing_run
from tunewright.cli.output import Answer
from tunewright.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console


def watch(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    log: Annotated[
        Path | None,
        typer.Option("--log", help="Traffic: JSONL, OpenAI-style logs, or OpenTelemetry spans."),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option("--replay", metavar="LOG", help="Backtest the rules: nobody is alerted."),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--page", help="Where the page goes; default watch/watch.html in the run."),
    ] = None,
    renew: Annotated[
        bool, typer.Option("--renew-profile", help="Make the reference profile anew.")
    ] = False,
    gate: Annotated[bool, typer.Option("--gate", help="Exit 1 when an alarm is raised.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> Answer:
    """Compare traffic with the run's held-out rows, and tell when quality falls and by how much.

    Rules on inputs, outputs and outcomes share one budget of false alarms: at most one in 500
    batches, all together. An alarm names the rows, the new kinds of request, the accuracy to be
    expected, the cost so far and what to do; it goes to the console, to watch/alerts.jsonl and to
    watch.webhook. With neither --log nor --replay, only the reference profile is made.

    Example:
      tunewright watch runs/first --log traffic.jsonl
      tunewright watch runs/first --replay last-month.jsonl --set watch.batch_size=100

    Exit status:
      0 done, whatever was seen
      1 an alarm was raised, with --gate
      2 a mistake in the log, the run or a setting
      4 our own fault
    """
    from tunewright.journal import ConsoleJournal
    from tunewright.monitor.sinks import sentence
    from tunewright.report.watch import make_watch_page, print_watch
    from tunewright.store import RunFolder, write_atomic
    from tunewright.watching import alert_document, open_eye, watch_document, watch_log

    if log and replay:
        raise UserError("--log and --replay: give one of both")
    source = log or replay
    if source is not None and not source.exists():
        raise UserError(f"{source}: no such log; check the path")
    folder, journal = RunFolder(existing_run(run)), ConsoleJournal()
    eye = open_eye(folder, journal, overrides or (), renew=renew)
    if source is None:
        limits = {"run": str(run), "rules": list(eye.limits), "profile": str(folder.watch)}
        made = f"{len(eye.limits)} rules are ready; give traffic with --log LOG"
        return Answer(limits, lambda console: console.print(made, markup=False))
    seen = watch_log(
        eye, source, journal, live=log is not None,
        tell=lambda alert: journal.warn(sentence(alert_document(alert))),
    )  # fmt: skip
    document = watch_document(eye, seen, source)
    place = page or folder.watch / "watch.html"
    write_atomic(place, make_watch_page(document))
    document["page"] = str(place)

    def show(console: Console) -> None:
        print_watch(document, console)
        console.print(f"\nPage: {place}", markup=False, soft_wrap=True)

    return Answer(document, show, exit_status=1 if gate and seen.alerts else 0)
