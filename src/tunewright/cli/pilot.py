"""`tunewright pilot`: small trainings first, and an answer before the whole one is paid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.options import AsJson, Overrides
from tunewright.cli.output import Answer

if TYPE_CHECKING:
    from rich.console import Console


def pilot(
    recipe: Annotated[Path, typer.Argument(help="A recipe, as `tunewright init` writes it.")],
    thorough: Annotated[
        bool,
        typer.Option("--thorough", help="Pilots on 1/8, 1/4 and 1/2 of the rows; costs more."),
    ] = False,
    worth: Annotated[
        float,
        typer.Option(
            "--worth",
            metavar="POINTS",
            min=0.0,
            max=100.0,
            help="A doubling of the rows that buys fewer points than this is a flat curve.",
        ),
    ] = 2.0,
    pilot_dir: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Where pilots are kept; runs/pilot-NAME."),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> Answer:
    """Tell from three small trainings whether the whole one is worth it, and what it will score.

    GO: the curve is flat at all rows, above the baselines. MORE DATA: still steep there, with what
    more rows would bring. STOP: not above the baselines, and not going to be. Run again in the same
    folder, it goes on where it was.

    Example:
      tunewright pilot recipe.yaml
      tunewright pilot recipe.yaml --thorough --json
      tunewright train runs/pilot-recipe/recipe.yaml

    Exit status:
      0 GO or MORE DATA
      1 STOP, or will not fit here
      2 a mistake in recipe or data
      3 interrupted; the same command goes on
      4 our own fault
    """
    from tunewright.config import read_recipe
    from tunewright.journal import ConsoleJournal
    from tunewright.piloting import document_of
    from tunewright.piloting import pilot as run_pilot

    plan = read_recipe(recipe, overrides or ())
    folder = pilot_dir or Path("runs") / f"pilot-{recipe.stem}"
    report = run_pilot(plan, folder, ConsoleJournal(), thorough=thorough, worth=worth / 100)
    from tunewright.store import to_plain

    document = to_plain({**document_of(report), "folder": folder})

    def show(console: Console) -> None:
        from tunewright.report.pilot import print_pilot

        print_pilot(document, console)
        console.print(f"Page: {folder / 'pilot.html'}", markup=False, soft_wrap=True)
        if report.answer.answer != "STOP":
            console.print(
                f"The whole run: tunewright train {folder / 'recipe.yaml'}",
                markup=False, soft_wrap=True,
            )  # fmt: skip

    return Answer(document, show, exit_status=1 if report.answer.answer == "STOP" else 0)
