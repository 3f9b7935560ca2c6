"""`tunewright threshold`: from which confidence on an answer is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.options import AsJson, check_is_file_like, existing_run
from tunewright.cli.output import Answer
from tunewright.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console


def threshold(
    run: Annotated[Path, typer.Argument(help="A finished run of a classifier.")],
    precision: Annotated[
        float | None,
        typer.Option(min=0.01, max=0.9999, help="Hand over what is less sure than this share."),
    ] = None,
    false_alarms: Annotated[
        float | None,
        typer.Option(min=0.00001, max=0.9, help="Most false alarms among rows of the other label."),
    ] = None,
    cost_miss: Annotated[
        float | None, typer.Option(min=0, help="Of one rare case that was missed.")
    ] = None,
    cost_false_alarm: Annotated[
        float | None, typer.Option(min=0, help="Of one alarm for nothing.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=1e-9, max=0.999, help="Share of the rare label in production."),
    ] = None,
    positive: Annotated[
        str | None, typer.Option(metavar="LABEL", help="The label of alarms; default: the rarer.")
    ] = None,
    unknown: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Rows of no known label: how many are handed over?"),
    ] = None,
    as_json: AsJson = False,
) -> Answer:
    """Choose on validation rows when to use an answer, and judge that on test rows.

    Writes threshold.json into the run; `serve` then marks answers that are to be handed over.

    Example:
      tunewright threshold runs/first --precision 0.95 --unknown other.csv
      tunewright threshold runs/fraud --false-alarms 0.01
      tunewright threshold runs/fraud --cost-miss 200 --cost-false-alarm 3 --rate 0.001

    Exit status:
      0 done
      1 these rows cannot promise it at any threshold
      2 a mistake in run, rows or wishes
      4 our own fault
    """
    existing_run(run)
    if unknown:
        check_is_file_like(unknown)
    if (cost_miss is None) != (cost_false_alarm is None):
        raise UserError("--cost-miss and --cost-false-alarm: give both")
    from tunewright.decide.threshold import Costs
    from tunewright.journal import ConsoleJournal
    from tunewright.store import RunFolder
    from tunewright.trusting import Wish, find_threshold

    costs = None
    if cost_miss is not None and cost_false_alarm is not None:
        costs = Costs(cost_miss, cost_false_alarm, rate)
    wish = Wish(precision, false_alarms, costs, positive)
    found = find_threshold(RunFolder(run), wish, ConsoleJournal(), unknown=unknown)

    def show(console: Console) -> None:
        for line in found.because:
            console.print(f"  {line[0].upper()}{line[1:]}.", markup=False, soft_wrap=True)

    return Answer(found, show, exit_status=1 if found.value is None else 0)
