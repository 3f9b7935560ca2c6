"""`tunewright search`: which settings, within a budget?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.options import AsJson, Overrides
from tunewright.cli.output import Answer

if TYPE_CHECKING:
    from rich.console import Console


def search(
    recipe: Annotated[
        Path, typer.Argument(help="A recipe; its search section says what may vary.")
    ],
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="As search.trials of the recipe.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Begin no more work after this long.")
    ] = None,
    usd_per_hour: Annotated[
        float | None,
        typer.Option("--usd-per-hour", help="What this machine costs; for budget.usd."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="URL",
            help="sqlite:///FILE or postgresql+psycopg://...; several may work on it.",
        ),
    ] = None,
    no_range_test: Annotated[
        bool, typer.Option("--no-range-test", help="Leave out the learning-rate range test.")
    ] = False,
    judge: Annotated[
        bool,
        typer.Option("--judge", help="Then train the best whole and judge it on test, once."),
    ] = False,
    search_dir: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Where the study is kept; runs/search-NAME."),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> Answer:
    """Search settings by trials that are promoted by where their curves lead.

    The settings are chosen on validation; only --judge touches the test split, once. Killed, the
    same command goes on: no trial is lost or run twice. Started twice, both work on one study.

    Example:
      tunewright search recipe.yaml --trials 20
      tunewright search recipe.yaml --minutes 30 --set search.promotion=hyperband
      tunewright train runs/search-recipe/recipe.yaml

    Exit status:
      0 done, or the budget is spent
      2 a mistake in recipe, data or storage
      3 interrupted; the same command goes on
      4 our own fault
    """  # fmt: skip
    from tunewright.config import read_recipe
    from tunewright.journal import ConsoleJournal
    from tunewright.searching import document_of
    from tunewright.searching import search as run_search
    from tunewright.store import to_plain

    changes = list(overrides or ())
    changes += [f"search.trials={trials}"] if trials else []
    changes += [f"search.storage={storage}"] if storage else []
    plan = read_recipe(recipe, changes)
    folder = search_dir or Path("runs") / f"search-{recipe.stem}"
    report = run_search(
        plan, folder, ConsoleJournal(), minutes=minutes, usd_per_hour=usd_per_hour,
        range_test=not no_range_test, judge=judge,
    )  # fmt: skip
    document = to_plain({**document_of(report), "folder": folder})

    def show(console: Console) -> None:
        from tunewright.report.search import print_search

        print_search(document, console)
        console.print(f"Page: {folder / 'search.html'}", markup=False, soft_wrap=True)
        if report.best is not None:
            console.print(
                f"Next: tunewright train {folder / 'recipe.yaml'}", markup=False, soft_wrap=True
            )

    return Answer(document, show)
