"""Cleaning that can be undone: what a check found, or a person decided, carried out on a copy.

The copy has the format of the source; `dropped.jsonl` beside it holds every row that is not in it,
or not as it was, with the reason. `undo` makes the source again from the two. Labels change only
where a person said so in a review.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.config import Recipe
from tunewright.data.audit.redact import Memory, redact
from tunewright.data.edit import files_to_edit, put_back, rewrite
from tunewright.data.edit_records import Change, Decide, Kept, Row
from tunewright.data.layout import Layout
from tunewright.errors import DataError, UserError
from tunewright.journal import Journal
from tunewright.records import Finding
from tunewright.store import (
    append_jsonl,
    naming_disk_errors,
    read_jsonl,
    sync_folder,
    write_jsonl,
)

DROPPED = "dropped.jsonl"
SURE_KINDS = (
    "empty_input",
    "missing_output",
    "blank_answer",
    "duplicate_exact",
    "leak_exact",
    "leak_text",
)
"""What is taken out unasked: rows without content, exact repeats, copies of test rows."""
_PLACE = re.compile(r"^(.+?:\d+)(?= \(|$)")


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person decided about a row: keep, drop or relabel. kind: of the finding."""

    place: str
    id: str
    kind: str
    decision: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """What writing a clean copy came to. by_kind: rows by reason."""

    target: Path
    dropped_file: Path
    kept: int
    changed: int
    dropped: int
    by_kind: Mapping[str, int]


def write_clean(
    recipe: Recipe,
    layout: Layout,
    findings: Sequence[Finding],
    target: Path,
    journal: Journal,
    *,
    kinds: Collection[str] = SURE_KINDS,
    decisions: Iterable[Decision] = (),
    redact_kinds: Collection[str] = (),
    ids: Mapping[str, str] | None = None,
    force: bool = False,
) -> Written:
    """Write the training rows that stay to `target`, and the others to dropped.jsonl beside it.

    kinds: of findings whose rows go; of a cluster of near-duplicates the first row stays.
    redact_kinds: of personal data that placeholders replace. ids: row id by place, for the log.
    Raises UserError where something is there already, the formats differ, or spans would shift.
    """
    source = recipe.data.train
    assert source is not None
    files = files_to_edit(source)
    targets, log = _targets(files, target, force=force)
    if redact_kinds and layout.task == "tag":
        raise UserError(
            "--redact: spans of a tagging task would no longer fit their text; leave it"
        )
    _refuse_same_names(recipe, [shown for _, shown, _ in files])
    goes = choose_rows(findings, kinds)
    decide = _make_decide(layout, goes, decisions, redact_kinds, recipe, ids or {})
    entries: list[dict[str, Any]] = []
    totals = {"kept": 0, "changed": 0, "dropped": 0}
    with journal.progress(f"writing {target}", float(len(files))) as advance:
        for done, ((path, shown, kind), out) in enumerate(zip(files, targets, strict=True), 1):
            found: list[dict[str, Any]] = []
            kept = _write_aside(path, shown, kind, out, decide, found)
            mark = {"clean": os.path.relpath(out, log.parent), "clean_sha256": _digest(out)}
            entries += [{**entry, **mark, "format": kind, "source": str(path)} for entry in found]
            totals["kept"] += kept.kept
            totals["changed"] += kept.changed
            totals["dropped"] += kept.dropped
            advance(done, "")
    write_jsonl(log, entries)
    log.chmod(0o600)  # it holds what was redacted
    by_kind: dict[str, int] = {}
    for entry in entries:
        by_kind[entry["kind"]] = by_kind.get(entry["kind"], 0) + 1
    return Written(target, log, by_kind=by_kind, **totals)


def undo(clean: Path, journal: Journal) -> tuple[list[Path], int]:
    """Turn a clean copy back into what it was made from; the files restored, and how many rows.

    Raises UserError where there is no dropped.jsonl for it, or the copy was changed since.
    """
    folder = clean if clean.is_dir() else clean.parent
    log = folder / DROPPED
    if not clean.exists() or not log.exists():
        raise UserError(f"{clean}: no {DROPPED} beside it; --undo needs what --write left there")
    every = read_jsonl(log)
    wanted = [e for e in every if clean.is_dir() or folder / e.get("clean", "") == clean]
    by_file: dict[Path, list[dict[str, Any]]] = {}
    for entry in wanted:
        by_file.setdefault(folder / entry["clean"], []).append(entry)
    if not by_file:
        raise UserError(f"{log}: no entry for {clean.name}; nothing to undo")
    for path, entries in by_file.items():
        if _digest(path) != entries[0]["clean_sha256"]:
            raise UserError(
                f"{path}: changed since it was written; put rows back by hand from {log}, "
                'where each stands under "text" or "row"'
            )
    with journal.progress(f"restoring {clean}", float(len(by_file))) as advance:
        for done, (path, entries) in enumerate(by_file.items(), 1):
            aside = path.with_name(f".{path.name}.tmp")
            with naming_disk_errors(path):
                put_back(path, entries[0]["format"], aside, entries)
                os.replace(aside, path)
                sync_folder(path.parent)
            advance(done, "")
    left = [entry for entry in every if entry not in wanted]
    if left:
        write_jsonl(log, left)
    else:
        log.unlink()
    return list(by_file), len(wanted)


