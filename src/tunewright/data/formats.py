"""Rows from wherever a user's data lies: a file, a folder, the hub, https, or the package itself.

A raw row is a plain dict as the file holds it; what its columns mean is found in columns.py.
The place of a row is `name:N`: the line in line formats, else the row's number from 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tunewright.data.arrow import read_arrow, read_parquet, saved_files, saved_splits
from tunewright.data.decode import explain_missing, number_lines, open_text, read_sample
from tunewright.data.embedded import PREFIX, embedded_folder
from tunewright.data.hub import HUB_PREFIX, HubSource, fetch_hub, hub_splits, parse_hub_source
from tunewright.data.listing import (
    EXTENSIONS,
    SPLIT_WORDS,
    data_names,
    kind_of,
    select,
    split_names,
)
from tunewright.data.separated import rank_delimiters, read_csv, read_tsv
from tunewright.data.web import fetch_file
from tunewright.errors import DataError

Rows = Iterator[tuple[str, dict[str, Any]]]
Reader = Callable[..., Rows]
MAX_JSON_BYTES = 2**30
WRAPPERS = ("data", "rows", "examples", "train")


def read_rows(
    source: str, *, format: str = "auto", split: str | None = None, paragraphs: bool = False
) -> Rows:
    """(place, row) of every row behind `source`, one at a time.

    format: a key of FORMATS, or auto: by extension, else by content.
    split: train, validation or test, of a source that has named splits; None means train, or
        everything where nothing is named.
    paragraphs: text files yield blank-line-separated paragraphs instead of lines.
    Raises DataError (place, value, remedy) for whatever cannot be read.
    """
    found = False
    for path, shown in find_files(source, split):
        if path.is_dir():
            rows: Rows = _read_class_folders(path)
        else:
            rows = _read_file(path, shown, format, paragraphs)
        for row in rows:
            found = True
            yield row
    if not found:
        raise DataError(f"{source}: no rows in it; give a file with at least a few")


def find_files(source: str, split: str | None = None) -> list[tuple[Path, str]]:
    """(local path, name to show) of each file behind `source`; remote ones are fetched."""
    if source.startswith(("https://", "http://", "ftp://")):
        path = fetch_file(source)
        return [(path, path.name)]
    if source.startswith(HUB_PREFIX):
        return fetch_hub(_hub_source(source), split)
    if source.startswith(PREFIX):
        name, _, own_split = source.removeprefix(PREFIX).partition(":")
        return _files_of_folder(embedded_folder(name), own_split or split)
    path = _local(source)
    if path.is_file():
        return [(path, path.name)]
    if path.is_dir():
        return _files_of_folder(path, split)
    folder, _, own_split = source.rpartition(":")
    if folder and own_split in SPLIT_WORDS and Path(folder).is_dir():
        return _files_of_folder(Path(folder), own_split)
    known = path.is_absolute() or path.is_symlink() or kind_of(source)
    hub = None if known else parse_hub_source(source)
    if hub is None:
        raise explain_missing(path)
    return fetch_hub(hub, split)


def named_splits(source: str) -> frozenset[str]:
    """Splits that a folder, hub or embedded source brings along by name; none for a single file."""
    if source.startswith(PREFIX):
        name, _, own_split = source.removeprefix(PREFIX).partition(":")
        return frozenset() if own_split else _splits_of_folder(embedded_folder(name))
    path = _local(source)
    if source.startswith(HUB_PREFIX) or not (path.exists() or kind_of(source) or ":/" in source):
        hub = None if path.is_absolute() else parse_hub_source(source)
        return hub_splits(hub) if hub and not hub.split else frozenset()
    return _splits_of_folder(path) if path.is_dir() else frozenset()


def size_bytes(source: str) -> int:
    """Bytes of the local files behind `source`; 0 where it is not local."""
    path = _local(source)
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file, _ in find_files(source)) if path.is_dir() else 0


def _local(source: str) -> Path:
    """The source as a path, which need not exist. Raises DataError where it cannot be one."""
    try:
        path = Path(source).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{source[:80]}: not a usable path ({error}); check it") from None
    return path


def _hub_source(source: str) -> HubSource:
    hub = parse_hub_source(source)
    assert hub is not None
    return hub


def _read_file(path: Path, shown: str, format: str, paragraphs: bool) -> Rows:
    if path.stat().st_size == 0:
        raise DataError(f"{path}: empty (0 bytes); give a file with rows")
    kind = format if format != "auto" else kind_of(path.name) or sniff_kind(path)
    if kind == "text":
        if format == "auto" and _is_tab_table(path):
            return read_tsv(path, shown)
        return read_text(path, shown, paragraphs=paragraphs)
    return FORMATS[kind](path, shown)


def sniff_kind(path: Path) -> str:
    """The kind of a file whose name does not tell, from its first bytes. Raises DataError."""
    sample = read_sample(path)
    if sample.startswith(b"PAR1"):
        return "parquet"
    if sample.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    with open_text(path) as file:  # refuses what is not text
        first = file.read(1 << 16).lstrip()
    if first.startswith("["):
        return "json"
    if first.startswith("{"):
        line = first.split("\n", 1)[0]
        return "jsonl" if line.rstrip().endswith("}") else "json"
    ranked = rank_delimiters(sample)
    if ranked and ranked[0][0] > 0.5:
        return "csv"
    known = ", ".join(f".{name}" for name in EXTENSIONS)
    what = f"extension {path.suffix} unknown" if path.suffix else "no extension"
    raise DataError(
        f"{path}: {what}, and the content does not tell; set data.format, or use {known}"
    )


def _is_tab_table(path: Path) -> bool:
    ranked = rank_delimiters(read_sample(path))
    return (1.0, "\t") in ranked


def read_jsonl(path: Path, shown: str) -> Rows:
    """(place, row) of a file with one JSON object a line. Raises DataError naming a broken line."""
    with open_text(path) as file:
        for number, line in number_lines(file, shown):
            if line.strip():
                row = _parse_json(line, f"{shown}:{number}", path)
                if not isinstance(row, dict):
                    raise DataError(
                        f"{shown}:{number}: {_json_word(row)}, not an object; write one "
                        '{"name": value, ...} a line'
                    )
                yield f"{shown}:{number}", row


def read_json(path: Path, shown: str) -> Rows:
    """(place, row) of a JSON list of objects, {"data": [...]}, or one object of columns."""
    with open_text(path) as file:
        text = "" if path.stat().st_size > MAX_JSON_BYTES else file.read(MAX_JSON_BYTES + 1)
    if not text or len(text) > MAX_JSON_BYTES:
        raise DataError(
            f"{path}: larger than {MAX_JSON_BYTES:,} bytes; write it as jsonl, which "
            "is read line by line"
        )
    value = _parse_json(text, shown, path)
    rows = _rows_of(value)
    if rows is None:
        raise DataError(
            f"{path}: {_json_word(value)} without rows; give a list of objects, "
            '{"data": [...]}, or one list per column'
        )
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(
                f"{shown}:{number}: {_json_word(row)} where an object belongs; "
                "make every item of the list an object"
            )
        yield f"{shown}:{number}", row


def read_text(path: Path, shown: str, *, paragraphs: bool = False) -> Rows:
    """(place, {"text": ...}) per line, or per paragraph where the file has blank lines between."""
    by_paragraph = paragraphs and _has_blank_lines(path)
    start, lines = 0, list[str]()
    with open_text(path) as file:
        for number, line in number_lines(file, shown):
            if line.strip():
                start = start if lines else number
                lines.append(line.rstrip("\n"))
            if lines and (not by_paragraph or not line.strip()):
                yield f"{shown}:{start}", {"text": "\n".join(lines)}
                lines = []
    if lines:
        yield f"{shown}:{start}", {"text": "\n".join(lines)}


def _has_blank_lines(path: Path) -> bool:
    started = blank = False
    with open_text(path) as file:
        for line in file:
            if line.strip():
                if blank:
                    return True
                started = True
            else:
                blank = started
    return False


def _parse_json(text: str, place: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = place if place.rpartition(":")[2].isdigit() else f"{place}:{error.lineno}"
        hint = "mend it"
        if kind_of(path.name) == "jsonl" and error.pos >= len(text.rstrip()):
            hint = "every line must be a whole object (for one object over many lines use .json)"
        elif kind_of(path.name) == "json" and error.msg == "Extra data":
            hint = "for one object a line use the extension .jsonl, or data.format: jsonl"
        raise DataError(
            f"{where}: broken JSON at column {error.colno} ({error.msg}); {hint}"
        ) from None
    except (RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:80]
        raise DataError(f"{place}: JSON that cannot be read ({reason}); mend it") from None


def _rows_of(value: Any) -> Any:
    """The list or stream of row objects in a parsed JSON document, or None."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return None
    for key in WRAPPERS:
        inner = value.get(key)
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            return inner
    columns = list(value.values())
    lengths = {len(column) if isinstance(column, list) else -1 for column in columns}
    if len(lengths) == 1 and -1 not in lengths:
        return (dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True))
    return None


