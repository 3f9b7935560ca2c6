"""Small planted data sets and bases for tests of pilot, choose and search: a second a training."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from planted import make_base, write_rows  # noqa: E402

TRAINING = {
    "num_epochs": 4, "num_threads": 1, "learning_rate": 2e-3, "batch_size": 16,
    "head_init": "random", "precision": "fp32",
}  # fmt: skip


def make_values(folder: Path, *, num_rows: int = 600, **changes: object) -> dict[str, object]:
    """Recipe values for a base and rows that are made in the folder."""
    kind = {"topics": 4, **changes}
    rows = write_rows(folder / "rows.csv", num_rows=num_rows, **kind)  # type: ignore[arg-type]
    return {
        "task": "classify",
        "base_model": str(make_base(folder / "base")),
        "data": {"train": str(rows), "validation": 0.25, "test": 0.0},
        "training": dict(TRAINING),
    }
