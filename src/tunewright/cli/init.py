"""`tunewright init`: looks at data and writes a commented recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.options import AsJson, check_is_file_like
from tunewright.cli.output import Answer
from tunewright.errors import RecipeError, UserError

if TYPE_CHECKING:
    from rich.console import Console

TASKS = ("classify", "tag", "regress", "generate", "chat", "continue", "embed")


def init(
    source: Annotated[
        str,
        typer.Argument(metavar="DATA", help="File, folder, hub id, https URL or embedded:NAME."),
    ],
    task: Annotated[
        str | None, typer.Option(help=f"Where the data leaves a choice: {', '.join(TASKS)}.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The recipe to write.")
    ] = Path("recipe.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> Answer:
    """Find task, columns, labels and metric in the data, and write a commented recipe.

    Example:
      tunewright init tickets.csv
      tunewright init rows.jsonl --task generate --out write.yaml

    Exit status:
      0 done
      2 the data cannot be read, or the recipe exists already
      4 our own fault
    """
    _check_task(task)
    _check_target(out, force=force)
    check_is_file_like(source)

    from tunewright.config import parse_recipe
    from tunewright.data.suggest import suggest_recipe
    from tunewright.metrics.table import metrics_for
    from tunewright.store import naming_disk_errors, write_atomic

    text = suggest_recipe(source, task, metrics_for=metrics_for)
    recipe = parse_recipe(text, str(out))
    with naming_disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, text)
    document = {"recipe": str(out), "task": recipe.task, "values": recipe.model_dump(mode="json")}

    def show(console: Console) -> None:
        console.print(text.rstrip(), markup=False, soft_wrap=True)
        console.print(f"\nWritten: {out}", markup=False, soft_wrap=True)
        console.print(f"Next:    tunewright train {out}", markup=False, soft_wrap=True)

    return Answer(document, show)


def _check_task(task: str | None) -> None:
    if task is None or task in TASKS:
        return
    import difflib

    near = difflib.get_close_matches(task, TASKS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(TASKS)}"
    raise UserError(f"--task: {task!r} unknown; {hint}")


def _check_target(out: Path, *, force: bool) -> None:
    if out.is_dir():
        raise RecipeError(f"{out}: a folder; name the recipe file, --out {out / 'recipe.yaml'}")
    if out.exists() and not force:
        raise RecipeError(
            f"{out}: exists already; add --force to replace it, or give another --out"
        )