def _json_word(value: Any) -> str:
    words = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "null" if value is None else words.get(type(value), "a number")


def _files_of_folder(folder: Path, split: str | None) -> list[tuple[Path, str]]:
    saved = saved_files(folder)
    if saved is not None:
        return [(path, path.name) for path in saved]
    splits = saved_splits(folder)
    if splits is not None:
        return _files_of_folder(folder / _pick_saved(splits, folder, split), None)
    classes = _class_folder(folder, split)
    if classes is not None:
        return [(classes, classes.name)]
    names = select(_names_below(folder), str(folder), split, remote=False)
    return [(folder / name, name) for name in names]


def _pick_saved(splits: list[str], folder: Path, split: str | None) -> str:
    wanted = split or ("train" if "train" in splits or len(splits) != 1 else splits[0])
    for name in splits:
        if name == wanted or SPLIT_WORDS.get(name.lower()) == wanted:
            return name
    raise DataError(f"{folder}: no split {wanted!r}; splits here: {', '.join(splits)}")


def _splits_of_folder(folder: Path) -> frozenset[str]:
    saved = saved_splits(folder)
    if saved is not None:
        return frozenset(SPLIT_WORDS.get(name.lower(), name) for name in saved)
    return split_names(_names_below(folder))


def _names_below(folder: Path) -> list[str]:
    try:
        return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be listed ({error.strerror}); check its rights"
        ) from None


