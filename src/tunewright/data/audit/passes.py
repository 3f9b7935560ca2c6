"""Going through rows one at a time, for audits that need no more memory than what they find."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tunewright.data.audit.material import AuditMaterial, count
from tunewright.records import Example, Finding

_SINGULAR = {"have": "has", "are": "is", "hold": "holds", "open": "opens", "look": "looks",
             "lack": "lacks"}  # fmt: skip
PROGRESS_FROM_ROWS = 20_000
PROGRESS_EVERY_ROWS = 1_000
Severity = Literal["info", "warn", "error"]


@dataclass(frozen=True, slots=True)
class Wording:
    """How a kind of finding reads: "3 rows <what> (first: ...)<remedy>".

    subject_from: from this share of the rows on, what was found is taken for the subject of the
    data rather than a slip, and told as info. None: never.
    """

    what: str
    severity: Severity = "warn"
    remedy: str = ""
    subject_from: float | None = None


@dataclass
class Noted:
    """Rows by kind of finding, each row once a kind; ids and places alone are kept."""

    rows: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    notes: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, kind: str, example: Example, note: str = "") -> None:
        """Remember that a row is of this kind."""
        self.rows[kind].setdefault(example.place, example.id)
        if note and len(self.notes[kind]) < 1000:
            self.notes[kind].setdefault(example.place, note)

    def findings(self, wordings: Mapping[str, Wording], num_rows: int) -> list[Finding]:
        """One Finding a kind, in the order of the wordings."""
        return [
            _finding(kind, wording, self.rows[kind], self.notes[kind], num_rows)
            for kind, wording in wordings.items()
            if self.rows.get(kind)
        ]


def watched(material: AuditMaterial, what: str) -> Iterator[Example]:
    """Every example of the material, with progress where there are many."""
    sides = (material.train, material.validation, material.test)
    total = sum(map(len, sides))
    if total < PROGRESS_FROM_ROWS:
        for side in sides:
            yield from side
        return
    with material.journal.progress(what, total) as advance:
        done = 0
        for side in sides:
            for example in side:
                yield example
                done += 1
                if done % PROGRESS_EVERY_ROWS == 0:
                    advance(done, f"{done:,} rows")


def note_rows(
    material: AuditMaterial,
    what: str,
    look: Callable[[Example], Iterable[tuple[str, str]]],
    wordings: Mapping[str, Wording],
) -> list[Finding]:
    """Findings from a look at each row alone, which yields (kind, note) pairs."""
    noted, num_rows = Noted(), 0
    for example in watched(material, what):
        num_rows += 1
        for kind, note in look(example):
            noted.add(kind, example, note)
    return noted.findings(wordings, num_rows)


def texts_of(example: Example) -> Iterator[tuple[str, str]]:
    """(part, text) of everything in a row that is text: input, output, or the role of a turn."""
    if example.messages:
        for turn in example.messages:
            yield turn.role, turn.content
    else:
        yield "input", example.input
        for _, value in example.columns:
            if isinstance(value, str):
                yield "column", value
    if example.rejected:
        yield "rejected", example.rejected


def answers_of(example: Example) -> Iterator[str]:
    """The texts that a model learns to write: the assistant's turns that carry loss."""
    for turn in example.messages:
        if turn.role == "assistant" and turn.weight != 0 and turn.content:
            yield turn.content


def place_key(place: str) -> tuple[str, int, str]:
    """What sorts places by file and line: "b.csv:9" before "b.csv:10"."""
    name, _, line = place.partition(" ")[0].rpartition(":")
    return (name, int(line), place) if line.isdigit() else (place, 0, place)


def _finding(
    kind: str, wording: Wording, rows: dict[str, str], notes: dict[str, str], num_rows: int
) -> Finding:
    places = tuple(sorted(rows, key=place_key))
    is_subject = (
        wording.subject_from is not None
        and num_rows >= 20
        and len(rows) >= wording.subject_from * num_rows
    )
    first = f"{places[0]}: {notes[places[0]]}" if places[0] in notes else places[0]
    remedy = f"; {wording.remedy}" if wording.remedy else ""
    what = wording.what
    if len(places) == 1:  # "1 row holds"
        verb, _, rest = what.partition(" ")
        what = f"{_SINGULAR.get(verb, verb)} {rest}"
    if is_subject:
        remedy = "; so many that they seem to be what the data is about"
    return Finding(
        kind,
        "info" if is_subject else wording.severity,
        f"{count(len(rows), 'row')} {what} (first: {first}){remedy}",
        rows=tuple(rows[place] for place in places),
        places=places,
        details={"share": len(rows) / max(1, num_rows)},
    )
