"""`tunewright retune`: tune again on old and new rows, and let in only what is better."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.options import AsJson, Overrides, RunDir, Yes, existing_run
from tunewright.cli.output import Answer
from tunewright.cli.verdict import naming_the_way_back
from tunewright.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console


def retune(
    run: Annotated[Path, typer.Argument(help="The run in use.")],
    new: Annotated[
        Path, typer.Option("--new", help="Labelled requests, in any form that `watch` reads.")
    ],
    run_dir: RunDir = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be done, and why; change nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training that stands in --run-dir.")
    ] = False,
    yes: Yes = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> Answer:
    """Tune a run's model again with new labelled rows, then compare both models on every task.

    Labels of clients who contradict sure answers are left out, model-made labels are capped, and a
    share of the new rows is never trained on. The gate opens only where a loss of retune.margin on
    each old task is ruled out and the new rows gain. What was tuned at a provider is tuned there
    again: logged answers are taken as they are, and what must be paid for is agreed to first.

    Example:
      tunewright retune runs/first --new labelled.jsonl --dry-run
      tunewright retune runs/first --new labelled.jsonl --run-dir runs/second
      tunewright retune runs/first --new labelled.jsonl --set retune.strategy=continue

    Exit status:
      0 the gate is open, or --dry-run
      1 the gate is closed: keep the old model
      2 a mistake in rows, run or settings
      3 interrupted
      4 our own fault
    """
    from tunewright.cli.spending import ask_price, make_consent
    from tunewright.journal import ConsoleJournal
    from tunewright.lifecycle import next_place, plan_document, plan_retune, update_document
    from tunewright.lifecycle import retune as tune_again
    from tunewright.store import RunFolder

    if not new.exists():
        raise UserError(f"{new}: no such file; check the path")
    if resume and run_dir is None:
        raise UserError("--resume: give the folder to go on with, --run-dir DIR")
    folder, journal = RunFolder(existing_run(run)), ConsoleJournal()
    consent, ask = make_consent(yes, as_json), ask_price(as_json)
    plan, asker = plan_retune(folder, new, journal, overrides or (), consent=consent, ask=ask)
    document = plan_document(plan)
    if dry_run:
        return Answer(document, lambda console: _print(plan.why, console))
    for line in plan.why:
        journal.say(line)
    place = run_dir or next_place(folder.path)
    again = ["tunewright", "retune", str(run), "--new", str(new), "--run-dir", str(place)]
    again += [*(f"--set={text}" for text in overrides or ()), "--resume"]
    with naming_the_way_back(shlex.join(again), place):
        update = tune_again(plan, asker, place, journal, resume=resume, consent=consent, ask=ask)
    document |= {"update": update_document(update)}

    def show(console: Console) -> None:
        word = "PROMOTE" if update.promoted else "KEEP THE OLD MODEL"
        _print((word, *update.because), console)
        if update.learning is not None:
            console.print(
                f"  mean score {100 * update.learning.acc:.1f}, change of earlier tasks "
                f"{100 * update.learning.bwt:+.1f} points, head start of later ones "
                f"{100 * update.learning.fwt:+.1f} points"
            )
        console.print(f"The new run: {place}", markup=False, soft_wrap=True)

    return Answer(document, show, exit_status=0 if update.promoted else 1)


def _print(lines: tuple[str, ...], console: Console) -> None:
    for line in lines:
        console.print(f"  {line}", markup=False, soft_wrap=True)
