"""`tunewright evaluate`: any run, adapter, folder or hub model on any data."""

from __future__ import annotations

from typing import Annotated

import typer

from tunewright.cli.options import AsJson, Yes, check_is_file_like, split_names
from tunewright.cli.output import Answer
from tunewright.cli.verdict import answer_with_report


def evaluate(
    what: Annotated[
        str, typer.Argument(help="A run folder, adapter folder, model folder, or hub model.")
    ],
    data: Annotated[
        str, typer.Option("--data", metavar="DATA", help="Rows to judge on, in any known format.")
    ],
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metrics", metavar="NAMES", help="Comma-separated; the first one decides."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="NAME", help="Which split of a hub dataset or folder."),
    ] = None,
    misspell: Annotated[
        float,
        typer.Option(min=0, max=1, help="Write this share of words as spammers do, then ask."),
    ] = 0.0,
    draws: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Also draw so many answers a row, for pass@k."),
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0.01, max=5, help="How freely --draws draws.")
    ] = 0.8,
    yes: Yes = False,
    as_json: AsJson = False,
) -> Answer:
    """Score a model on data, each figure with its 95 % interval.

    A model that was tuned at a provider is asked there, once its price was agreed to.

    Example:
      tunewright evaluate runs/first --data new.csv
      tunewright evaluate runs/first/model --data new.csv --metrics f1_macro,log_loss
      tunewright evaluate runs/fraud --data new.csv --misspell 0.3
      tunewright evaluate runs/regex --data new.jsonl --metrics regex_equal --draws 8

    Exit status:
      0 done
      1 will not fit here
      2 model or data cannot be used
      4 our own fault
    """
    check_is_file_like(data)

    from tunewright.asking import Draws
    from tunewright.asking import evaluate as evaluate_model
    from tunewright.cli.spending import ask_price, make_consent
    from tunewright.journal import ConsoleJournal

    names = split_names(metrics)
    report = evaluate_model(
        what, data, ConsoleJournal(), metrics=names, split=split, misspelt=misspell,
        draws=Draws(draws, temperature) if draws else None,
        consent=make_consent(yes, as_json), ask=ask_price(as_json),
    )  # fmt: skip
    return answer_with_report(report, None)
