"""`tunewright benefit`: is this run's model worth its money?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewright.cli.options import AsJson, Overrides, PricesFile, existing_run
from tunewright.cli.output import Answer
from tunewright.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

COLOURS = {"GO": "green", "PILOT": "yellow", "STOP": "red"}


def benefit(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    prices: PricesFile = None,
    page: Annotated[
        Path | None,
        typer.Option("--page", help="Where the page goes; default benefit.html in the run folder."),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> Answer:
    """Weigh what tuning costs against what it saves, with the doubt of every figure.

    Reads the test answers of a run and the recipe's `business:` section. A price that is missing,
    or on which sources disagree, is asked for at a terminal and never guessed.

    Example:
      tunewright benefit runs/first --set business.requests_per_month=100000
      tunewright benefit runs/first --set "business.cost_per_error_usd=[0.1, 0.5, 2]"

    Exit status:
      0 GO or PILOT
      1 STOP
      2 a figure is missing or wrong
      4 our own fault
    """
    from datetime import UTC, datetime

    from tunewright.cli.spending import ask_price
    from tunewright.prices import read_prices
    from tunewright.report.benefit import make_benefit_page
    from tunewright.store import RunFolder, to_plain, write_atomic
    from tunewright.weighing import weigh_run
    from tunewright.worth import worth_document

    folder = RunFolder(existing_run(run))
    today = datetime.now(UTC).date()
    asks = ask_price(as_json)
    own = read_prices(prices, today) if prices else None
    worth, recipe = weigh_run(folder, overrides or (), prices=own, today=today, ask=asks)
    document = to_plain(worth_document(worth))
    place = page or folder.benefit_html
    if page is not None and page.exists():
        raise UserError(f"{page}: exists already; name another file")
    write_atomic(place, make_benefit_page(document, f"{recipe.base_model}, {run}"))
    document["page"] = str(place)
    status = 1 if worth.decision.word == "STOP" else 0
    return Answer(document, lambda console: _print(document, console), exit_status=status)


def _print(document: dict[str, Any], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from tunewright.report.benefit import benefit_section

    shown = benefit_section(document)
    word = str(document["verdict"])
    console.print()
    console.print(Text(f" {shown['tone'][1]} {word} ", f"bold reverse {COLOURS[word]}"))
    for sentence in document["because"]:
        console.print(Text(f"  {sentence}"))
    console.print()
    table = Table(box=None, pad_edge=False)
    for name in ("way to answer", "errors", "a request", "errors a month", "all a month", "build"):
        table.add_column(name, justify="left" if name == "way to answer" else "right")
    for row in shown["rivals"]:
        name = row["name"] + (" (replaced)" if row["old"] else "")
        style = "bold" if row["tuned"] else ""
        table.add_row(name, *(cell[0] for cell in row["cells"]), style=style)
    console.print(table)
    for title, rows in (("To build", shown["costs"]), ("Every month", shown["monthly"])):
        if rows:
            console.print(Text(f"\n{title}: " + ", ".join(f"{n} {usd}" for n, usd in rows)))
    for text in filter(None, (shown["energy"], *shown["alerts"], *shown["sources"])):
        console.print(Text(f"  {text}", "dim"), soft_wrap=True)
    console.print(f"\nPage: {document['page']}", markup=False, soft_wrap=True)
