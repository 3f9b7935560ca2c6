"""What editing a file needs to say: a change to a row, and the entry that it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tunewright.store import to_plain

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to a row. row: its new cells (those that differ), or None to take it out."""

    action: str
    kind: str
    reason: str
    row: Row | None = None
    id: str = ""


Decide = Callable[[str, Row], Change | None]
Note = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Kept:
    """How many rows a rewriting kept as they were, changed, and took out."""

    kept: int
    changed: int
    dropped: int


def make_entry(place: str, ordinal: int, change: Change, old: Mapping[str, Any]) -> dict[str, Any]:
    """What `put_back` and a reader need to know of a row that was changed or taken out."""
    file, _, line = place.rpartition(":")
    return {
        "file": file,
        "line": int(line),
        "id": change.id,
        "action": change.action,
        "kind": change.kind,
        "reason": change.reason,
        "ordinal": ordinal,
        **{name: _json_safe(value) for name, value in old.items()},
    }


def _json_safe(value: Any) -> Any:
    try:
        return to_plain(value)
    except TypeError:  # dates, bytes: shown as text; what is put back comes from "arrow"
        return json.loads(json.dumps(value, default=str))
