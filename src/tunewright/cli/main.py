"""The `tunewright` command: its subcommands in the order of a tuned model's life.

Command files import torch and the rest inside their functions, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from tunewright.cli import jobs, keys, release
from tunewright.cli.auto import auto
from tunewright.cli.benefit import benefit
from tunewright.cli.chat import chat
from tunewright.cli.check import check
from tunewright.cli.choose import choose
from tunewright.cli.compare import compare
from tunewright.cli.doctor import doctor
from tunewright.cli.evaluate import evaluate
from tunewright.cli.export import export
from tunewright.cli.import_config import import_
from tunewright.cli.init import init
from tunewright.cli.migrate import migrate
from tunewright.cli.output import Answer, run_command
from tunewright.cli.pilot import pilot
from tunewright.cli.plan import plan
from tunewright.cli.quickstart import quickstart
from tunewright.cli.report import report
from tunewright.cli.retune import retune
from tunewright.cli.runs import runs
from tunewright.cli.search import search
from tunewright.cli.serve import serve
from tunewright.cli.threshold import threshold
from tunewright.cli.train import train
from tunewright.cli.watch import watch


def run(arguments: Sequence[str]) -> int:
    """Run one command line and give its exit status. Prints; never raises."""
    arguments = list(arguments)
    as_json = "--json" in arguments
    command = typer.main.get_command(app)
    return run_command(
        lambda: command.main(arguments, prog_name="tunewright", standalone_mode=False),
        as_json=as_json,
    )


def main() -> None:
    """Entry point of the executable."""
    sys.exit(run(sys.argv[1:]))


def _tunewright(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.")
    ] = False,
) -> None:
    """Fine-tune a model for your task, know whether it helped, and keep it helping.

    Start: tunewright quickstart, or: tunewright init DATA and tunewright train recipe.yaml
    """
    if show_version:
        from importlib.metadata import version  # not on the way of --help

        typer.echo(f"tunewright {version('tunewright')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


COMMANDS: tuple[Callable[..., Answer], ...] = (
    quickstart,
    init,
    check,
    choose,
    plan,
    pilot,
    search,
    import_,
    migrate,
    train,
    evaluate,
    compare,
    report,
    benefit,
    threshold,
    export,
    chat,
    serve,
    watch,
    retune,
    auto,
    runs,
    doctor,
)


def _make_app() -> typer.Typer:
    settings: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
    made = typer.Typer(context_settings=settings, pretty_exceptions_enable=False)
    made.callback(invoke_without_command=True)(_tunewright)
    for command in COMMANDS:
        made.command(command.__name__.rstrip("_"))(command)
    made.add_typer(release.make_group(), name="release")
    made.add_typer(jobs.make_group(), name="jobs")
    made.add_typer(keys.make_group(), name="keys")
    return made


app = _make_app()
