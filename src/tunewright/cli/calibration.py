"""`tunewright doctor --calibration`: how right the forecasts of earlier runs were, by device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.cli.output import Answer
from tunewright.errors import RunError

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.cost.calibration import Calibration, Record

HEADS = ("", "runs", "mean error", "measured / forecast", "nine of ten", "used by plan")
TITLES = {
    "memory": "Peak memory", "seconds": "Time", "tokens": "Tokens", "energy": "Energy",
    "score": "Score on validation",
}  # fmt: skip


def answer_calibration(root: Path) -> Answer:
    """The record of all finished runs below root, by device and quantity. Raises RunError."""
    from tunewright.cost.calibration import calibrate
    from tunewright.registry import forecast_records

    if not root.is_dir():
        raise RunError(f"{root}: no runs here yet; train first, or name their folder with --runs")
    records = forecast_records(root)
    devices = sorted({r.device for found in records.values() for r in found})
    table = {
        device: {
            name: calibrate([r for r in found if r.device == device])
            for name, found in records.items()
            if any(r.device == device for r in found)
        }
        for device in devices
    }
    document = {"runs": str(root), "devices": table, "records": records}
    return Answer(document, lambda console: _print(root, table, records, console))


def _print(
    root: Path,
    table: dict[str, dict[str, Calibration]],
    records: dict[str, list[Record]],
    console: Console,
) -> None:
    from rich.table import Table
    from rich.text import Text

    if not table:
        console.print(f"{root}: no finished run with a forecast of this version", soft_wrap=True)
    for device, quantities in table.items():
        console.print(Text(f"\n{device}", "bold"))
        shown = Table(box=None, pad_edge=False)
        for title in (
            "",
            "runs",
            "mean error",
            "measured / forecast",
            "nine of ten",
            "used by plan",
        ):
            shown.add_column(title, justify="left" if not title else "right")
        for name, found in quantities.items():
            shown.add_row(TITLES[name], *_cells(found))
        console.print(shown)
        for name in quantities:
            for r in [r for r in records[name] if r.device == device][-5:]:
                line = (
                    f"  {r.run}: {TITLES[name].lower()} {r.ratio:.2f} of the forecast "
                    f"(tunewright {r.version})"
                )
                console.print(Text(line, "dim"), soft_wrap=True)


def _cells(found: Calibration) -> tuple[Any, ...]:
    return (
        str(found.runs),
        f"{found.mean_error:.0%}",
        f"{found.factor:.2f}",
        f"{found.low:.2f} to {found.high:.2f}",
        "yes" if found.used else "from 3 runs on",
    )
