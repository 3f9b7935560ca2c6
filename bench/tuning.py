"""One tuning by the real loop with what it cost, for benchmarks of adapters and quantisation."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunewright.config import make_recipe
from tunewright.data.prepare import prepare
from tunewright.data.render import render
from tunewright.journal import Journal
from tunewright.learning import objective_of
from tunewright.model.device import peak_memory, resident_memory
from tunewright.model.load import Base
from tunewright.model.quantize import is_packed, packed_bytes
from tunewright.model.weights import save_tuned
from tunewright.setup import Setup, make_setup, open_model
from tunewright.train.head import start_head
from tunewright.train.loop import fit
from tunewright.validation import make_evaluate

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Tuned:
    """A model after training. cpu_s: processor seconds of training alone, looks left out."""

    setup: Setup
    base: Base
    validation: tuple[float, ...]
    steps: int
    cpu_s: float
    peak_bytes: int
    """Most that the process held in training over what it held before loading (Linux)."""
    weights_bytes: int
    saved_bytes: int
    trained: int


def tune(
    values: Mapping[str, Any], out: Path, *, rate_factor: float = 1.0, metric: str | None = None
) -> Tuned:
    """Tune by a recipe, save to `out`; rate_factor: times the rate that the recipe comes to.

    metric: judged on validation after every pass, the best weights kept; None: no looks.
    """
    before = _held()
    journal = Journal()
    recipe = make_recipe(dict(values))
    prepared = prepare(recipe.data, recipe.task, journal)
    setup = make_setup(recipe, prepared, journal)
    if rate_factor != 1.0:
        rate = setup.recipe.training.learning_rate * rate_factor
        training = {**values.get("training", {}), "learning_rate": rate}
        recipe = make_recipe({**values, "training": training})
        setup = make_setup(recipe, prepared, journal)
    _forget_peak()
    rows = setup.standardised(render(prepared.splits.train, setup.rendering))
    tuning = open_model(setup, journal, rows=rows)
    start_head(tuning.base, rows, tuning.plan.pad_id)
    judge = make_evaluate(setup, tuning.base, (metric,)) if metric else None
    looked_s = 0.0

    def look() -> tuple[float, float, Mapping[str, float]]:
        nonlocal looked_s
        assert judge is not None
        started = time.process_time()
        found = judge()
        looked_s += time.process_time() - started
        return found

    started = time.process_time()
    fitted = fit(
        tuning.base.model, tuning.parameters, rows, tuning.plan, setup.recipe.training,
        objective=objective_of(setup, tuning.base), evaluate=look if judge else None,
        checkpoints=out.with_name(f"{out.name}-points"), log_step=lambda s: None,
        log_evaluation=lambda e: None, forget_after=lambda s: None, journal=journal,
    )  # fmt: skip
    cpu_s = time.process_time() - started - looked_s
    peak = peak_memory(CPU) - before
    save_tuned(tuning.base, out, state=fitted.weights, extra=setup.manifest())
    names = ("adapter_model.safetensors", "model.safetensors")
    return Tuned(
        setup, tuning.base, tuple(e.value for e in fitted.evaluations), fitted.steps, cpu_s, peak,
        weights_bytes(tuning.base.model),
        sum((out / name).stat().st_size for name in names if (out / name).exists()),
        sum(p.numel() for _, p in tuning.parameters),
    )  # fmt: skip


def weights_bytes(model: Any) -> int:
    """Bytes of all weights in memory, packing included."""
    packed = {id(m.weight): packed_bytes(m) for m in model.modules() if is_packed(m)}
    plain = sum(p.nbytes for p in model.parameters() if id(p) not in packed)
    return plain + sum(packed.values())


def _held() -> int:
    """Bytes that the process holds when all that is free was given back (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident_memory(CPU)


def _forget_peak() -> None:
    """The process's peak is counted anew from here on (Linux)."""
    _held()
    Path("/proc/self/clear_refs").write_text("5")
