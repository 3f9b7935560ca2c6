"""`prepare` for sources that memory should not hold: part by part, in files.

Rows are dealt into parts by their text, letters and digits alone, so that all that belong together
(repeats, contradictions, the units of a split) meet in one part. Each part is cleaned and divided
as a small source would be; what was noticed is put together again. Training, validation and test
lie in Arrow files that are read through memory maps: a million rows take no more memory than ten
thousand. The same content gives the same splits.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import cast

from tunewright.data.audit.passes import place_key
from tunewright.data.clean import (
    clean,
    normalise,
    note_missing,
    notice_label_variants,
    number_ids,
)
from tunewright.data.columns import check_labels, check_number_of_labels, find_layout, make_example
from tunewright.data.example_file import ExampleWriter, StoredExamples
from tunewright.data.formats import read_rows, size_bytes
from tunewright.data.label_types import LabelTypes, refuse_structured_labels
from tunewright.data.layout import Layout, PlacedRow
from tunewright.data.prepare import (
    Prepared,
    labels_in,
    merge_references,
    read_held,
    tell_merged,
    tell_prepared,
    told_rows,
    with_held_labels,
)
from tunewright.data.split import (
    SIDES,
    assign_sides,
    notice_tiny_classes,
    remove_leaks,
    shares_of,
    tell_straddling,
)
from tunewright.errors import DataError
from tunewright.journal import Journal
from tunewright.records import Example, Finding, SplitName, Splits
from tunewright.sections import DataSection

PARTS_FROM_BYTES = 100_000_000
"""Sources from which on they are prepared in parts, unless data.group ties rows together."""
PART_BYTES = 50_000_000
PACKED_TIMES = 8
MOST_PARTS = 200
HEAD_ROWS = 50_000
"""Rows that tell what the columns mean."""
CHUNK_ROWS = 2_000
_COUNTED = re.compile(r"^[\d,]+ rows? (.*) \(first: [^()]*(?: \([^()]*\))?\)$", re.DOTALL)
_TOLD_ANEW = frozenset(
    {"tiny_class", "label_not_judged", "label_variants", "split_by_row", "multi_reference"}
)
"""Findings about all rows, which no part can tell."""


def goes_in_parts(data: DataSection) -> bool:
    """True for local sources that are large, and whose rows no group or number ties together."""
    if data.train is None or data.group is not None or data.max_rows is not None:
        return False
    return size_bytes(data.train) >= PARTS_FROM_BYTES


def prepare_in_parts(
    data: DataSection,
    task: str | None,
    journal: Journal,
    folder: Path,
    *,
    keep_bad: bool = False,
    keep_unanswered: bool = False,
) -> Prepared:
    """As `prepare`, with splits that lie in `folder`, which is empty and stays as long as they do.

    Raises DataError as `prepare` does.
    """
    assert data.train is not None
    dealt = _deal(data, task, journal, folder)
    layout = dealt.layout
    findings: list[Finding] = []
    num_read = {"train": dealt.num_rows}
    held = read_held(data, layout, journal, findings, num_read, keep_unanswered=keep_unanswered)
    shares = shares_of(data, "validation" in held, "test" in held)
    if "test" in held and "validation" in held:
        held["validation"] = remove_leaks(
            held["validation"], held["test"], "validation", "test", findings
        )
    parts, usable = _divide(
        dealt, data, held, shares, journal, folder, keep_bad=keep_bad,
        keep_unanswered=keep_unanswered,
    )  # fmt: skip
    note_missing(usable, data.train, layout.task, keep_unanswered=keep_unanswered)
    sides = {side: StoredExamples(folder / f"{side}.arrow") for side in SIDES}
    if not len(sides["train"]):
        raise DataError("every training row stands in the test or validation file; give other rows")
    layout, unseen = with_held_labels(layout, held)
    check_labels(layout, data.train)
    train, validation, test = (cast(tuple[Example, ...], sides[side]) for side in SIDES)
    splits = Splits(train, validation, test)
    everything = (
        *dealt.types.findings(layout.columns.output),
        *parts, *findings, *unseen,
        *notice_label_variants(splits.train),
        *notice_tiny_classes(splits.train, splits.validation, splits.test),
    )  # fmt: skip
    splits = replace(splits, findings=everything)
    tell_prepared(journal, layout, splits, everything)
    return Prepared(layout, splits, everything, num_read)


@dataclass
class _Dealt:
    """Rows in parts, and what was seen on the way. labels: of all rows."""

    layout: Layout
    files: list[Path]
    types: LabelTypes
    labels: set[str] = field(default_factory=set)
    num_rows: int = 0


def _deal(data: DataSection, task: str | None, journal: Journal, folder: Path) -> _Dealt:
    """Read every row once, understand it, and put it into the part of its text."""
    source = data.train
    assert source is not None
    paragraphs = task in (None, "continue")
    head = list(islice(read_rows(source, format=data.format, paragraphs=paragraphs), HEAD_ROWS))
    layout = find_layout(head, data, task)
    del head
    files = [folder / f"part-{number}.arrow" for number in range(_num_parts(source))]
    dealt = _Dealt(layout, files, LabelTypes())
    column = layout.columns.output
    structured = layout.task == "classify" and layout.shape == "table" and column is not None
    rows = read_rows(source, format=data.format, paragraphs=paragraphs)
    with ExitStack() as stack:
        writers = [stack.enter_context(ExampleWriter(path)) for path in files]
        for chunk in _chunks(told_rows(source, rows, journal, held=False)):
            if structured:
                refuse_structured_labels(chunk, str(column), multi_label=layout.multi_label)
            examples = [make_example(place, row, layout, data) for place, row in chunk]
            dealt.types.add(chunk, examples, layout)
            if layout.task in ("classify", "tag"):
                dealt.labels |= labels_in(examples)
            for example in examples:
                dealt.num_rows += 1
                writers[_part_of(example, dealt.num_rows, len(files))].add(example)
    if layout.task in ("classify", "tag"):
        names = check_number_of_labels(dealt.labels, source, column)
        told = f" labels in column {column}"
        reasons = [f"{len(names)}{told}" if r.endswith(told) else r for r in layout.reasons]
        dealt.layout = replace(layout, labels=names, reasons=tuple(reasons))
    return dealt


def _chunks(rows: Iterator[PlacedRow]) -> Iterator[list[PlacedRow]]:
    while chunk := list(islice(rows, CHUNK_ROWS)):
        yield chunk


def _num_parts(source: str) -> int:
    packed = Path(source).suffix.lower() in (".gz", ".parquet")
    size = size_bytes(source) * (PACKED_TIMES if packed else 1)
    return max(2, min(MOST_PARTS, -(-size // PART_BYTES)))


def _part_of(example: Example, number: int, num_parts: int) -> int:
    """Rows of one text go into one part; those without any, which are dropped, anywhere."""
    if not example.input.strip():
        return number % num_parts
    key = normalise(example.input).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big") % num_parts


def _divide(
    dealt: _Dealt,
    data: DataSection,
    held: dict[str, list[Example]],
    shares: dict[SplitName, float],
    journal: Journal,
    folder: Path,
    *,
    keep_bad: bool,
    keep_unanswered: bool,
) -> tuple[list[Finding], Counter[str]]:
    """Clean and divide part by part; the findings, and how many rows were usable or lacked what."""
    assert data.train is not None
    by_part: list[list[Finding]] = []
    counts: Counter[str] = Counter()
    merged: Counter[tuple[str, str]] = Counter()
    leaks: Counter[str] = Counter()
    task = dealt.layout.task
    with ExitStack() as stack, journal.progress("dividing rows", len(dealt.files)) as advance:
        writers = {
            side: stack.enter_context(ExampleWriter(folder / f"{side}.arrow")) for side in SIDES
        }
        for number, path in enumerate(dealt.files):
            examples = number_ids(StoredExamples(path))
            kept, found = clean(
                examples, task, data.train, keep_bad=keep_bad, keep_unanswered=keep_unanswered,
                whole=False,
            )  # fmt: skip
            counts["read"] += len(examples)
            counts.update({item.kind: len(item.rows) for item in found if item.dropped})
            for there in ("test", "validation"):
                if there in held:
                    leaks[there] += len(kept)
                    kept = remove_leaks(kept, held[there], "training", there, found)
            by_part.append(found)
            rows_by_side = _sides(kept, shares, data.split_seed)
            for side in SIDES:
                rows = rows_by_side[side]
                if side != "train":
                    unmerged = len(rows)
                    rows, _ = merge_references(rows, task, side)
                    merged[side, "rows"] += unmerged
                    merged[side, "inputs"] += len(rows)
                for row in rows:
                    writers[side].add(row)
            path.unlink()
            advance(number + 1, "")
        findings = merge_findings(by_part)
        for there, given in held.items():
            rows, _ = merge_references(given, task, there)
            merged[there, "rows"], merged[there, "inputs"] = len(given), len(rows)
            for row in rows:
                writers[cast(SplitName, there)].add(row)
    findings += tell_straddling(findings, leaks)
    for side in SIDES[1:]:
        findings += tell_merged(side, merged[side, "rows"], merged[side, "inputs"])
    return findings, counts


def _sides(
    rows: Sequence[Example], shares: dict[SplitName, float], seed: int
) -> dict[SplitName, list[Example]]:
    """The rows of a part by side; all for training where they are too few to divide."""
    found: dict[SplitName, list[Example]] = {side: [] for side in SIDES}
    try:
        sides = assign_sides(rows, shares, seed) if rows else []
    except DataError:
        if sum(shares.values()) >= 1:
            raise
        sides = ["train"] * len(rows)
    for row, side in zip(rows, sides, strict=True):
        found[side].append(row)
    return found


def merge_findings(parts: Iterable[Sequence[Finding]]) -> list[Finding]:
    """One Finding for those of a kind that parts made, rows in the order of file and line."""
    groups: dict[tuple[str, str, str], list[Finding]] = defaultdict(list)
    for findings in parts:
        for item in findings:
            if item.kind not in _TOLD_ANEW:
                what = match.group(1) if (match := _COUNTED.match(item.message)) else item.message
                groups[item.kind, item.severity, what].append(item)
    return [_merge(items, what) for (_, _, what), items in groups.items()]


def _merge(items: Sequence[Finding], what: str) -> Finding:
    rows = sorted(
        (
            (place, row, item.counterparts[n] if n < len(item.counterparts) else "")
            for item in items
            for n, (place, row) in enumerate(zip(item.places, item.rows, strict=True))
        ),
        key=lambda entry: place_key(entry[0]),
    )
    clusters = sorted(
        (cluster for item in items for cluster in item.clusters),
        key=lambda places: place_key(places[0]),
    )
    details: Counter[str] = Counter()
    for item in items:
        details.update({k: v for k, v in item.details.items() if isinstance(v, (int, float))})
    counted = f"{len(rows)} {'row' if len(rows) == 1 else 'rows'} {what}"
    return replace(
        items[0],
        message=f"{counted} (first: {rows[0][0]})" if rows else items[0].message,
        places=tuple(place for place, _, _ in rows),
        rows=tuple(row for _, row, _ in rows),
        counterparts=tuple(other for _, _, other in rows) if items[0].counterparts else (),
        clusters=tuple(clusters),
        details=dict(details),
    )