def _class_folder(folder: Path, split: str | None) -> Path | None:
    """The folder whose subfolders are classes holding .txt files, or None."""
    subfolders = {p.name: p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")}
    named = {
        SPLIT_WORDS[name.lower()]: p
        for name, p in subfolders.items()
        if name.lower() in SPLIT_WORDS
    }
    if named:
        inner = named.get(SPLIT_WORDS.get(split or "train", split or "train"))
        return _class_folder(inner, None) if inner else None
    if split not in (None, "train") or len(subfolders) < 2:
        return None
    if any(kind_of(name) != "text" for name in data_names(_names_of(folder))):
        return None
    if all(any(p.glob("*.txt")) for p in subfolders.values()):
        return folder
    return None


def _names_of(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.is_file()]


def _read_class_folders(folder: Path) -> Rows:
    """(place, {"text", "label"}) of each .txt file; the label is its folder's name."""
    for path in sorted(folder.glob("*/*.txt")):
        with open_text(path) as file:
            yield (
                f"{path.parent.name}/{path.name}:1",
                {
                    "text": file.read().strip(),
                    "label": path.parent.name,
                },
            )


FORMATS: dict[str, Reader] = {
    "csv": read_csv,
    "tsv": read_tsv,
    "json": read_json,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "text": read_text,
}
