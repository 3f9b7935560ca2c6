"""Rows taken out of parquet and Arrow files, or changed in them, and put back. See edit.py.

An entry carries the old row as an Arrow stream of one row, so that it comes back with every type.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tunewright.data.edit_records import Decide, Kept, Note, Row, make_entry
from tunewright.data.formats import FORMATS
from tunewright.errors import DataError


def rewrite_arrow(
    path: Path, shown: str, kind: str, target: Path, decide: Decide, note: Note
) -> Kept:
    """Write what `decide` leaves of a parquet or Arrow file; see edit.rewrite."""
    import pyarrow as pa

    counts = {"changed": 0, "dropped": 0}
    rows = FORMATS[kind](path, shown)
    ordinal = 0
    with ExitStack() as stack:
        schema, batches = stack.enter_context(_arrow_batches(path, kind))
        add = stack.enter_context(_arrow_target(target, kind, schema))
        for batch in batches:
            parts, begin = [], 0
            for index in range(batch.num_rows):
                place, row = next(rows)
                change = decide(place, row)
                if change is not None:
                    old = batch.slice(index, 1)
                    new = None if change.row is None else _changed(old, change.row, place)
                    note(make_entry(place, ordinal, change, {"row": row, **_packed(old, new)}))
                    parts.append(batch.slice(begin, index - begin))
                    parts += [] if new is None else [new]
                    begin = index + 1
                    counts["dropped" if new is None else "changed"] += 1
                ordinal += 1
            add(pa.Table.from_batches([*parts, batch.slice(begin)], schema))
    return Kept(ordinal - counts["changed"] - counts["dropped"], **counts)


def restore_arrow(
    path: Path, kind: str, target: Path, by_ordinal: dict[int, Mapping[str, Any]]
) -> None:
    """Write the file as it was, from its entries by ordinal; see edit.put_back."""
    import pyarrow as pa

    ordinal = 0
    with ExitStack() as stack:
        schema, batches = stack.enter_context(_arrow_batches(path, kind))
        add = stack.enter_context(_arrow_target(target, kind, schema))
        for batch in batches:
            parts, begin = [], 0
            for index in range(batch.num_rows):
                while ordinal in by_ordinal and by_ordinal[ordinal]["new"] is None:
                    parts += [batch.slice(begin, index - begin), _unpacked(by_ordinal[ordinal])]
                    begin, ordinal = index, ordinal + 1
                if ordinal in by_ordinal:
                    parts += [batch.slice(begin, index - begin), _unpacked(by_ordinal[ordinal])]
                    begin = index + 1
                ordinal += 1
            add(pa.Table.from_batches([*parts, batch.slice(begin)], schema))
        rest = [_unpacked(by_ordinal[number]) for number in sorted(by_ordinal) if number >= ordinal]
        if rest:
            add(pa.Table.from_batches(rest, schema))


@contextmanager
def _arrow_batches(path: Path, kind: str) -> Iterator[tuple[Any, Iterator[Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if kind == "parquet":
        with pq.ParquetFile(path) as file:
            yield file.schema_arrow, file.iter_batches(8192)
        return
    with pa.OSFile(str(path)) as source:
        if source.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(source)
            yield reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            source.seek(0)
            stream = pa.ipc.open_stream(source)
            yield stream.schema, iter(stream)


@contextmanager
def _arrow_target(target: Path, kind: str, schema: Any) -> Iterator[Callable[[Any], None]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if kind == "parquet":
        with pq.ParquetWriter(target, schema) as writer:
            yield writer.write_table
        return
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        yield writer.write_table


def _changed(old: Any, cells: Row, place: str) -> Any:
    import pyarrow as pa

    columns = []
    for name, column in zip(old.schema.names, old.columns, strict=True):
        try:
            new = pa.array([cells[name]], type=column.type) if name in cells else column
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError):
            raise DataError(
                f"{place}: {str(cells[name])[:40]!r} does not fit column {name} of type "
                f"{column.type}"
            ) from None
        columns.append(new)
    return pa.RecordBatch.from_arrays(columns, schema=old.schema)


def _packed(old: Any, new: Any) -> dict[str, Any]:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, old.schema) as writer:
        writer.write_batch(old)
    packed = base64.b64encode(sink.getvalue().to_pybytes()).decode("ascii")
    return {"arrow": packed, "new": None if new is None else new.to_pylist()[0]}


def _unpacked(entry: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    return next(iter(pa.ipc.open_stream(base64.b64decode(entry["arrow"]))))
