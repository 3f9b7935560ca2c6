"""`tunewright choose`: which base model should I start from?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.options import AsJson, Overrides
from tunewright.cli.output import Answer

if TYPE_CHECKING:
    from rich.console import Console


def choose(
    recipe: Annotated[
        Path, typer.Argument(help="A recipe; its base_model may be a list of candidates.")
    ],
    bases: Annotated[
        list[str] | None,
        typer.Option(
            "--base",
            metavar="MODEL",
            help="A candidate, a folder of model folders, or `catalog`; repeatable.",
        ),
    ] = None,
    budget_share: Annotated[
        float,
        typer.Option(
            "--budget-share", min=0.01, max=1.0, help="Of the cost of training every candidate."
        ),
    ] = 0.25,
    largest: Annotated[
        bool, typer.Option("--best", help="Take the best, even where a smaller one is not worse.")
    ] = False,
    margin: Annotated[
        float,
        typer.Option(
            "--margin",
            metavar="POINTS",
            min=0.0,
            help="What a smaller base may lose and still be not worse.",
        ),
    ] = 0.5,
    incumbent: Annotated[
        str | None, typer.Option("--incumbent", help="What you use today; asked with a prompt.")
    ] = None,
    any_licence: Annotated[
        bool, typer.Option("--any-licence", help="Also take bases whose card names no licence.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not ask the hub for facts.")
    ] = False,
    choose_dir: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Where trials are kept; runs/choose-NAME."),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> Answer:
    """Choose a base by measurement on your data, for a share of what training them all would cost.

    Licence, language, context and memory first; then untuned scores and probes; then short
    trainings, promoted by where their curves lead. The smallest that is not worse is taken.
    Run again in the same folder, it goes on where it was.

    Example:
      tunewright choose recipe.yaml --base embedded:minilm --base ../models
      tunewright choose recipe.yaml --base catalog --json
      tunewright train runs/choose-recipe/recipe.yaml

    Exit status:
      0 a base was chosen
      1 no candidate can be used
      2 a mistake in recipe or data
      3 interrupted; the same command goes on
      4 our own fault
    """  # fmt: skip
    # Long because every option carries its help.
    from tunewright.choosing import candidates_in, choose_base, document_of, winner_of
    from tunewright.config import read_recipe, with_values
    from tunewright.journal import ConsoleJournal
    from tunewright.store import to_plain

    plan = read_recipe(recipe, overrides or ())
    if bases:
        names: list[str] = []
        for base in bases:
            holds_models = Path(base).is_dir() and not (Path(base) / "config.json").exists()
            is_run = (Path(base) / "recipe.yaml").exists()
            several = base == "catalog" or (holds_models and not is_run)
            names += candidates_in(base) if several else [base]
        plan = with_values(plan, {"candidates": tuple(names)})
    folder = choose_dir or Path("runs") / f"choose-{recipe.stem}"
    report = choose_base(
        plan, folder, ConsoleJournal(), budget_share=budget_share, smallest=not largest,
        margin=margin / 100, any_licence=any_licence, incumbent=incumbent, live=not offline,
    )  # fmt: skip
    document = to_plain({**document_of(report), "folder": folder})

    def show(console: Console) -> None:
        from tunewright.report.choose import print_choice

        print_choice(document, console)
        if winner_of(report) is not None:
            console.print(
                f"Next: tunewright train {folder / 'recipe.yaml'}", markup=False, soft_wrap=True
            )

    return Answer(document, show, exit_status=0 if winner_of(report) else 1)
