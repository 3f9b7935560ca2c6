"""Rows taken out of a file, or changed, in the file's own format; and put back again.

What stays is copied as it stands, byte for byte where rows are lines. Each row that is taken out or
changed is told to `note` with its text as it was, from which `put_back` makes the old file again.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tunewright.data.decode import open_text, read_sample
from tunewright.data.edit_arrow import restore_arrow, rewrite_arrow
from tunewright.data.edit_records import Decide, Kept, Note, Row, make_entry
from tunewright.data.formats import FORMATS, WRAPPERS, find_files, sniff_kind
from tunewright.data.listing import kind_of
from tunewright.data.separated import find_delimiter, quotes_are_text
from tunewright.errors import DataError
from tunewright.store import to_plain

BOM = b"\xef\xbb\xbf"


def files_to_edit(source: str) -> list[tuple[Path, str, str]]:
    """(path, name to show, kind) of each file of a source. Raises DataError for class folders."""
    files = []
    for path, shown in find_files(source):
        if path.is_dir():
            raise DataError(
                f"{source}: a folder with a class in each subfolder; delete files there instead"
            )
        kind = kind_of(path.name) or sniff_kind(path)
        if kind == "text" and "\t" in read_sample(path).decode("utf-8", "replace")[:2000]:
            kind = "tsv" if _is_table(path, shown) else kind
        files.append((path, shown, kind))
    return files


def rewrite(path: Path, shown: str, kind: str, target: Path, decide: Decide, note: Note) -> Kept:
    """Write to `target` what `decide` leaves of a file; `note` gets an entry for every other row.

    An entry holds file, line, ordinal (from 0), id, action, kind, reason, and the old row.
    """
    return _WRITERS[kind](path, shown, kind, target, decide, note)


def put_back(path: Path, kind: str, target: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write to `target` the file that `rewrite` once read, from what it wrote and its entries."""
    by_ordinal = {int(entry["ordinal"]): entry for entry in entries}
    _RESTORERS[kind](path, kind, target, by_ordinal)


def _is_table(path: Path, shown: str) -> bool:
    try:
        next(iter(FORMATS["tsv"](path, shown)))
    except (DataError, StopIteration):
        return False
    return True


# -- files in which a row is one line or several ---------------------------------------------------


def _rewrite_lines(
    path: Path, shown: str, kind: str, target: Path, decide: Decide, note: Note
) -> Kept:
    counts = {"kept": 0, "changed": 0, "dropped": 0}
    reshape = _line_writer(path, kind)
    with _open_target(path, target) as out:
        for ordinal, (place, row, text) in enumerate(_records(path, shown, kind, out)):
            change = decide(place, row)
            if change is None:
                out.write(text)
                counts["kept"] += 1
                continue
            new = None if change.row is None else reshape({**row, **change.row}, text)
            note(make_entry(place, ordinal, change, {"text": text, "new": new}))
            if new is not None:
                out.write(new)
            counts["dropped" if new is None else "changed"] += 1
    return Kept(**counts)


def _restore_lines(
    path: Path, kind: str, target: Path, by_ordinal: dict[int, Mapping[str, Any]]
) -> None:
    with _open_target(path, target) as out:
        ordinal = 0
        for _, _, text in _records(path, path.name, kind, out, may_be_empty=True):
            while ordinal in by_ordinal and by_ordinal[ordinal]["new"] is None:
                out.write(by_ordinal[ordinal]["text"])
                ordinal += 1
            old = by_ordinal.get(ordinal)
            out.write(text if old is None else old["text"])
            ordinal += 1
        for left in sorted(number for number in by_ordinal if number >= ordinal):
            out.write(by_ordinal[left]["text"])


def _records(
    path: Path, shown: str, kind: str, out: IO[str], *, may_be_empty: bool = False
) -> Iterator[tuple[str, Row, str]]:
    """(place, row, its lines as they stand) of each row; what stands before them goes to out."""
    rows = iter(FORMATS[kind](path, shown))
    with open_text(path, newline="") as file:
        lines = enumerate(file, 1)
        try:
            pending = next(rows, None)
        except DataError:
            if not may_be_empty:
                raise
            pending = None
        begin = _line_of(pending[0]) if pending else None
        held = ""
        for number, line in lines:
            if begin is None or number < begin:
                out.write(line)
                continue
            held = line
            break
        while pending is not None:
            following = next(rows, None)
            end = _line_of(following[0]) if following else None
            parts, held = [held], ""
            for number, line in lines:
                if end is not None and number >= end:
                    held = line
                    break
                parts.append(line)
            yield pending[0], pending[1], "".join(parts)
            pending = following


