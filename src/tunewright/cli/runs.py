"""`tunewright runs`: the run folders and how they ended."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.options import AsJson
from tunewright.cli.output import Answer

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.registry import RunSummary

COLOURS = {"ship": "green", "more data": "yellow", "do not tune": "red"}


def runs(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where run folders lie.", show_default=True)
    ] = Path("runs"),
    as_json: AsJson = False,
) -> Answer:
    """List runs, the newest first: state, task, verdict, deciding metric, when.

    Example:
      tunewright runs
      tunewright runs /data/experiments --json

    Exit status:
      0 done
      2 the folder cannot be listed
      4 our own fault
    """
    from tunewright.registry import list_runs

    # A fresh project has no runs/ yet; that is no mistake.
    found = [] if folder == Path("runs") and not folder.exists() else list_runs(folder)

    def show(console: Console) -> None:
        if found:
            _print_table(found, console)
        else:
            console.print(f"No runs in {folder}; start with: tunewright quickstart", markup=False)

    return Answer({"folder": folder, "runs": found}, show)


def _print_table(found: list[RunSummary], console: Console) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "state", "task", "verdict", "metric", "when"):
        table.add_column(name, overflow="fold", no_wrap=name == "when")
    for run in found:
        colour = COLOURS.get(run.verdict or "", "default")
        table.add_row(
            run.path.name,
            run.state if run.state == "finished" else f"{run.state} ({run.stage or 'start'})",
            run.task or "",
            f"[{colour}]{run.verdict or ''}[/]",
            _score_text(run),
            _local_time(run.changed_at),
        )
    console.print(table)


def _local_time(iso: str) -> str:
    return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M")


def _score_text(run: RunSummary) -> str:
    if run.value is None:
        return run.metric or ""
    from tunewright.figures import metric_title, show_interval, show_value

    metric = run.metric or ""
    spread = f" ({show_interval(metric, run.ci95)})" if run.ci95 else ""
    return f"{metric_title(metric)} {show_value(metric, run.value)}{spread}"
