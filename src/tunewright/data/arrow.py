"""Rows from parquet, Arrow (file and stream form, Feather) and `save_to_disk` folders, in batches.

Class numbers become class names where the schema (as the datasets library writes it) has them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunewright.data.decode import allowed_bytes, explain_missing, trust_remedy
from tunewright.errors import DataError

BATCH_ROWS = 1024
# Columns compress further than text does, and a column of one value almost without end; rows that
# take this many times the file's bytes were made to fill a memory.
MAX_EXPANSION = 500
EXPANSION_ALLOWED_BYTES = 2**28
MAX_ROWS_PER_BYTE, ROWS_ALLOWED = 50, 1_000_000
FIRST_ROWS = 16


def read_parquet(path: Path, shown: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of a parquet file; the place holds the row's number, from 1."""
    import pyarrow.parquet as pq

    with _naming_arrow_errors(path), pq.ParquetFile(path) as file:
        _refuse_declared(path, file.metadata)
        batches = _limited(path, file.iter_batches(_batch_rows(file)))
        yield from _number(batches, file.schema_arrow, shown)


def _batch_rows(file: Any) -> int:
    """Rows to read at a time: fewer where the first few take many bytes each."""
    first = next(file.iter_batches(FIRST_ROWS), None)
    if first is None or first.num_rows == 0:
        return BATCH_ROWS
    bytes_a_row = max(1, _plain_bytes(first) // int(first.num_rows))
    return max(1, min(BATCH_ROWS, (64 * 2**20) // bytes_a_row))


def _refuse_declared(path: Path, notes: Any) -> None:
    """Refuse what a parquet file itself says to hold, before any of it is unpacked.

    Values that repeat are declared small, so `_limited` counts again while rows are read.
    """
    groups = (notes.row_group(number) for number in range(notes.num_row_groups))
    unpacked = sum(group.total_byte_size for group in groups)
    if unpacked > _most_bytes(path):
        raise DataError(_say_bomb(path, f"declares {unpacked:,} unpacked bytes"))
    most_rows = max(ROWS_ALLOWED, MAX_ROWS_PER_BYTE * path.stat().st_size)
    if notes.num_rows > most_rows and not allowed_bytes():
        raise DataError(_say_bomb(path, f"declares {notes.num_rows:,} rows"))


def _most_bytes(path: Path) -> int:
    return max(EXPANSION_ALLOWED_BYTES, MAX_EXPANSION * path.stat().st_size, allowed_bytes())


def _say_bomb(path: Path, what: str) -> str:
    return f"{path}: {what} in a file of {path.stat().st_size:,}; {trust_remedy()}"


def _limited(path: Path, batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, until they take far more bytes than the file could honestly hold."""
    limit = _most_bytes(path)
    seen = 0
    for batch in batches:
        seen += _plain_bytes(batch)
        if seen > limit:
            raise DataError(_say_bomb(path, f"unpacks to more than {limit:,} bytes"))
        yield batch


def _plain_bytes(batch: Any) -> int:
    """Bytes of a batch with its dictionaries written out: one long value in a dictionary is small
    until every row is made a copy of it."""
    return sum(map(_written_out, batch.columns))


def _written_out(array: Any) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_dictionary(kind):
        values = array.dictionary
        if pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type):
            lengths = pc.take(pc.cast(pc.binary_length(values), pa.int64()), array.indices)
            return pc.sum(lengths).as_py() or 0
        return len(array) * (_written_out(values) // max(1, len(values)))
    if pa.types.is_struct(kind):
        return sum(map(_written_out, array.flatten()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return 8 * len(array) + _written_out(array.flatten())
    return int(array.nbytes)


def read_arrow(path: Path, shown: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of an Arrow file or stream; the place holds the row's number, from 1."""
    import pyarrow as pa

    with _naming_arrow_errors(path), pa.OSFile(str(path)) as source:
        if source.read(6) == b"ARROW1":
            file = pa.ipc.open_file(source)
            batches: Any = (file.get_batch(i) for i in range(file.num_record_batches))
            yield from _number(_limited(path, batches), file.schema, shown)
        else:
            source.seek(0)
            stream = pa.ipc.open_stream(source)
            yield from _number(_limited(path, stream), stream.schema, shown)


def saved_files(folder: Path) -> list[Path] | None:
    """Arrow files of a `Dataset.save_to_disk` folder in order; None where it is no such folder."""
    state = folder / "state.json"
    if not state.is_file():
        return None
    try:
        names = [item["filename"] for item in json.loads(state.read_bytes())["_data_files"]]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{state}: not the state of a saved dataset; save it again") from None
    files = [folder / Path(name).name for name in names]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{missing[0]}: missing from the saved dataset; copy the whole folder")
    return files


def saved_splits(folder: Path) -> list[str] | None:
    """Split names of a `DatasetDict.save_to_disk` folder; None where it is no such folder."""
    index = folder / "dataset_dict.json"
    if not index.is_file():
        return None
    try:
        return [str(name) for name in json.loads(index.read_bytes())["splits"]]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{index}: no list of splits in it; save the dataset again") from None


def _number(
    batches: Iterable[Any], schema: Any, shown: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    rename = _class_namers(schema)
    number = 0
    for batch in batches:
        batch.validate(full=True)  # damaged offsets would be read as addresses
        for row in _slices(batch):
            number += 1
            for name, to_name in rename.items():
                row[name] = to_name(row.get(name))
            yield f"{shown}:{number}", row


def _slices(batch: Any) -> Iterator[dict[str, Any]]:
    for start in range(0, batch.num_rows, BATCH_ROWS):
        yield from batch.slice(start, BATCH_ROWS).to_pylist()


def _class_namers(schema: Any) -> dict[str, Callable[[Any], Any]]:
    """Column name to a function from class numbers (or lists of them) to names."""
    try:
        notes = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = notes.get("info", {}).get("features", {})
    except (ValueError, AttributeError):
        return {}
    return {
        column: _class_namer(names)
        for column, feature in features.items()
        if column in schema.names and (names := _class_names(feature))
    }


def _class_names(feature: Any) -> list[str] | None:
    if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
        return feature.get("names")
    inner = feature.get("feature") if isinstance(feature, dict) else feature
    if isinstance(feature, list) and feature:
        inner = feature[0]
    return _class_names(inner) if isinstance(inner, dict) else None


def _class_namer(names: list[str]) -> Callable[[Any], Any]:
    def to_name(value: Any) -> Any:
        if isinstance(value, list):
            return [to_name(item) for item in value]
        if isinstance(value, int) and 0 <= value < len(names):
            return names[value]
        return None if value == -1 else value  # -1 stands for "no label" in published test sets

    return to_name


@contextmanager
def _naming_arrow_errors(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError as error:
        raise explain_missing(path, error) from None
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0][:200]
        raise DataError(f"{path}: damaged or not Arrow data ({reason}); write it again") from None
