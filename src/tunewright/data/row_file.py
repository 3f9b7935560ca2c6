"""Rows of tokens on disk, read through a memory map: a million take no more memory than ten.

A sequence of rows that are built when they are looked at. It lies in parts, each written by one
process and whole or not there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from tunewright.data.render import Row

_DIGEST = "digest.json"


class StoredRows(Sequence[Row]):
    """Rows of tokens in flat files, in parts that were written one by one.

    lengths: num_tokens of every row, (N,) int64, in memory: 8 bytes a row.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts = [_Part(path) for path in sorted(folder.glob("part-*[0-9]"))]
        self._ends = np.cumsum([len(part) for part in self._parts], dtype=np.int64)
        self.lengths = np.concatenate([part.lengths for part in self._parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = int(index) + len(self) if index < 0 else int(index)
        if not 0 <= place < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, place, side="right"))
        return self._parts[number][place - (int(self._ends[number - 1]) if number else 0)]

    @property
    def digest(self) -> str:
        """The same as digest_rows gives for these rows in memory; worked out once."""
        path = self._folder / _DIGEST
        if not path.exists():
            path.write_text(json.dumps(_digest(self)), encoding="utf-8")
        return str(json.loads(path.read_bytes()))

    @property
    def lost_targets(self) -> NDArray[np.int64]:
        """Tokens of each row's target that did not fit, (N,)."""
        return np.concatenate([np.asarray(part.lost) for part in self._parts])


_FILES = ("ids", "weights", "targets", "index", "lost", "scalars", "names", "lengths")


class _Part:
    """One part: flat arrays of tokens, and where each row's lie.

    index (N + 1, 4): ends of ids, weights, targets and name of each row. scalars (N, 3) float64:
    weight of the row, its target as a number, and its kind: 0 none, 1 int, 2 float, 3 float32s,
    4 int32s; 8 is added where there are weights.
    """

    def __init__(self, folder: Path) -> None:
        arrays = {name: _map(folder / f"{name}.npy") for name in _FILES}
        self.ids, self.weights, self.targets = arrays["ids"], arrays["weights"], arrays["targets"]
        self.index, self.lost, self.scalars = arrays["index"], arrays["lost"], arrays["scalars"]
        self.names, self.lengths = arrays["names"], np.array(arrays["lengths"])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, place: int) -> Row:
        (i0, w0, t0, n0), (i1, w1, t1, n1) = (
            self.index[place].tolist(),
            self.index[place + 1].tolist(),
        )
        weight, number, kind = self.scalars[place].tolist()
        has_weights, kind = divmod(int(kind), 8)
        target: Any = None
        if kind == 1:
            target = int(number)
        elif kind == 2:
            target = number
        elif kind in (3, 4):
            raw = np.array(self.targets[t0:t1])
            target = raw.view(np.float32) if kind == 3 else raw
        return Row(
            id=bytes(self.names[n0:n1]).decode("utf-8"),
            input_ids=np.array(self.ids[i0:i1]),
            target_weights=np.array(self.weights[w0:w1]) if has_weights else None,
            target=target,
            weight=weight,
            lost_targets=int(self.lost[place]),
        )


def _map(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def write_rows(folder: Path, rows: Sequence[Row]) -> None:
    """One part of StoredRows; the folder must exist."""
    index = np.zeros((len(rows) + 1, 4), dtype=np.int64)
    scalars = np.zeros((len(rows), 3), dtype=np.float64)
    ids, weights, targets, names = [], [], [], []
    for place, row in enumerate(rows):
        name = row.id.encode("utf-8")
        target = row.target
        raw = np.zeros(0, np.int32)
        if target is None:
            kind = 0
        elif isinstance(target, np.ndarray):
            kind = 3 if target.dtype == np.float32 else 4
            raw = np.ascontiguousarray(target).view(np.int32)
        else:
            kind = 1 if isinstance(target, int) else 2
            scalars[place, 1] = target
        held = np.zeros(0, np.float32) if row.target_weights is None else row.target_weights
        scalars[place, 0] = row.weight
        scalars[place, 2] = kind + (0 if row.target_weights is None else 8)
        sizes = (row.input_ids.size, held.size, raw.size, len(name))
        index[place + 1] = index[place] + sizes
        ids.append(row.input_ids)
        weights.append(held)
        targets.append(raw)
        names.append(np.frombuffer(name, np.uint8))
    arrays = {
        "ids": _flat(ids, np.int32),
        "weights": _flat(weights, np.float32),
        "targets": _flat(targets, np.int32),
        "names": _flat(names, np.uint8),
        "index": index,
        "scalars": scalars,
        "lost": np.array([row.lost_targets for row in rows], dtype=np.int64),
        "lengths": np.array([row.num_tokens for row in rows], dtype=np.int64),
    }
    for file in _FILES:
        np.save(folder / f"{file}.npy", arrays[file], allow_pickle=False)


def _flat(parts: list[NDArray[Any]], kind: Any) -> NDArray[Any]:
    return np.concatenate(parts).astype(kind) if parts else np.zeros(0, kind)


def row_lengths(rows: Sequence[Row]) -> NDArray[np.int64]:
    """num_tokens of every row, (N,)."""
    if isinstance(rows, StoredRows):
        return rows.lengths
    return np.array([row.num_tokens for row in rows], dtype=np.int64)


def lost_targets(rows: Sequence[Row]) -> NDArray[np.int64]:
    """Tokens of every row's target that did not fit, (N,)."""
    if isinstance(rows, StoredRows):
        return rows.lost_targets
    return np.array([row.lost_targets for row in rows], dtype=np.int64)


def first_by_id(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many rows, those whose ids come first."""
    order = sorted(range(len(rows)), key=lambda place: rows[place].id)
    return [rows[place] for place in order[:most]]


def digest_rows(rows: Sequence[Row]) -> str:
    """SHA-256 over ids, tokens, weights and targets of all rows in order."""
    return rows.digest if isinstance(rows, StoredRows) else _digest(rows)


def _digest(rows: Sequence[Row]) -> str:
    data = hashlib.sha256()
    for row in rows:
        at: Row | None = row
        while at is not None:
            data.update(at.id.encode())
            data.update(at.input_ids.tobytes())
            if at.target_weights is not None:
                data.update(at.target_weights.tobytes())
            target = at.target
            raw = target.tobytes() if isinstance(target, np.ndarray) else repr(target).encode()
            data.update(raw)
            at = at.other
    return data.hexdigest()
