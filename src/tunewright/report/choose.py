"""What `choose` found, for people: the winner, one row per candidate, what was spent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tunewright.figures import (
    metric_title,
    show_delta,
    show_interval,
    show_number,
    show_seconds,
    show_value,
    system_title,
)

if TYPE_CHECKING:
    from rich.console import Console

FATES = {"winner": "bold green", "runner-up": "cyan"}


def print_choice(document: Mapping[str, Any], console: Console) -> None:
    """The whole answer on a console."""
    from rich.table import Table

    metric = str(document["metric"])
    winner = document["winner"]
    console.print(f"[bold]{'Take ' if winner else 'Nothing to take'}[/]", end="")
    console.print(winner or "", markup=False, style="bold green")
    for reason in document["because"]:
        console.print(f"  {reason}", markup=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("base", "parameters", "untuned", "probe", "expected", "90 %", "what became of it"):
        table.add_column(name, overflow="fold")
    for row in document["candidates"]:
        table.add_row(*_cells(row, metric), style=FATES.get(row["fate"]))
    console.print(table)
    for null in document["null_candidates"]:
        got = null["score"]
        figure = show_value(metric, got["value"]) if got else "not asked"
        console.print(f"{system_title(null['name'])}: {figure} {null['reason']}".rstrip(),
                      markup=False)  # fmt: skip
    for line in _closing(document, metric):
        console.print(line, markup=False)


def _cells(row: Mapping[str, Any], metric: str) -> tuple[Any, ...]:
    from rich.text import Text

    untuned, band = row["untuned"], row["band90"]
    fate = row["fate"] or row["stage"]
    told = f"{fate}: {row['reason']}" if row["reason"] else fate
    notes = "".join(f"; {note}" for note in row["notes"])
    return (
        Text(str(row["name"])),
        show_number(row["num_parameters"]),
        show_value(metric, untuned["value"]) if untuned else "",
        f"{row['probe']:.3f}" if row["probe"] is not None else "",
        show_value(metric, row["expected"]) if row["expected"] is not None else "",
        show_interval(metric, band) if band else "",
        Text(told + notes),
    )


def _closing(document: Mapping[str, Any], metric: str) -> list[str]:
    spent = document["spent"]
    lines = [
        f"Spent {show_seconds(spent['seconds'])}: {spent['share_of_training_all']:.0%} of the rows "
        "that training every base whole would have passed"
    ]
    if document["expected_regret"] is not None:
        regret = show_delta(metric, document["expected_regret"]).lstrip("+")
        lines.insert(
            0,
            f"Expected regret {regret} {metric_title(metric)}: how much better the best of all may "
            "turn out",
        )
    if document["runner_up"]:
        lines.insert(0, f"Runner-up: {document['runner_up']}")
    return lines
