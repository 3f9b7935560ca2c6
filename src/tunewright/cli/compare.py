"""`tunewright compare`: is A better than B, on the same rows, beyond chance?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.options import AsJson, check_is_file_like
from tunewright.cli.output import Answer

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.records import Comparison

COLOURS = {"better": "green", "worse": "red", "cannot tell": "yellow"}


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A run folder, or RUN:SYSTEM.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What to compare it with.")],
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DATA", help="Judge on these rows, not on the test split."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="NAME", help="Default: the one that decides.")
    ] = None,
    as_json: AsJson = False,
) -> Answer:
    """Compare two runs, or two systems of one run, row by row.

    Example:
      tunewright compare runs/second runs/first
      tunewright compare runs/first:tuned runs/first:tfidf_linear --metric macro_f1

    Exit status:
      0 done, whatever the answer
      2 the two cannot be compared
      4 our own fault
    """
    if data is not None:
        check_is_file_like(data)

    from tunewright.asking import compare as compare_runs
    from tunewright.journal import ConsoleJournal

    comparisons = compare_runs(a, b, ConsoleJournal(), data=data, metric=metric)

    def show(console: Console) -> None:
        for comparison in comparisons:
            _print_comparison(comparison, console)

    return Answer({"a": a, "b": b, "comparisons": comparisons}, show)


def _print_comparison(comparison: Comparison, console: Console) -> None:
    from rich.markup import escape

    from tunewright.figures import (
        metric_title,
        show_delta,
        show_delta_interval,
        show_p,
    )

    metric = comparison.metric
    colour = COLOURS[comparison.verdict]
    console.print(
        f"{escape(comparison.a)} against {escape(comparison.b)}: "
        f"[bold {colour}]{comparison.verdict}[/]",
        soft_wrap=True,
    )
    facts = (
        f"  {metric_title(metric)} {show_delta(metric, comparison.delta)}, "
        f"95 % interval {show_delta_interval(metric, comparison.ci95)}, "
        f"p {show_p(comparison.p_value)} ({comparison.test}, {comparison.n:,} rows)",
        "  smallest difference that this many rows find: "
        f"{show_delta(metric, comparison.minimum_detectable).lstrip('+')}",
    )
    for fact in facts:
        console.print(fact, markup=False, soft_wrap=True)
