"""The row of a JSONL file that an example's place leads back to, with every key that it has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

_PLACE = re.compile(r"(?P<path>.+):(?P<line>\d+)(?: \(.*\))?", re.DOTALL)


class RowsByPlace:
    """Rows of JSONL files by "rows.jsonl:41". Keeps where each line begins, no row."""

    def __init__(self) -> None:
        self._starts: dict[str, np.ndarray[Any, np.dtype[np.int64]]] = {}

    def find(self, place: str) -> dict[str, Any] | None:
        """The row; None where the place leads to no line of JSON in a file."""
        found = _PLACE.fullmatch(place)
        if found is None:
            return None
        try:
            starts = self._starts_of(found["path"])
            with open(found["path"], "rb") as file:
                file.seek(int(starts[int(found["line"]) - 1]))
                row = json.loads(file.readline().decode("utf-8-sig"))
        except (OSError, ValueError, IndexError, RecursionError):
            return None
        return row if isinstance(row, dict) else None

    def _starts_of(self, path: str) -> Any:
        if path not in self._starts:
            starts, here = [], 0
            with Path(path).open("rb") as file:
                for line in file:
                    starts.append(here)
                    here += len(line)
            self._starts[path] = np.array(starts, dtype=np.int64)
        return self._starts[path]
