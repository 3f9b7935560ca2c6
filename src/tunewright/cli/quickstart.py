"""`tunewright quickstart`: the whole story on an embedded model and embedded data, offline."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from tunewright.cli.options import AsJson, Gate, Overrides, Resume, RunDir
from tunewright.cli.output import Answer
from tunewright.cli.verdict import answer_with_report, naming_the_way_back
from tunewright.errors import RunError


def quickstart(
    run_dir: RunDir = None,
    resume: Resume = False,
    gate: Gate = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> Answer:
    """Tune an embedded model on embedded support tickets: offline, under three minutes.

    Example:
      tunewright quickstart
      tunewright quickstart --run-dir runs/first --set training.seed=3

    Exit status:
      0 done, whatever the verdict
      1 --gate, and the verdict is not `ship`
      2 a mistake in --set or --run-dir
      3 interrupted; continue with --resume
      4 our own fault
    """
    place = run_dir or _run_dir(resume=resume)

    from tunewright.journal import ConsoleJournal
    from tunewright.pipeline import quickstart as play

    again = ["tunewright", "quickstart", "--run-dir", str(place), "--resume"]
    again += [f"--set={text}" for text in overrides or ()]
    with naming_the_way_back(shlex.join(again), place):
        report = play(place, ConsoleJournal(), resume=resume, overrides=tuple(overrides or ()))
    return answer_with_report(report, place, gate=gate)


def _run_dir(*, resume: bool) -> Path:
    if not resume:
        return Path("runs") / f"quickstart-{time.strftime('%Y%m%d-%H%M%S')}"
    earlier = sorted(Path("runs").glob("quickstart-[0-9]*-[0-9]*"))
    if not earlier:
        raise RunError("runs/quickstart-*: no run to resume; leave out --resume to start one")
    return earlier[-1]
