"""`tunewright plan --cluster`: the same models on 8, 64 or 512 GPUs, by arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.cli.output import Answer
from tunewright.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.cost.cluster import Forecast
    from tunewright.cost.devices import Device
    from tunewright.cost.shape import ModelShape

METHODS = ("full", "lora")


def plan_cluster(recipe: Path | None, overrides: Sequence[str], gpus: str, device: str) -> Answer:
    """Layouts for the recipe's base, or for Llama 3's three sizes without one."""
    from tunewright.cost.cluster import SHAPES, Job, best_layout, loads_whole
    from tunewright.cost.devices import find_device

    counts = _read_counts(gpus)
    one = find_device("H100-80GB" if device == "this" else device)
    shapes = dict(SHAPES) if recipe is None else _shape_of(recipe, overrides)
    rows: list[dict[str, Any]] = []
    for name, shape in shapes.items():
        for count in counts:
            for method in METHODS:
                job = Job(method=method)
                best = best_layout(shape, one, count, job)
                built = best_layout(shape, one, count, job, built_only=True)
                rows.append(
                    {
                        "model": name, "gpus": count, "method": method,
                        "built_here": built.fits and loads_whole(shape, one),
                        **_document(best),
                    }
                )  # fmt: skip
    published = _published()
    document = {"device": one.name, "rows": rows, "published": published}
    return Answer(document, lambda console: _print(one, rows, published, console))


def _document(found: Forecast) -> dict[str, Any]:
    return {**asdict(found), "layout": found.layout.text, "tokens_share": found.tokens_share}


def _published() -> list[dict[str, Any]]:
    from tunewright.cost.cluster import CALIBRATED_ON, PUBLISHED, hold_against
    from tunewright.cost.devices import DEVICES

    return [
        {
            "run": run.name, "layout": run.layout.text, "published_mfu": run.mfu,
            "forecast_mfu": round(hold_against(run, DEVICES[run.device]), 3),
            "calibrated_on": run.name in CALIBRATED_ON, "source": run.source,
        }
        for run in PUBLISHED
    ]  # fmt: skip


def _shape_of(recipe: Path, overrides: Sequence[str]) -> dict[str, ModelShape]:
    from tunewright.config import read_recipe
    from tunewright.planning import find_shape

    asked = read_recipe(recipe, overrides)
    return {asked.base_model: find_shape(asked)}


def _read_counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or any(not 1 <= count <= 65_536 for count in counts):
        raise UserError(f"--cluster: {text!r} is no list of GPU counts; give 8 or 8,64,512")
    return counts


def _print(
    device: Device, rows: list[dict[str, Any]], published: list[dict[str, Any]], console: Console
) -> None:
    def line(text: str, style: str = "") -> None:
        console.print(text, style=style, soft_wrap=True, markup=False, highlight=False)

    line(f"On {device.name}, steps of 4.2 million tokens in rows of 8,192", "bold")
    for row in rows:
        head = f"  {row['model']:5} {row['gpus']:4} GPUs  {row['method']}: "
        if not row["fits"]:
            line(f"{head}does not fit; {row['memory_bytes'] / 1e9:.0f} GB on each at the least")
            continue
        built = "" if row["built_here"] else "; not by `train` here, see docs/scale.md"
        line(f"{head}{row['layout']}, {row['memory_bytes'] / 1e9:.0f} GB on each, "
             f"{row['step_s']:.1f} s a step, {row['mfu']:.0%} of the peak{built}")  # fmt: skip
        busy = f"links busy {row['comm_s']:.1f} s, {row['exposed_s']:.1f} s of it not hidden"
        save_min = row["checkpoint_every_s"] / 60
        line(f"{'':24}{busy}; a failure every {row['failure_every_h']:.0f} h, save every "
             f"{save_min:.0f} min, {row['lost']:.1%} lost", "dim")  # fmt: skip
    line("Against published runs", "bold")
    for run in published:
        mark = ", which set a constant" if run["calibrated_on"] else ""
        line(f"  {run['run']}: {run['published_mfu']:.1%} measured, "
             f"{run['forecast_mfu']:.1%} forecast{mark}")  # fmt: skip
        line(f"    {run['layout']}; {run['source']}", "dim")
