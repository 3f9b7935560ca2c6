"""What a column looks like: how many values, how long, numbers or not. Meaning: columns.py."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Literal

from tunewright.data.shapes import parse_cell

Kind = Literal["text", "number", "flag", "labels", "list", "object", "time", "bytes", "nothing"]
# What stands for "unknown" in number and category cells; in labels these may be real names.
UNKNOWN = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "?", "missing"})
MAX_LABELS = 5000
MAX_CATEGORIES = 100
_ID_NAME = re.compile(
    r"(?:^|[_\s-])(?:id|idx|index|uuid|guid|key|hash|no|nr|number)$", re.IGNORECASE
)
_ID_CAMEL = re.compile(r"[a-z]I[dD]$")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?|\d{1,2}[./]\d{1,2}[./]\d{2,4}.*")


@dataclass(frozen=True, slots=True)
class Profile:
    """Facts about one column; counts are in rows, lengths in characters and words."""

    name: str
    kind: Kind
    num_values: int
    num_missing: int
    num_distinct: int
    is_whole: bool
    mean_chars: float
    mean_words: float
    is_counter: bool
    is_time: bool
    examples: tuple[str, ...]

    @property
    def is_id(self) -> bool:
        """Named like an identifier and (nearly) never repeated, or simply counting up."""
        named = bool(_ID_NAME.search(self.name) or _ID_CAMEL.search(self.name))
        return self.is_counter or (named and self.num_distinct >= 0.95 * max(self.num_values, 1))

    @property
    def is_group(self) -> bool:
        """Named like an identifier, and repeated."""
        named = bool(_ID_NAME.search(self.name) or _ID_CAMEL.search(self.name))
        repeated = 1 < self.num_distinct < 0.95 * self.num_values
        return named and repeated and not self.is_label_like_name

    @property
    def is_label_like_name(self) -> bool:
        """True for `label_id`, `class_id`: a label written as a number."""
        return bool(re.match(r"(label|class|category|intent|target)", self.name, re.IGNORECASE))

    @property
    def is_label_like(self) -> bool:
        """Few different short values, each used again on average."""
        if self.kind not in ("text", "number", "flag") or self.is_time:
            return False
        few = self.num_distinct <= min(MAX_LABELS, max(2, self.num_values // 2))
        short = self.mean_chars <= 60 or self.num_distinct <= min(50, self.num_values // 10)
        return few and short and (self.kind != "number" or not self.is_measure)

    @property
    def is_measure(self) -> bool:
        """Numbers that are amounts rather than class numbers."""
        if self.kind != "number":
            return False
        return not self.is_whole or self.num_distinct > max(20, 0.05 * self.num_values)

    @property
    def is_prose(self) -> bool:
        """Mostly different values of several words."""
        if self.kind != "text" or self.is_time or self.is_label_like:
            return False
        many = self.num_distinct > 0.1 * self.num_values or self.mean_chars > 60
        return many and (self.mean_words >= 2 or self.mean_chars >= 25)


def profile_columns(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Profile]:
    """A Profile of every column, in order of first appearance."""
    names = dict.fromkeys(name for _, row in rows for name in row)
    return {name: _profile(name, [row.get(name) for _, row in rows]) for name in names}


def is_missing(value: Any) -> bool:
    """True for null, NaN and blank cells."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def to_number(value: Any) -> float | None:
    """A cell as a finite number; None for unknown values. Raises ValueError for other text."""
    if value is None:
        return None
    if isinstance(value, str):
        if value.strip().casefold() in UNKNOWN:
            return None
        if "_" in value:
            raise ValueError(value)
    number = float(value)
    return number if math.isfinite(number) else None


def to_category(value: Any) -> str | None:
    """A cell as a category name; None for unknown values."""
    if is_missing(value):
        return None
    name = label_name(value)
    return None if name.casefold() in UNKNOWN else name


def label_name(value: Any) -> str:
    """A label as text: true is "1", 2 and 2.0 are "2", names lose outer spaces."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _profile(name: str, cells: list[Any]) -> Profile:
    values = [cell for cell in cells if not is_missing(cell)]
    kind = _kind(values)
    texts = [str(value) for value in values] if kind in ("text", "number", "flag", "time") else []
    numbers = [to_number(value) for value in values] if kind == "number" else []
    known = [number for number in numbers if number is not None]
    total = max(len(texts), 1)
    return Profile(
        name=name,
        kind=kind,
        num_values=len(values),
        num_missing=len(cells) - len(values),
        num_distinct=len(set(texts)),
        is_whole=bool(known) and all(number == int(number) for number in known),
        mean_chars=sum(map(len, texts)) / total,
        mean_words=sum(text.count(" ") + 1 for text in texts) / total,
        is_counter=_counts_up(known, len(values)),
        is_time=kind == "time" or (kind == "text" and all(map(_TIME.fullmatch, texts[:200]))),
        examples=tuple(dict.fromkeys(str(value)[:40] for value in values[:50]))[:3],
    )


def _kind(values: list[Any]) -> Kind:
    if not values:
        return "nothing"
    types = {type(value) for value in values}
    if types == {bool}:
        return "flag"
    if types <= {int, float, Decimal}:
        return "number"
    if types <= {str}:
        if _all_numbers(values):
            return "number"
        return _parsed_kind(values) if values[0][:1] in ("[", "{") else "text"
    if types <= {datetime, date, time}:
        return "time"
    if types <= {list, tuple, dict}:
        return _parsed_kind(values)
    return "bytes" if bytes in types else "text"


def _parsed_kind(values: list[Any]) -> Kind:
    parsed = [parse_cell(value) for value in values]
    if all(isinstance(value, (list, tuple)) for value in parsed):
        scalar = all(isinstance(item, (str, int, bool)) for value in parsed for item in value)
        return "labels" if scalar else "list"
    return "object" if all(isinstance(value, (dict, list)) for value in parsed) else "text"


def _all_numbers(values: list[str]) -> bool:
    try:
        return bool([number for number in map(to_number, values) if number is not None])
    except ValueError:
        return False


def _counts_up(numbers: list[float], num_values: int) -> bool:
    if len(numbers) < 10 or len(numbers) != num_values:
        return False
    low, high = min(numbers), max(numbers)
    return high - low == len(numbers) - 1 and len(set(numbers)) == len(numbers)
