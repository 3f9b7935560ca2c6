"""Rows from comma, tab, semicolon or bar separated files; strict, and never guessing names."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tunewright.data.decode import SAMPLE_BYTES, number_lines, open_text, read_sample
from tunewright.errors import DataError

DELIMITERS = ",\t;|"
DELIMITER_NAMES = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
MAX_CELL_CHARS = 50_000_000
MAX_NAME_CHARS = 200
# Rows read ahead to see whether the first line holds names or is a row itself.
HEADER_ROWS = 200
# A file that has one of these on its first line has a header.
USUAL_NAMES = frozenset(
    str.split(
        "text label category class intent sentiment target input output prompt completion "
        "instruction response question answer query message messages sms sentence id idx index "
        "review comment title body content name ref mr source summary document labels tag tags "
        "type score rating value date product channel key"
    )
)
QUOTED_CELL = re.compile(r'"(?:[^"]|"")*"')


def read_csv(
    path: Path, shown: str, *, delimiter: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of a separated file with a header line; cells are strings.

    The place holds the line on which the record begins. `delimiter` is found from the header.
    Raises DataError for ragged rows, unnamed or twice named columns, open quotes, no header.
    """
    csv.field_size_limit(MAX_CELL_CHARS)
    delimiter = delimiter or find_delimiter(path)
    literal = delimiter == "\t" and quotes_are_text(path)
    with open_text(path, newline="") as file:
        lines = (line for _, line in number_lines(file, shown))
        if literal:
            reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        else:
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
        records = _number_records(reader, shown, delimiter)
        _, cells = next(records, (0, None))
        if cells is None:
            raise DataError(f"{path}: empty; give a file with a header line and rows")
        names = _check_names(cells, shown)
        head = list(islice(records, HEADER_ROWS))
        _refuse_row_as_header(cells, [row for _, row in head], shown)
        for line, row in chain(head, records):
            if len(row) != len(names):
                raise DataError(_explain_ragged(shown, line, len(row), len(names), delimiter))
            yield f"{shown}:{line}", dict(zip(names, row, strict=True))


def read_tsv(path: Path, shown: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of a tab separated file; see read_csv."""
    return read_csv(path, shown, delimiter="\t")


def find_delimiter(path: Path) -> str:
    """The delimiter that splits the header and agrees with most rows; comma where none does."""
    found = rank_delimiters(read_sample(path))
    return found[0][1] if found else ","


def rank_delimiters(sample: bytes) -> list[tuple[float, str]]:
    """(share of sampled rows as wide as the header, delimiter), best first; header split in 2+."""
    csv.field_size_limit(MAX_CELL_CHARS)
    text = sample.decode("utf-8", errors="replace").removeprefix("\ufeff")
    if len(sample) >= SAMPLE_BYTES:
        text = text[: max(text.rfind("\n"), text.rfind("\r"), 0)] or text
    ranked = []
    for delimiter in DELIMITERS:
        try:
            lines = io.StringIO(text, newline="")
            widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        except csv.Error:
            continue
        if widths and widths[0] > 1:
            ranked.append((sum(width == widths[0] for width in widths) / len(widths), delimiter))
    return sorted(ranked, key=lambda item: (-item[0], DELIMITERS.index(item[1])))


def quotes_are_text(path: Path) -> bool:
    """True for tab separated files in which a quote is an ordinary character.

    Such a file is rectangular when quotes are ignored, and has a cell that begins with a quote
    without being a well-formed quoted cell.
    """
    width = None
    stray = False
    with open_text(path) as file:
        for _, line in number_lines(file, path.name):
            cells = line.rstrip("\n").split("\t")
            if cells == [""]:
                continue
            width = width or len(cells)
            if len(cells) != width:
                return False
            stray = stray or any(c.startswith('"') and not QUOTED_CELL.fullmatch(c) for c in cells)
    return stray


def _number_records(reader: Any, shown: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(first line, cells) of each record that is not blank."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{shown}:{line}: {_explain_csv_error(str(error), delimiter)}"
            ) from None
        if cells and (len(cells) > 1 or cells[0].strip()):
            yield line, cells


def _explain_csv_error(text: str, delimiter: str) -> str:
    if "unexpected end" in text:
        return "a quote is opened here and never closed; close it, or double quotes inside cells"
    if "field larger" in text:
        return f"a cell of more than {MAX_CELL_CHARS:,} characters; is a quote left open here?"
    if "expected after" in text:
        name = DELIMITER_NAMES.get(delimiter, delimiter)
        return f'text between a closing quote and the next {name}; write a quote in a cell as ""'
    return f"{text}; check quotes and line ends"


def _explain_ragged(shown: str, line: int, found: int, wanted: int, delimiter: str) -> str:
    name = DELIMITER_NAMES.get(delimiter, delimiter)
    cells = "1 cell" if found == 1 else f"{found} cells"
    if found > wanted:
        remedy = f'put cells that hold a {name} in "quotes"'
    else:
        remedy = f"add the missing {name}s, or close a quote left open above"
    return f"{shown}:{line}: {cells} where the header has {wanted}; {remedy}"


def _check_names(cells: list[str], shown: str) -> list[str]:
    names = [cell.strip() or f"column {number}" for number, cell in enumerate(cells, 1)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{shown}:1: column {twice[0]!r} is named twice; rename one")
    return names


def _refuse_row_as_header(cells: list[str], rows: list[list[str]], shown: str) -> None:
    """Raise DataError when the first line is plainly a row; names are never made up."""
    remedy = "put a line with column names on top, e.g. text,label"
    if any(cell.strip().casefold() in USUAL_NAMES for cell in cells):
        return
    longest = max(cells, key=len)
    if len(longest) > MAX_NAME_CHARS:
        raise DataError(f"{shown}:1: {longest[:40]!r}... is a row, not a column name; {remedy}")
    if all(_is_number(cell) for cell in cells):
        raise DataError(f"{shown}:1: only numbers where column names belong; {remedy}")
    for place, cell in enumerate(cells):
        again = sum(len(row) == len(cells) and row[place] == cell for row in rows)
        if cell.strip() and again >= 2:
            raise DataError(
                f"{shown}:1: {cell[:40]!r} stands {again} more times below, so this line is a row, "
                f"not column names; {remedy}"
            )
    sentences = [cell for cell in cells if len(cell.split()) >= 5 and cell.rstrip()[-1:] in ".?!"]
    if sentences:
        raise DataError(f"{shown}:1: {sentences[0][:40]!r} is a sentence, not a name; {remedy}")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
