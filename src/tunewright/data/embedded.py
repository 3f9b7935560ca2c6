"""Data sets that come with the package: `embedded:support-tickets`."""

from __future__ import annotations

import difflib
import importlib.resources
from pathlib import Path

from tunewright.errors import DataError

PREFIX = "embedded:"


def embedded_folder(name: str) -> Path:
    """Folder of an embedded data set, with train.csv and test.csv in it. Raises DataError."""
    root = Path(str(importlib.resources.files("tunewright") / "data" / "embedded"))
    known = {path.name.replace("_", "-"): path for path in root.glob("*") if path.is_dir()}
    known.pop("--pycache--", None)
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {PREFIX}{near[0]}?" if near else f"known: {', '.join(sorted(known))}"
    raise DataError(f"{PREFIX}{name}: no such embedded data set; {hint}")
