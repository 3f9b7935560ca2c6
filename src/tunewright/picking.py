"""Rows picked from many: requests that training lacks, what to label next, which subset to keep.

The audits shelf chooses; here its material is read, and what was chosen is written in the format of
the file that it comes from.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from tunewright.checking import MAX_EMBEDDED_UNASKED, make_material
from tunewright.cleaning import bare_place
from tunewright.config import Recipe
from tunewright.data.audit.choose import Chosen, rank_unlabelled, select_subset
from tunewright.data.audit.material import AuditMaterial
from tunewright.data.audit.traffic import compare_with_traffic
from tunewright.data.clean import number_ids
from tunewright.data.columns import find_layout, make_example
from tunewright.data.edit import files_to_edit, rewrite
from tunewright.data.edit_records import Change, Row
from tunewright.data.layout import Layout
from tunewright.data.prepare import Prepared, read_all
from tunewright.errors import DataError, UserError
from tunewright.journal import Journal
from tunewright.meaning import make_encoder
from tunewright.records import Example, Finding
from tunewright.sections import DataSection
from tunewright.store import naming_disk_errors, sync_folder


def against(
    traffic: str,
    prepared: Prepared,
    recipe: Recipe,
    journal: Journal,
    *,
    embed: bool | None = False,
) -> list[Finding]:
    """What training lacks of real requests. traffic: rows whose input alone is read."""
    requests = read_texts(traffic, prepared.layout, recipe.data, journal)
    material = _material(prepared, recipe, journal, embed, len(requests))
    return compare_with_traffic(material, requests)


def label_next(
    most: int,
    pool: str | None,
    prepared: Prepared,
    recipe: Recipe,
    journal: Journal,
    *,
    embed: bool | None = False,
) -> Chosen:
    """The unlabelled rows that would teach the most. pool None: training rows without a label."""
    data = recipe.data
    source = pool or data.train
    assert source is not None
    rows = read_texts(source, prepared.layout, data, journal)
    if pool is None:
        rows = [row for row in rows if row.output is None]
        if not rows:
            raise UserError(
                f"{source}: every row has a label; name the unlabelled ones with --pool FILE"
            )
    material = _material(prepared, recipe, journal, embed, len(rows))
    return rank_unlabelled(material, rows, most=most)


def select(
    most: int, prepared: Prepared, recipe: Recipe, journal: Journal, *, embed: bool | None = False
) -> Chosen:
    """The training rows that stand for all, tried against as many at random."""
    return select_subset(_material(prepared, recipe, journal, embed, 0), most=most)


def _material(
    prepared: Prepared, recipe: Recipe, journal: Journal, embed: bool | None, more_rows: int
) -> AuditMaterial:
    """What choices look at; embed: by meaning too, None: where there are not too many rows."""
    material = make_material(prepared, recipe, journal)
    if embed is None:
        embed = material.num_rows + more_rows <= MAX_EMBEDDED_UNASKED
    return replace(material, embed=make_encoder(journal) if embed else None)


def read_texts(source: str, layout: Layout, data: DataSection, journal: Journal) -> list[Example]:
    """Rows of any source as examples of this layout; a missing output or side column is no matter.

    Where the input column of training is not there, the column that holds text is taken.
    Raises DataError where there is none.
    """
    rows = read_all(source, data, layout.task, journal)
    names = {name for _, row in rows for name in row}
    wanted = layout.columns.input
    if wanted is not None and wanted not in names:
        found = find_layout(rows, DataSection(), "continue").columns.input
        columns = layout.columns.model_copy(update={"input": found, "output": None})
        layout = replace(layout, columns=columns)
    data = data.model_copy(update={"group": None, "columns": layout.columns})
    examples = [make_example(place, row, layout, data) for place, row in rows]
    usable = number_ids(example for example in examples if example.input.strip())
    if not usable:
        raise DataError(f"{source}: no row with text in it; check the file")
    return usable


def write_rows(source: str, places: Collection[str], out: Path, *, force: bool) -> int:
    """Write these rows of a source to `out`, in its own format and order; how many.

    Raises UserError where `out` is there already, or the source is several files.
    """
    files = files_to_edit(source)
    if len(files) != 1:
        raise UserError(f"{source}: {len(files)} files; --out copies rows of a single file")
    path, shown, kind = files[0]
    if out.exists() and (not force or out.samefile(path)):
        raise UserError(f"{out}: exists already; add --force to replace it, or name another --out")
    chosen = {bare_place(place) for place in places}

    def decide(place: str, row: Row) -> Change | None:
        return None if place in chosen else Change("drop", "", "")

    aside = out.with_name(f".{out.name}.tmp")
    with naming_disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            kept = rewrite(path, shown, kind, aside, decide, lambda entry: None)
            os.replace(aside, out)
        finally:
            aside.unlink(missing_ok=True)
        sync_folder(out.parent)
    return kept.kept
