"""From a recipe's data section to splits: read, understand, clean, divide. No tokens yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunewright.data.clean import clean, make_finding, number_ids
from tunewright.data.columns import Layout, check_labels, find_layout, make_example
from tunewright.data.formats import named_splits, read_rows, size_bytes
from tunewright.data.label_types import LabelTypes, refuse_structured_labels
from tunewright.data.room import sample_rows, watch_room
from tunewright.data.split import choose_rows, split_examples
from tunewright.errors import DataError
from tunewright.journal import Journal
from tunewright.records import Example, Finding, Span, SplitName, Splits, Task
from tunewright.sections import DataSection

# Below this a progress bar would only flicker.
PROGRESS_FROM_BYTES = 20_000_000
PROGRESS_EVERY_ROWS = 2_000
SAMPLED_FROM_BYTES = 10**9
"""From here on data.max_rows chooses while reading, so that no more than it asks for is held."""
PlacedRow = tuple[str, Mapping[str, Any]]
_USED: PlacedRow = ("", {})


@dataclass(frozen=True, slots=True)
class Prepared:
    """Splits ready for tokens, how rows were understood, and everything noticed on the way.

    num_read: rows read, by file role, before anything was dropped. card: the data card without
    token lengths, and metrics: the default ones, where they were made before. digest: stands for
    all of this, where it was stored.
    """

    layout: Layout
    splits: Splits
    findings: tuple[Finding, ...]
    num_read: Mapping[str, int]
    card: Mapping[str, Any] | None = None
    metrics: tuple[str, ...] | None = None
    digest: str | None = None

    @property
    def task(self) -> Task:
        """The task that the layout stands for."""
        return self.layout.task


def prepare(
    data: DataSection,
    task: str | None,
    journal: Journal,
    *,
    keep_bad: bool = False,
    keep_unanswered: bool = False,
) -> Prepared:
    """Read, clean and split the data of a recipe; the same content gives the same splits.

    keep_bad: training rows that hold nothing but an answer marked as bad stay.
    keep_unanswered: rows without any answer stay.
    A source with splits of its own (folder, hub, embedded) provides validation and test where
    data.validation and data.test are left at their defaults.
    Raises DataError with place, value and remedy for whatever stands in the way.
    """
    if not data.train:
        raise DataError("data.train is not set; give a file, folder, hub id or https address")
    rows, num_rows = _read_training(data.train, data, task, journal)
    layout = find_layout(rows, data, task)
    check_labels(layout, data.train)
    num_given = len(rows)
    examples, findings = _make_clean(
        rows, layout, data, data.train, keep_bad=keep_bad, keep_unanswered=keep_unanswered
    )
    num_read = {"train": num_rows}
    held = read_held(data, layout, journal, findings, num_read, keep_unanswered=keep_unanswered)
    if data.max_rows and len(examples) > data.max_rows:
        message = f"data.max_rows keeps {data.max_rows} of {len(examples)} rows, by content hash"
        findings.append(Finding("max_rows", "info", message))
        examples = choose_rows(examples, data.max_rows, data.split_seed)
    elif num_rows > num_given:
        message = f"data.max_rows keeps {num_given} of {num_rows} rows, by content hash"
        findings.append(Finding("max_rows", "info", message))
    layout, unseen = with_held_labels(layout, held)
    splits = split_examples(
        examples, data, validation=held.get("validation"), test=held.get("test")
    )
    splits, merged = _merge_held(splits, layout.task)
    everything = (*findings, *unseen, *splits.findings, *merged)
    tell_prepared(journal, layout, splits, everything)
    return Prepared(layout, replace(splits, findings=everything), everything, num_read)


def read_held(
    data: DataSection,
    layout: Layout,
    journal: Journal,
    findings: list[Finding],
    num_read: dict[str, int],
    *,
    keep_unanswered: bool,
) -> dict[str, list[Example]]:
    """Rows of the validation and test files, or splits of the source's own, by side.

    What is noticed goes into findings, how many were read into num_read.
    """
    held: dict[str, list[Example]] = {}
    for side, source, split in _held_sources(data):
        held_rows = read_all(source, data, layout.task, journal, split)
        try:
            rows_of_side, noticed = _read_held(held_rows, layout, data, source, keep_unanswered)
        except DataError as error:
            if source != data.train:
                raise
            # Published test splits often come without labels; nobody asked for this one by name.
            message = f"the {side} split of {source} is left alone, a share is used: {error}"
            findings.append(Finding("own_split_unusable", "warn", message))
            continue
        if source == data.train:
            message = f"{source} brings its own {side} split, used as it is"
            findings.append(Finding("own_split", "info", message))
        num_read[side] = len(held_rows)
        held[side] = rows_of_side
        findings += [replace(item, message=f"{side} file: {item.message}") for item in noticed]
    return held


def read_for_evaluation(
    source: str, data: DataSection, layout: Layout, journal: Journal, split: str | None = None
) -> tuple[Example, ...]:
    """The usable rows of any source, read the way `layout` says; equal inputs are merged.

    Raises DataError where the source lacks a column that the layout needs.
    """
    if split is None and "test" in named_splits(source):
        split = "test"
        journal.say(f"{source}: reading its test split")
    rows = read_all(source, data, layout.task, journal, split)
    examples, findings = _read_held(rows, layout, data, source)
    merged, noticed = merge_references(examples, layout.task, source)
    unknown = labels_in(merged) - set(layout.labels)
    if unknown and layout.labels:
        journal.warn(
            f"{source}: labels that the model never saw: {', '.join(sorted(unknown)[:10])}"
        )
    for finding in (*findings, *noticed):
        _tell_finding(journal, finding)
    return tuple(merged)


def read_all(
    source: str, data: DataSection, task: str | None, journal: Journal, split: str | None = None
) -> list[PlacedRow]:
    """All rows behind a source, with a progress bar where it is large."""
    rows = read_rows(source, format=data.format, split=split, paragraphs=task in (None, "continue"))
    return list(told_rows(source, rows, journal, held=True))


def _read_training(
    source: str, data: DataSection, task: str | None, journal: Journal
) -> tuple[list[PlacedRow], int]:
    """(training rows, how many there were); of large sources data.max_rows at most are held."""
    if data.max_rows is None or size_bytes(source) < SAMPLED_FROM_BYTES:
        rows = read_all(source, data, task, journal)
        return rows, len(rows)
    every = read_rows(source, format=data.format, paragraphs=task in (None, "continue"))
    told = told_rows(source, every, journal, held=False)
    return sample_rows(told, data.max_rows, data.split_seed)


def told_rows(
    source: str, rows: Iterator[PlacedRow], journal: Journal, *, held: bool
) -> Iterator[PlacedRow]:
    """The rows, with a progress bar where there are many. held: all of them, so they must fit."""
    total = size_bytes(source)
    watched = watch_room(source, rows, total, held=held)
    if total < PROGRESS_FROM_BYTES:
        for placed, _ in watched:
            yield placed
        return
    with journal.progress(f"reading {source}", total) as advance:
        for number, (placed, seen) in enumerate(watched, 1):
            if number % PROGRESS_EVERY_ROWS == 0:
                advance(min(seen, total), f"{number:,} rows")
            yield placed
        advance(total, "")


def _make_clean(
    rows: list[PlacedRow],
    layout: Layout,
    data: DataSection,
    source: str,
    *,
    keep_bad: bool = False,
    keep_unanswered: bool = False,
) -> tuple[list[Example], list[Finding]]:
    """Examples of the rows, which are used up: a million need not be held in both forms."""
    types = LabelTypes()

    def made() -> Iterator[Example]:
        for place, row in _used_up(rows):
            example = make_example(place, row, layout, data)
            types.add([(place, row)], [example], layout)
            yield example

    examples = number_ids(made())
    kept, findings = clean(
        examples, layout.task, source, keep_bad=keep_bad, keep_unanswered=keep_unanswered
    )
    return kept, types.findings(layout.columns.output) + findings


def _used_up(rows: list[PlacedRow]) -> Iterator[PlacedRow]:
    for index, row in enumerate(rows):
        rows[index] = _USED
        yield row


def _held_sources(data: DataSection) -> Iterator[tuple[SplitName, str, str | None]]:
    """(side, source, split) of the validation and test rows that do not come from shares."""
    defaults = DataSection()
    assert data.train is not None
    own: frozenset[str] = frozenset()
    if data.validation == defaults.validation or data.test == defaults.test:
        own = named_splits(data.train)
    sides: tuple[tuple[SplitName, float | str, float | str], ...] = (
        ("validation", data.validation, defaults.validation),
        ("test", data.test, defaults.test),
    )
    for side, given, default in sides:
        if isinstance(given, str):
            yield side, given, side if side in named_splits(given) else None
        elif given == default and side in own:
            yield side, data.train, side


def _read_held(
    rows: list[PlacedRow],
    layout: Layout,
    data: DataSection,
    source: str,
    keep_unanswered: bool = False,
) -> tuple[list[Example], list[Finding]]:
    """Examples of a validation or test file under the layout found in training."""
    names = {name for _, row in rows for name in row}
    chosen = layout.columns
    needed = [chosen.input, chosen.output, chosen.messages, *chosen.numeric, *chosen.categorical]
    for name in needed:
        if name is not None and name not in names:
            raise DataError(
                f"{source}: no column {name!r}, which training has; its columns are "
                f"{', '.join(sorted(names))}"
            )
    if layout.task == "classify" and layout.shape == "table" and chosen.output:
        refuse_structured_labels(rows, chosen.output, multi_label=layout.multi_label)
    return _make_clean(rows, layout, data, source, keep_unanswered=keep_unanswered)


def with_held_labels(
    layout: Layout, held: Mapping[str, Sequence[Example]]
) -> tuple[Layout, list[Finding]]:
    """The layout with labels that only validation or test have, and a Finding about them."""
    if layout.task not in ("classify", "tag"):
        return layout, []
    extra = set().union(*(labels_in(rows) for rows in held.values())) - set(layout.labels)
    if not extra:
        return layout, []
    rows = [e for side in held.values() for e in side if labels_in([e]) & extra]
    what = f"carry labels without any training row ({', '.join(sorted(extra)[:10])})"
    labels = tuple(sorted({*layout.labels, *extra}))
    return replace(layout, labels=labels), [make_finding("unseen_label", what, rows)]


def labels_in(examples: Iterable[Example]) -> set[str]:
    """Every label of these rows, those of spans included."""
    labels: set[str] = set()
    for example in examples:
        if isinstance(example.output, str):
            labels.add(example.output)
        elif isinstance(example.output, tuple):
            labels |= {i.label if isinstance(i, Span) else i for i in example.output}
    return labels


def _merge_held(splits: Splits, task: str) -> tuple[Splits, list[Finding]]:
    validation, first = merge_references(splits.validation, task, "validation")
    test, second = merge_references(splits.test, task, "test")
    return replace(splits, validation=tuple(validation), test=tuple(test)), first + second


def merge_references(
    examples: Sequence[Example], task: str, where: str
) -> tuple[list[Example], list[Finding]]:
    """For generate and embed: one example per identical input, with every output as a reference.

    Training rows stay separate; validation and test are judged against all references at once.
    """
    if task not in ("generate", "embed"):
        return list(examples), []
    by_input: dict[tuple[Any, ...], list[Example]] = {}
    for example in examples:
        prompt = tuple((m.role, m.content) for m in example.messages[:-1])
        by_input.setdefault((example.input, prompt, example.group), []).append(example)
    if len(by_input) == len(examples):
        return list(examples), []
    merged = [_merge(group) for group in by_input.values()]
    return merged, tell_merged(where, len(examples), len(merged))


def tell_merged(where: str, rows: int, inputs: int) -> list[Finding]:
    """A Finding about rows that are judged as one; none where every input stands once."""
    if rows == inputs:
        return []
    message = (
        f"{rows} {where} rows have {inputs} different inputs; rows of one input "
        "are judged as one, against all its outputs"
    )
    return [Finding("multi_reference", "info", message)]


def _merge(group: list[Example]) -> Example:
    """One example for rows of the same input; which one stands in front depends on ids alone."""
    ranked = sorted(group, key=lambda example: example.id)
    outputs = tuple(dict.fromkeys(str(example.output) for example in ranked))
    return replace(ranked[0], references=outputs)


def tell_prepared(
    journal: Journal, layout: Layout, splits: Splits, findings: Sequence[Finding]
) -> None:
    """Say how rows were understood, how many there are by side, and what was noticed."""
    for reason in layout.reasons:
        journal.say(reason)
    sizes = (
        f"{len(splits.train)} train, {len(splits.validation)} validation, {len(splits.test)} test"
    )
    journal.say(f"rows: {sizes}")
    for finding in findings:
        _tell_finding(journal, finding)


def _tell_finding(journal: Journal, finding: Finding) -> None:
    if finding.severity == "info":
        journal.say(finding.message)
    else:
        journal.warn(finding.message)
