"""A few real steps of a recipe, in a process of their own: what they took, in bytes and seconds.

`measure` is the child's work; `probe` starts the child and waits. The child's memory is counted
above its libraries just imported, so nothing that the parent holds disturbs the figure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunewright.config import Recipe, dump_recipe, parse_recipe
from tunewright.data.batch import plan_epoch
from tunewright.data.prepare import prepare
from tunewright.data.render import Row, render
from tunewright.errors import Interrupted, Refusal, RunError, UserError
from tunewright.journal import Journal
from tunewright.model.device import resident_memory
from tunewright.records import StepLog
from tunewright.setup import Setup, Tuning, make_setup, open_model
from tunewright.train.loop import fit
from tunewright.train.objectives import OBJECTIVES
from tunewright.validation import make_evaluate

PROBE_STEPS = 8
PROBE_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Probe:
    """What the steps came to.

    peak_bytes: above the libraries. step_tokens and step_seconds: of every step but the first,
    which also warms up. evaluation_s: one look at `evaluated_rows` validation rows.
    """

    peak_bytes: float
    step_tokens: tuple[float, ...]
    step_seconds: tuple[float, ...]
    step_processor_s: tuple[float, ...]
    """Of all threads together; far below the wall clock where the processor is shared."""
    forecast_bytes: float
    evaluation_s: float = 0.0
    evaluated_rows: int = 0
    wall_s: float = 0.0
    shape: Mapping[str, Any] = field(default_factory=dict)
    work: Mapping[str, Any] = field(default_factory=dict)
    """What the forecast was made from, so that it can be made again."""


def probe(recipe: Recipe, journal: Journal, *, steps: int = PROBE_STEPS) -> Probe:
    """Run a few steps of the recipe in a child process. Raises what the child could not do.

    A child that the kernel ended for want of memory is a Refusal.
    """
    with tempfile.TemporaryDirectory(prefix="tunewright-probe-") as folder:
        place = Path(folder)
        (place / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
        command = [sys.executable, "-m", "tunewright.probing", folder, str(steps)]
        with journal.progress(f"probing {steps} steps", 1.0) as advance:
            child = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            try:
                said, _ = child.communicate(timeout=PROBE_TIMEOUT_S)
            except BaseException:
                child.kill()
                child.wait()
                raise
            advance(1.0, "")
        answer = place / "probe.json"
        if answer.exists():
            values = json.loads(answer.read_text(encoding="utf-8"))
            if "error" in values:
                kind = Refusal if values["kind"] == "Refusal" else UserError
                raise kind(str(values["error"]))
            pairs = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            return Probe(**pairs)  # type: ignore[arg-type]
    if child.returncode in (-9, 137):
        raise Refusal("probe: the system ended it for want of memory; the recipe does not fit here")
    last = (said.strip().splitlines() or ["no output"])[-1]
    raise RunError(f"probe: ended without a result ({last[:200]}); plan without --probe")


def measure(recipe: Recipe, journal: Journal, *, steps: int = PROBE_STEPS) -> Probe:
    """Train for a few steps in this process, the widest batch among them, and measure."""
    started, baseline = time.monotonic(), resident_memory(torch.device("cpu"))
    setup = make_setup(recipe, prepare(recipe.data, recipe.task, journal), journal)
    rows = setup.standardised(render(setup.prepared.splits.train, setup.rendering))
    tuning = open_model(setup, journal, rows=rows)
    chosen = choose_rows(rows, tuning, setup.recipe.training.seed, steps)
    logged: list[StepLog] = []
    clock = [0.0]
    training = setup.recipe.training.model_copy(
        update={"max_steps": None, "early_stopping_patience": None, "num_workers": 0}
    )

    def note(step: StepLog) -> None:
        logged.append(step)
        clock.append(time.process_time())

    with tempfile.TemporaryDirectory(prefix="tunewright-probe-") as folder:
        clock[0] = time.process_time()
        fitted = fit(
            tuning.base.model,
            tuning.parameters,
            chosen,
            replace(tuning.plan, num_epochs=1.0, fitted_start=False, minutes=None),
            training,
            objective=OBJECTIVES[setup.objective],
            evaluate=None,
            checkpoints=Path(folder),
            log_step=note,
            log_evaluation=lambda evaluation: None,
            forget_after=lambda step: None,
            journal=journal,
        )
    held = baseline if setup.device.type == "cpu" else 0
    peak = float(fitted.peak_memory_bytes - held)
    evaluation_s, evaluated = _evaluate(setup, tuning)
    tokens = np.diff([0, *(step.tokens for step in logged)]).astype(float)
    seconds = [float(t) / step.tokens_per_s for t, step in zip(tokens, logged, strict=True)]
    first = 1 if len(seconds) > 1 else 0
    return Probe(
        peak_bytes=peak,
        step_tokens=tuple(map(float, tokens[first:])),
        step_seconds=tuple(seconds[first:]),
        step_processor_s=tuple(map(float, np.diff(clock)[first:])),
        forecast_bytes=setup.forecast.peak_memory_bytes,
        evaluation_s=evaluation_s,
        evaluated_rows=evaluated,
        wall_s=time.monotonic() - started,
        shape=asdict(setup.forecast.shape) if setup.forecast.shape else {},
        work=asdict(setup.forecast.work) if setup.forecast.work else {},
    )


def choose_rows(rows: Sequence[Row], tuning: Tuning, seed: int, steps: int) -> list[Row]:
    """Rows of `steps` batches of the first pass: the widest one, and others of every size."""
    lengths = np.array([row.num_tokens for row in rows], dtype=np.int64)
    batches = plan_epoch(lengths, tuning.plan.batch_size, seed=seed, epoch=0)
    full = [b for b in batches if b.size == tuning.plan.batch_size] or batches
    ranked = sorted(full, key=lambda b: int(lengths[b].max()))
    places = np.linspace(0, len(ranked) - 1, num=min(steps, len(ranked))).round().astype(int)
    return [rows[i] for place in places for i in ranked[place]]


def _evaluate(setup: Setup, tuning: Tuning) -> tuple[float, int]:
    """(seconds, rows) of one look at validation; nothing for tasks that write at length."""
    from tunewright.metrics.table import metrics_for

    splits, layout = setup.prepared.splits, setup.prepared.layout
    names = metrics_for(layout.task, splits.train, layout.labels)
    look = make_evaluate(setup, tuning.base, names)
    if look is None or setup.task in ("generate", "chat"):
        return 0.0, 0
    started = time.monotonic()
    look()
    return time.monotonic() - started, len(splits.validation)


def main(arguments: Sequence[str]) -> int:
    """The child: FOLDER STEPS; reads recipe.yaml there and leaves probe.json."""
    place, steps = Path(arguments[0]), int(arguments[1])
    text = (place / "recipe.yaml").read_text(encoding="utf-8")
    values: dict[str, object]
    try:
        values = asdict(measure(parse_recipe(text, "recipe"), Journal(), steps=steps))
    except (UserError, Refusal, Interrupted) as error:
        values = {"error": str(error), "kind": type(error).__name__}
    (place / "probe.json").write_text(json.dumps(values), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
