"""Examples on disk, read through a memory map: a million take no more memory than ten.

A sequence of records that are built when they are looked at; two looks give two equal objects.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa

from tunewright.records import Example, Message, Span

WRITTEN_ROWS = 2_000
_TEXTS = ("id", "place", "input", "more")
_SCHEMA = pa.schema([(name, pa.large_string()) for name in _TEXTS])


class StoredExamples(Sequence[Example]):
    """Examples of one side of a split, in an Arrow file."""

    def __init__(self, path: Path, change: Callable[[Example], Example] | None = None) -> None:
        self.path = path
        self._change = change
        self._map = pa.memory_map(str(path))
        self._file = pa.ipc.open_file(self._map)
        counts = [self._file.get_batch(i).num_rows for i in range(self._file.num_record_batches)]
        self._ends = np.cumsum(counts, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._ends.size else 0

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Example, ...]: ...
    def __getitem__(self, index: int | slice) -> Example | tuple[Example, ...]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return tuple(self.between(start, stop))
            return tuple(self[i] for i in range(start, stop, step))
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        return next(self.between(place, place + 1))

    def __iter__(self) -> Iterator[Example]:
        return self.between(0, len(self))

    def __add__(self, others: Sequence[Example]) -> tuple[Example, ...]:
        return (*self, *others)

    def __radd__(self, others: Sequence[Example]) -> tuple[Example, ...]:
        return (*others, *self)

    def seen_through(self, change: Callable[[Example], Example]) -> StoredExamples:
        """The same examples, each as `change` gives it back when it is looked at."""
        return StoredExamples(self.path, change)

    def between(self, start: int, stop: int) -> Iterator[Example]:
        """The examples from start up to stop."""
        while start < stop:
            number = int(np.searchsorted(self._ends, start, side="right"))
            first = int(self._ends[number - 1]) if number else 0
            size = min(stop, int(self._ends[number])) - start
            part = self._file.get_batch(number).slice(start - first, size)
            columns = [part.column(name).to_pylist() for name in _TEXTS]
            for row in zip(*columns, strict=True):
                example = _from_texts(*row)
                yield self._change(example) if self._change else example
            start += size


class ExampleWriter:
    """Writes examples into an Arrow file one by one; a context manager."""

    def __init__(self, path: Path) -> None:
        self._sink = pa.OSFile(str(path), "wb")
        self._file = pa.ipc.new_file(self._sink, _SCHEMA)
        self._rows: list[tuple[str, str, str, str]] = []

    def __enter__(self) -> ExampleWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._flush()
        self._file.close()
        self._sink.close()

    def add(self, example: Example) -> None:
        """One more example. Raises TypeError where it holds what JSON cannot."""
        self._rows.append(_to_texts(example))
        if len(self._rows) == WRITTEN_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._file.write_batch(_batch(self._rows))
            self._rows = []


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """An Arrow file of these examples. Raises TypeError where one holds what JSON cannot."""
    with ExampleWriter(path) as writer:
        for example in examples:
            writer.add(example)


def _batch(rows: list[tuple[str, str, str, str]]) -> pa.RecordBatch:
    columns = [pa.array(column, pa.large_string()) for column in zip(*rows, strict=True)]
    return pa.record_batch(columns, schema=_SCHEMA)


def _to_texts(example: Example) -> tuple[str, str, str, str]:
    output: Any = example.output
    if isinstance(output, tuple):
        output = [[i.start, i.end, i.label] if isinstance(i, Span) else i for i in output]
    more = {
        "o": output,
        "m": [[m.role, m.content, m.weight, [dict(c) for c in m.tool_calls], m.name, m.tool_call_id]
              for m in example.messages],
        "t": [dict(tool) for tool in example.tools],
        "r": list(example.references),
        "c": [list(pair) for pair in example.columns],
        "g": example.group,
        "j": example.rejected,
        "w": None if example.weight == 1.0 else example.weight,
    }  # fmt: skip
    kept = {key: value for key, value in more.items() if value not in (None, [])}
    if output == []:  # an empty tuple is an answer too: nothing to tag
        kept["o"] = []
    text = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
    return example.id, example.place, example.input, text


def _from_texts(id: str, place: str, text: str, more: str) -> Example:
    kept = json.loads(more)
    output = kept.get("o")
    if isinstance(output, list):
        output = tuple(Span(*item) if isinstance(item, list) else item for item in output)
    messages = tuple(
        Message(role, content, weight, tuple(calls), name, call_id)
        for role, content, weight, calls, name, call_id in kept.get("m", ())
    )
    return Example(
        id=id,
        place=place,
        input=text,
        output=output,
        messages=messages,
        tools=tuple(kept.get("t", ())),
        references=tuple(kept.get("r", ())),
        columns=tuple((name, value) for name, value in kept.get("c", ())),
        group=kept.get("g"),
        rejected=kept.get("j"),
        weight=kept.get("w", 1.0),
    )
