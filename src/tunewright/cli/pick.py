"""`check --against`, `--label-next`, `--select`: rows picked from many, shown and written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.cli.output import Answer
from tunewright.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.config import Recipe
    from tunewright.data.audit.choose import Chosen
    from tunewright.journal import Journal
    from tunewright.records import Finding

SHOWN_ROWS = 20
SHOWN_CHARS = 90


def pick(
    recipe: Recipe,
    against: str | None,
    label_next: int | None,
    pool: str | None,
    select: int | None,
    out: Path | None,
    force: bool,
    embed: bool | None,
    journal: Journal,
) -> Answer:
    """Do the one of the three that was asked for."""
    if sum(asked is not None for asked in (against, label_next, select)) > 1:
        raise UserError("--against, --label-next and --select answer one question each; ask one")
    if out is not None and out.exists() and not force:
        raise UserError(f"{out}: exists already; add --force to replace it, or name another --out")

    from tunewright import picking
    from tunewright.data.prepare import prepare

    prepared = prepare(recipe.data, recipe.task, journal)
    train = recipe.data.train or ""
    if against is not None:
        findings = picking.against(against, prepared, recipe, journal, embed=embed)
        lacking = [p for item in findings if item.severity != "info" for p in item.places]
        return _answer_findings(findings, _write(against, lacking, out, force))
    if label_next is not None:
        chosen = picking.label_next(label_next, pool, prepared, recipe, journal, embed=embed)
        return _answer_chosen(chosen, _write(pool or train, _places(chosen), out, force))
    assert select is not None
    chosen = picking.select(select, prepared, recipe, journal, embed=embed)
    return _answer_chosen(chosen, _write(train, _places(chosen), out, force))


def _places(chosen: Chosen) -> list[str]:
    return [row.place for row in chosen.rows]


def _write(source: str, places: list[str], out: Path | None, force: bool) -> dict[str, Any] | None:
    if out is None:
        return None
    from tunewright.picking import write_rows

    return {"file": out, "rows": write_rows(source, places, out, force=force)}


def _answer_findings(findings: list[Finding], written: dict[str, Any] | None) -> Answer:
    def show(console: Console) -> None:
        from tunewright.cli.check_show import make_table

        console.print(make_table(findings, every_row=False))
        _show_written(written, console)

    return Answer({"findings": findings, "written": written}, show)


def _answer_chosen(chosen: Chosen, written: dict[str, Any] | None) -> Answer:
    rows = [
        {"place": row.place, "id": row.id, "score": score, "input": row.input}
        for row, score in zip(chosen.rows, chosen.scores, strict=True)
    ]

    def show(console: Console) -> None:
        from rich.text import Text

        console.print(Text(chosen.message))
        for row in rows[:SHOWN_ROWS]:
            text = " ".join(str(row["input"]).split())[:SHOWN_CHARS]
            console.print(Text(f"{row['place']} ({row['id']}) {row['score']:.3g}  {text}"))
        if len(rows) > SHOWN_ROWS:
            console.print(f"and {len(rows) - SHOWN_ROWS:,} more (--out FILE or --json)")
        _show_written(written, console)

    document = {"message": chosen.message, "trial": chosen.trial, "rows": rows, "written": written}
    return Answer(document, show)


def _show_written(written: dict[str, Any] | None, console: Console) -> None:
    if written is not None:
        console.print(
            f"Written: {written['file']}, {written['rows']:,} rows", markup=False, soft_wrap=True
        )