def _line_of(place: str) -> int:
    return int(place.rpartition(":")[2])


def _line_writer(path: Path, kind: str) -> Callable[[Row, str], str]:
    """A function from a changed row and its old lines to its new ones."""
    if kind == "jsonl":
        return lambda row, old: (
            json.dumps(to_plain(row), ensure_ascii=old.isascii()) + _line_end(old)
        )
    if kind == "text":
        return lambda row, old: str(row["text"]) + _line_end(old)
    delimiter = "\t" if kind == "tsv" else find_delimiter(path)
    literal = delimiter == "\t" and quotes_are_text(path)

    def write(row: Row, old: str) -> str:
        cells = ["" if value is None else str(value) for value in row.values()]
        if literal:
            return "\t".join(" ".join(cell.split("\t")) for cell in cells) + _line_end(old)
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=delimiter, lineterminator="").writerow(cells)
        return text.getvalue() + _line_end(old)

    return write


def _line_end(text: str) -> str:
    """The line end of a row, and blank lines after it."""
    return text[len(text.rstrip("\r\n")) :]


@contextmanager
def _open_target(path: Path, target: Path) -> Iterator[IO[str]]:
    """The target as text; gzip by its name, a byte order mark where path has one."""
    mark = read_sample(path, 3) == BOM if path.stat().st_size else False
    encoding = "utf-8-sig" if mark else "utf-8"
    if target.name.removesuffix(".tmp").endswith(".gz"):
        packed = gzip.GzipFile(target, "wb", mtime=0)
        with packed, io.TextIOWrapper(packed, encoding=encoding, newline="") as out:
            yield out
        return
    with open(target, "w", encoding=encoding, newline="") as out:
        yield out


# -- one JSON document -----------------------------------------------------------------------------


def _rewrite_json(
    path: Path, shown: str, kind: str, target: Path, decide: Decide, note: Note
) -> Kept:
    document, indent = _read_document(path)
    kept, counts = [], {"kept": 0, "changed": 0, "dropped": 0}
    for ordinal, row in enumerate(_json_rows(document)):
        place = f"{shown}:{ordinal + 1}"
        change = decide(place, row)
        if change is None:
            kept.append(row)
            counts["kept"] += 1
            continue
        new = None if change.row is None else {**row, **change.row}
        note(make_entry(place, ordinal, change, {"row": row, "new": new}))
        if new is not None:
            kept.append(new)
        counts["dropped" if new is None else "changed"] += 1
    _write_document(path, target, _with_rows(document, kept), indent)
    return Kept(**counts)


def _restore_json(
    path: Path, kind: str, target: Path, by_ordinal: dict[int, Mapping[str, Any]]
) -> None:
    document, indent = _read_document(path)
    left = list(_json_rows(document))
    restored: list[Any] = []
    while left or len(restored) in by_ordinal:
        old = by_ordinal.get(len(restored))
        if old is None or old["new"] is not None:
            row = left.pop(0)
            restored.append(row if old is None else old["row"])
        else:
            restored.append(old["row"])
    _write_document(path, target, _with_rows(document, restored), indent)


def _read_document(path: Path) -> tuple[Any, int | None]:
    with open_text(path) as file:
        text = file.read()
    second = text.split("\n", 2)[1:2]
    indent = len(second[0]) - len(second[0].lstrip(" ")) if second and second[0].strip() else 0
    return json.loads(text), indent or None


def _json_rows(document: Any) -> list[Any]:
    if isinstance(document, list):
        return document
    for key in WRAPPERS:
        inner = document.get(key)
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            return inner
    return [
        dict(zip(document, cells, strict=True)) for cells in zip(*document.values(), strict=True)
    ]


def _with_rows(document: Any, rows: list[Any]) -> Any:
    if isinstance(document, list):
        return rows
    for key in WRAPPERS:
        inner = document.get(key)
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            return {**document, key: rows}
    return {name: [row[name] for row in rows] for name in document}


def _write_document(path: Path, target: Path, document: Any, indent: int | None) -> None:
    with _open_target(path, target) as out:
        json.dump(document, out, ensure_ascii=False, indent=indent)
        out.write("\n")


_WRITERS: dict[str, Callable[..., Kept]] = {
    **dict.fromkeys(("csv", "tsv", "jsonl", "text"), _rewrite_lines),
    "json": _rewrite_json,
    **dict.fromkeys(("parquet", "arrow"), rewrite_arrow),
}
_RESTORERS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(("csv", "tsv", "jsonl", "text"), _restore_lines),
    "json": _restore_json,
    **dict.fromkeys(("parquet", "arrow"), restore_arrow),
}
