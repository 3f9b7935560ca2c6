"""`tunewright report`: a finished run's report, as page, text, JSON or on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewright.cli.options import AsJson, existing_run
from tunewright.cli.output import Answer
from tunewright.errors import RunError, UserError

if TYPE_CHECKING:
    from rich.console import Console

FORMATS = ("terminal", "md", "html", "json")


def report(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    open_page: Annotated[
        bool, typer.Option("--open", help="Open report.html in the browser.")
    ] = False,
    output_format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help=f"One of {', '.join(FORMATS)}.")
    ] = "terminal",
    as_json: AsJson = False,
) -> Answer:
    """Show the report of a run.

    Example:
      tunewright report runs/first
      tunewright report runs/first --open
      tunewright report runs/first --format md > report.md

    Exit status:
      0 done
      2 no finished run there
      4 our own fault
    """
    if output_format not in FORMATS:
        raise UserError(f"--format: {output_format!r} unknown; use one of {', '.join(FORMATS)}")
    from tunewright.store import RunFolder, read_json

    folder = RunFolder(existing_run(run))
    if not folder.report_json.exists():
        raise RunError(f"{run}: not finished, so no report yet; continue it with --resume")
    document = read_json(folder.report_json)
    if open_page:
        _open(folder.report_html)
    return Answer(document, lambda console: _show(folder, document, output_format, console))


def _show(folder: Any, document: Any, output_format: str, console: Console) -> None:
    if output_format == "terminal":
        from tunewright.report.files import print_report, read_report

        print_report(read_report(folder), console)
        console.print(f"Report: {folder.report_html}", markup=False, soft_wrap=True)
        return
    pages = {"md": folder.report_md, "html": folder.report_html, "json": folder.report_json}
    try:
        typer.echo(pages[output_format].read_text(encoding="utf-8"), nl=False)
    except FileNotFoundError as error:
        raise RunError(f"{pages[output_format]}: missing; take another --format") from error


def _open(page: Path) -> None:
    if not page.exists():
        raise RunError(f"{page}: missing; read the run with --format terminal")
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        raise UserError(f"{page}: no browser found here; copy the file to where there is one")
