"""How `train`, `quickstart` and `evaluate` answer: with a report, and with the way back to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tunewright.cli.output import Answer
from tunewright.errors import Interrupted
from tunewright.store import RunFolder

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.records import Report


def answer_with_report(report: Report, place: Path | None, *, gate: bool = False) -> Answer:
    """The report as an Answer. place: its run folder, if it has one.

    The exit status is 0 whatever the verdict, or under `gate` 1 unless the verdict is `ship`.
    """
    from tunewright.report.files import make_report_json, print_report

    document = dict(make_report_json(report))
    if place is not None:
        document["run_dir"] = str(place)

    def show(console: Console) -> None:
        print_report(report, console)
        if place is not None:
            page = RunFolder(place).report_html
            console.print(f"Report: {page}", markup=False, soft_wrap=True)

    closed = gate and report.verdict != "ship"
    return Answer(document, show, exit_status=1 if closed else 0)


@contextmanager
def naming_the_way_back(command: str, place: Path) -> Iterator[None]:
    """Add to an interruption the command that continues the run, once there is one to continue."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as error:
        if "tunewright " in str(error) or not RunFolder(place).recipe.exists():
            raise
        kind = type(error) if isinstance(error, Interrupted) else Interrupted
        said = str(error) or "stopped by Ctrl-C"
        raise kind(f"{said}; resume with: {command}") from error