def choose_rows(
    findings: Sequence[Finding], kinds: Collection[str]
) -> dict[str, tuple[str, str, str]]:
    """Place to (kind, reason, row id) of the rows that findings of these kinds take out.

    Of each cluster the row that stands first stays.
    """
    known = {finding.kind for finding in findings}
    unknown = sorted(set(kinds) - known - set(SURE_KINDS))
    if unknown:
        raise UserError(
            f"--drop: no finding of kind {unknown[0]!r} here; there are {', '.join(sorted(known))}"
        )
    chosen: dict[str, tuple[str, str, str]] = {}
    for finding in findings:
        if finding.kind not in kinds:
            continue
        stay = {cluster[0] for cluster in finding.clusters if cluster}
        for place, row_id in zip(finding.places, finding.rows, strict=True):
            if place not in stay:
                reason = finding.message.partition(" (first")[0]
                chosen.setdefault(bare_place(place), (finding.kind, reason, row_id))
    return chosen


def bare_place(place: str) -> str:
    """ "tickets.csv:41" of "tickets.csv:41 (T0020)"."""
    match = _PLACE.match(place)
    return match.group(1) if match else place


def read_decisions(path: Path) -> list[Decision]:
    """Decisions of a review, the last one for each row and kind. Raises UserError."""
    latest: dict[tuple[str, str], Decision] = {}
    for number, line in enumerate(read_jsonl(path), 1):
        try:
            decision = Decision(**line)
        except TypeError:
            raise UserError(
                f"{path}:{number}: not a decision of a review; name another file"
            ) from None
        latest[(decision.place, decision.kind)] = decision
    return list(latest.values())


def add_decision(path: Path, decision: Decision) -> None:
    """Write a decision down at once, so that a review can stop at any moment."""
    append_jsonl(path, [decision])


def redact_row(row: Row, skip: Collection[str], kinds: Collection[str]) -> dict[str, Any]:
    """The cells of a raw row that redaction changes, under one memory; columns in skip stay."""
    memory = Memory()
    changed = {}
    for name, cell in row.items():
        new = cell if name in skip else _redact_cell(cell, memory, kinds)
        if new != cell:
            changed[name] = new
    return changed


def _redact_cell(cell: Any, memory: Memory, kinds: Collection[str]) -> Any:
    if isinstance(cell, str):
        return redact(cell, memory, kinds=kinds)
    if isinstance(cell, Mapping):
        return {key: _redact_cell(value, memory, kinds) for key, value in cell.items()}
    if isinstance(cell, list):
        return [_redact_cell(item, memory, kinds) for item in cell]
    return cell


def _make_decide(
    layout: Layout,
    goes: Mapping[str, tuple[str, str, str]],
    decisions: Iterable[Decision],
    redact_kinds: Collection[str],
    recipe: Recipe,
    ids: Mapping[str, str],
) -> Decide:
    decided: dict[str, Decision] = {}
    for item in decisions:
        if item.decision != "keep" or bare_place(item.place) not in decided:
            decided[bare_place(item.place)] = item
    columns, output = layout.columns, layout.columns.output
    skip = {name for name in (columns.id, columns.weight, recipe.data.group) if name}
    if layout.task in ("classify", "regress") and output:
        skip.add(output)

    def decide(place: str, row: Row) -> Change | None:
        said = decided.get(place)
        if said is not None and said.decision == "drop":
            return Change("drop", said.kind, "dropped in review", id=said.id)
        if place in goes and said is None:
            kind, reason, row_id = goes[place]
            return Change("drop", kind, reason, id=row_id)
        cells: dict[str, Any] = {}
        if said is not None and said.decision == "relabel":
            if output is None:
                raise UserError(
                    f"{place}: rows of shape {layout.shape} cannot be relabelled; drop it"
                )
            cells[output] = said.label
        redacted = redact_row(row, skip, redact_kinds) if redact_kinds else {}
        if cells and said is not None:
            reason = f"relabelled in review: {row.get(output or '')!r} to {said.label!r}"
            return Change("relabel", said.kind, reason, {**redacted, **cells}, said.id)
        if redacted:
            where = f"redacted in {', '.join(redacted)}"
            return Change("redact", "personal_data", where, redacted, ids.get(place, ""))
        return None

    return decide


def _targets(
    files: Sequence[tuple[Path, str, str]], target: Path, *, force: bool
) -> tuple[list[Path], Path]:
    """Where each file goes, and dropped.jsonl. Raises UserError for what would be overwritten."""
    from tunewright.data.listing import kind_of

    is_folder = target.is_dir() or len(files) > 1
    targets = [target / shown for _, shown, _ in files] if is_folder else [target]
    log = (target if is_folder else target.parent) / DROPPED
    for (path, _, kind), out in zip(files, targets, strict=True):
        if out.exists() and out.samefile(path):
            raise UserError(f"{out}: is the source itself; name another place for --write")
        named = kind_of(out.name)
        if named is not None and named != kind and {named, kind} != {"csv", "tsv"}:
            raise UserError(f"{out}: the source is {kind}, and its copy is too; name it so")
    for path in (*targets, log):
        if path.exists() and not force:
            raise UserError(
                f"{path}: exists already; add --force to replace it, or write elsewhere"
            )
    return targets, log


def _refuse_same_names(recipe: Recipe, shown: Sequence[str]) -> None:
    """Findings name rows by file name, so a test file may not bear the name of a training file."""
    for held in (recipe.data.validation, recipe.data.test):
        if isinstance(held, str) and held != recipe.data.train and Path(held).name in shown:
            raise DataError(f"{held}: has the name of a training file; rename one of them")


def _write_aside(
    path: Path, shown: str, kind: str, out: Path, decide: Decide, entries: list[dict[str, Any]]
) -> Kept:
    aside = out.with_name(f".{out.name}.tmp")
    with naming_disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            kept = rewrite(path, shown, kind, aside, decide, entries.append)
            os.replace(aside, out)
        finally:
            aside.unlink(missing_ok=True)
        sync_folder(out.parent)
    return kept


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]
