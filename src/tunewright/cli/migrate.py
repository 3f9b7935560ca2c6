"""`tunewright migrate`: from a hosted account to recipes that train here."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewright.cli.options import AsJson, Yes
from tunewright.cli.output import Answer
from tunewright.cli.spending import ask_price, make_consent

if TYPE_CHECKING:
    from rich.console import Console


class Service(StrEnum):
    """Where an account lies."""

    openai = "openai"


def migrate(
    service: Annotated[Service, typer.Argument(help="Where the account lies: openai.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where everything goes.")
    ] = Path("migrated"),
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", help="The open model of every recipe; default Qwen3-0.6B."),
    ] = None,
    record: Annotated[
        bool,
        typer.Option(
            "--record/--no-record", help="Keep the old models' answers, as the baseline to beat."
        ),
    ] = True,
    yes: Yes = False,
    as_json: AsJson = False,
) -> Answer:
    """Move an account's fine-tuning here: jobs, files, results, and a recipe for every job.

    Each recipe tunes an open model on the same rows. With --record every old model that still
    answers is asked the test rows once, after its cost was agreed to, and the recipe compares with
    that. Run again, it goes on where it was; nothing is replaced.

    Example:
      tunewright migrate openai --out moved
      tunewright migrate openai --no-record --base-model Qwen/Qwen3-0.6B
      tunewright train moved/recipes/ftjob-abc123.yaml

    Exit status:
      0 done; jobs without a recipe are listed with the reason
      1 the cost was not agreed to
      2 key, quota or price
      3 interrupted; the same command goes on
      4 our own fault
    """
    from tunewright.journal import ConsoleJournal
    from tunewright.migrating import migrate_openai
    from tunewright.providers.openai import open_openai
    from tunewright.store import to_plain

    journal, provider = ConsoleJournal(), open_openai(None, patience_s=900)
    provider.patience.tell = journal.say
    moved, inventory = migrate_openai(
        provider,
        out,
        journal,
        base_model=base_model,
        record=record,
        consent=make_consent(yes, as_json),
        ask=ask_price(as_json),
    )
    document = to_plain({"service": service.value, "folder": out, **inventory})
    return Answer(document, lambda console: _show(document, len(moved), out, console))


def _show(document: dict[str, Any], count: int, out: Path, console: Console) -> None:
    from rich.table import Table

    table = Table("job", "status", "base", "rows", "old model", "recipe", box=None, pad_edge=False)
    for row in document["moved"]:
        score = "" if row["score"] is None else f"{row['score']:.0%} of {row['recorded']} rows"
        recipe = Path(row["recipe"]).name if row["recipe"] else ""
        told = row["note"] or recipe
        table.add_row(row["job"], row["status"], row["base"], str(row["num_rows"]), score, told)
    console.print(table)
    made = sum(bool(row["recipe"]) for row in document["moved"])
    unused = sum(not f["used"] and f["purpose"] == "fine-tune" for f in document["files"])
    console.print(
        f"\n{count} jobs, {made} recipes in {out / 'recipes'}; {len(document['files'])} files "
        f"({unused} training files that no job used), {len(document['tuned_models'])} tuned models",
        markup=False,
    )
