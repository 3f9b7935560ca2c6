"""`tunewright import`: a recipe from the config of another tool."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.options import AsJson
from tunewright.cli.output import Answer
from tunewright.errors import RecipeError

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.importers.table import Imported


def import_(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="YAML, JSON or command line.")],
    tool: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="TOOL", help="Where the keys do not tell: axolotl, llamafactory, ..."
        ),
    ] = None,
    dataset_info: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="LLaMA-Factory's dataset_info.json."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The recipe to write.")
    ] = Path("recipe.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> Answer:
    """Make a recipe from a config of axolotl, LLaMA-Factory, TRL, AutoTrain, Unsloth, torchtune or
    an OpenAI job. Every key is carried over, or listed with the reason why not.

    Example:
      tunewright import lora.yml
      tunewright import train.sh --from trl --out mine.yaml

    Exit status:
      0 done
      2 the config cannot be read, or the recipe exists already
      4 our own fault
    """
    if out.is_dir():
        raise RecipeError(f"{out}: a folder; name the recipe file, --out {out / 'recipe.yaml'}")
    if out.exists() and not force:
        raise RecipeError(
            f"{out}: exists already; add --force to replace it, or give another --out"
        )

    from tunewright.importers.table import import_config, write_imported
    from tunewright.store import naming_disk_errors, write_atomic

    imported = import_config(source, tool, dataset_info)
    text = write_imported(imported, source.name)
    with naming_disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, text)
    document = {
        "recipe": str(out),
        "tool": imported.tool,
        "values": imported.values,
        "keys": imported.fates,
        "run_dir": imported.run_dir,
    }
    return Answer(document, lambda console: _show(console, imported, out))


def _show(console: Console, imported: Imported, out: Path) -> None:
    from rich.table import Table

    from tunewright.importers.table import one_line

    table = Table("", "key", "value", "here", box=None, pad_edge=False, header_style="bold")
    marks = {"mapped": "✓", "always": "✓", "unset": "·", "not carried": "✗"}
    order = list(marks)
    for fate in sorted(imported.fates, key=lambda fate: order.index(fate.outcome)):
        here = f"{fate.to} = {one_line(fate.became)}" if fate.to else fate.note
        here = f"{here}  ({fate.note})" if fate.to and fate.note else here
        if fate.outcome == "unset":
            here = "asks for nothing"
        table.add_row(marks[fate.outcome], fate.key, one_line(fate.value), here)
    console.print(table)
    carried = len(imported.fates) - len(imported.left)
    console.print(
        f"\n{imported.tool}: {carried} of {len(imported.fates)} keys carried over or not needed, "
        f"{len(imported.left)} not carried (✗, with the reason)",
        markup=False,
    )
    console.print(f"Written: {out}", markup=False, soft_wrap=True)
    target = f" --run-dir {imported.run_dir}" if imported.run_dir else ""
    console.print(f"Next:    tunewright train {out}{target}", markup=False, soft_wrap=True)
