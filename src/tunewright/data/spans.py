"""Labelled spans from the forms in which people keep them: offsets, or tokens with BIO tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.data.shapes import parse_cell
from tunewright.errors import DataError
from tunewright.records import Span

START_NAMES = ("start", "start_offset", "startIndex", "begin", "start_char")
END_NAMES = ("end", "end_offset", "endIndex", "stop", "end_char")
LABEL_NAMES = ("label", "entity", "type", "tag", "slot", "entity_group", "class", "name")
OUTSIDE = ("O", "o", "", "0", "_", "-")


def looks_like_spans(value: Any) -> bool:
    """True for a non-empty cell that read_spans understands."""
    items = parse_cell(value)
    if isinstance(items, Mapping):
        items = [{"label": key, "at": inner} for key, inner in items.items()]
    if not isinstance(items, list) or not items:
        return False
    try:
        return all(_read_span(item, "") is not None for item in items)
    except DataError:
        return False


def read_spans(value: Any, text: str, place: str) -> tuple[Span, ...]:
    """Spans of a cell, sorted by start: {start, end, label} or [start, end, label] items, or
    {label: {"span": [start, end]}}.

    Overlaps are kept; clean.py resolves them.
    Raises DataError where a span is malformed, empty or outside the text.
    """
    items = parse_cell(value)
    if items is None or items == "":
        return ()
    if isinstance(items, Mapping):
        items = [{"label": key, "at": inner} for key, inner in items.items()]
    if not isinstance(items, list):
        raise DataError(f"{place}: {str(items)[:40]!r} where spans belong; {_WRITE}")
    spans = sorted((_read_span(item, place) for item in items), key=lambda s: (s.start, s.end))
    for span in spans:
        if not 0 <= span.start < span.end <= len(text):
            raise DataError(
                f"{place}: span {span.start}..{span.end} ({span.label}) does not lie in "
                f"the text of {len(text)} characters; give character offsets, end exclusive"
            )
    return tuple(spans)


_WRITE = 'write [{"start": 0, "end": 5, "label": "NAME"}, ...]'


def _read_span(item: Any, place: str) -> Span:
    if isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 3:
        start, end, label = item
    elif isinstance(item, Mapping):
        label = _first(item, LABEL_NAMES)
        start, end = _offsets(item)
    else:
        start = end = label = None
    if not isinstance(label, str) or not _is_offset(start) or not _is_offset(end):
        raise DataError(f"{place}: span {str(item)[:60]!r} not understood; {_WRITE}")
    return Span(int(start), int(end), label)


def _offsets(item: Mapping[str, Any]) -> tuple[Any, Any]:
    """Start and end, in the item itself or one level below; a start of 0 may be left out there."""
    end = _first(item, END_NAMES)
    if end is not None:
        return _first(item, START_NAMES) or 0, end
    for inner in item.values():
        if isinstance(inner, Mapping):
            pair = inner.get("span")
            if isinstance(pair, Sequence) and len(pair) == 2:
                return pair[0], pair[1]
            if _first(inner, END_NAMES) is not None:
                return _first(inner, START_NAMES) or 0, _first(inner, END_NAMES)
    pair = item.get("span")
    if isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2:
        return pair[0], pair[1]
    return None, None


def _first(item: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((item[name] for name in names if item.get(name) is not None), None)


def _is_offset(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def join_tokens(tokens: Any, tags: Any, place: str) -> tuple[str, tuple[Span, ...]]:
    """Text (tokens joined by single spaces) and spans from tokens with B-, I- (also E-, S-) tags.

    Tags without a prefix make one span of each run of equal tags. Raises DataError.
    """
    words, marks = parse_cell(tokens), parse_cell(tags)
    if not isinstance(words, list) or not isinstance(marks, list):
        raise DataError(
            f"{place}: tokens and tags must both be lists; write "
            '{"tokens": ["Call", "Ada"], "ner_tags": ["O", "B-NAME"]}'
        )
    if len(words) != len(marks):
        raise DataError(f"{place}: {len(words)} tokens but {len(marks)} tags; give one tag a token")
    spans: list[Span] = []
    position, previous = 0, ""
    for word, mark in zip(map(str, words), map(str, marks), strict=True):
        end = position + len(word)
        label = _tag_label(mark)
        if label and word:
            if _continues(mark, previous) and spans:
                spans[-1] = Span(spans[-1].start, end, label)
            else:
                spans.append(Span(position, end, label))
        previous = mark
        position = end + 1
    return " ".join(map(str, words)), tuple(spans)


def _tag_label(mark: str) -> str:
    if mark in OUTSIDE:
        return ""
    return mark[2:] if mark[:2] in ("B-", "I-", "E-", "S-", "L-", "U-", "M-") else mark


def _continues(mark: str, previous: str) -> bool:
    """True where a tag goes on with the span of the tag before it."""
    if _tag_label(mark) != _tag_label(previous) or previous[:2] in ("E-", "S-", "L-", "U-"):
        return False
    return mark[:2] not in ("B-", "S-", "U-")
