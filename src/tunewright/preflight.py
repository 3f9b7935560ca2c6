"""What a recipe will meet before its first step: base, template, lengths, memory, time, disk.

Reads the base's config and tokenizer, never its weights; planning.py has the arithmetic.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tunewright import figures
from tunewright.config import Recipe
from tunewright.data.audit.lengths import find_lost_targets
from tunewright.data.audit.material import AuditMaterial, name_rows
from tunewright.data.audit.templates import find_template_traces
from tunewright.data.prepare import Prepared
from tunewright.data.preview import Preview, make_preview
from tunewright.data.render import Rendering, Row, find_column_edges, render
from tunewright.journal import Journal
from tunewright.model.catalog import ModelSource, find_config_folder
from tunewright.model.tokenizer import load_tokenizer
from tunewright.planning import Plan, find_shape, make_plan, this_machine
from tunewright.prices import read_prices
from tunewright.records import Finding
from tunewright.store import naming_disk_errors

MAX_RENDERED_ROWS = 20_000
NUM_PREVIEWS = 3
CHECKPOINTS_KEPT = 2
"""The newest and the best."""
MOSTLY_LOST = 0.5
"""Share of the target tokens beyond max_length from which a run is unfit."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """What was found. facts: pairs to show; token_lengths: of the training rows, uncut."""

    facts: dict[str, Any]
    findings: tuple[Finding, ...]
    token_lengths: tuple[int, ...]
    previews: tuple[Preview, ...]


def preflight(recipe: Recipe, prepared: Prepared, folder: Path, journal: Journal) -> Preflight:
    """Everything of a recipe but its data. folder: below which runs are written.

    Raises ModelError where the base cannot be reached or read.
    """
    with journal.progress("preflight", 3.0) as advance:
        folder_of_base = find_config_folder(recipe.base_model, recipe.base_revision)
        advance(1.0, "base found")
        device, room = this_machine(recipe)
        today = datetime.now(UTC).date()
        plan = make_plan(
            recipe,
            device,
            room,
            journal,
            prices=read_prices(None, today),
            prepared=prepared,
            today=today,
        )
        advance(2.0, "planned")
        how = _rendering(plan.recipe, prepared, folder_of_base)
        rows = render(prepared.splits.train[:MAX_RENDERED_ROWS], how)
        advance(3.0, "")
    looked_at = prepared.splits.train[:MAX_RENDERED_ROWS]
    places = {example.id: example.place for example in looked_at}
    findings = [
        *find_lost_targets(rows, places, how.max_length),
        *_mostly_lost(rows),
        *_nothing_learned(rows, prepared),
        *_own_special_tokens(how, prepared, journal),
        *_unfitting(plan, folder),
    ]
    previews = tuple(make_preview(row, how) for row in rows[:NUM_PREVIEWS])
    lengths = tuple(row.num_tokens + row.lost_targets for row in rows)
    facts = _facts(plan, how, rows, folder)
    if previews:
        facts["first row, [learned]"] = _show_preview(previews[0])
    return Preflight(facts, tuple(findings), lengths, previews)


def _show_preview(preview: Preview) -> str:
    """The row as the model sees it, with [brackets] around what carries loss."""
    pieces = (f"[{p.text}]" if p.weight > 0 else p.text for p in preview.pieces)
    answer = f" → [{preview.answer}]" if preview.answer is not None else ""
    return "".join(pieces) + answer


def _rendering(recipe: Recipe, prepared: Prepared, folder: Path) -> Rendering:
    """How training would render the rows; max_length as settled."""
    from tunewright.setup import template_text

    shape = find_shape(recipe)
    source = ModelSource(recipe.base_model, folder, "folder", ())
    tokenizer, default = load_tokenizer(source, shape.kind, recipe.trust_remote_code)
    template = recipe.data.chat_template
    if template is not None:
        tokenizer.chat_template = template_text(template)
    assert isinstance(recipe.training.max_length, int)
    layout = prepared.layout
    return Rendering(
        task=layout.task,
        tokenizer=tokenizer,
        max_length=recipe.training.max_length,
        labels=layout.labels,
        multi_label=layout.multi_label,
        seq2seq=shape.kind == "encoder-decoder" and layout.task in ("generate", "chat"),
        native_template=shape.kind == "decoder" and (template is not None or not default),
        column_edges=find_column_edges(prepared.splits.train),
    )


def _facts(plan: Plan, how: Rendering, rows: Sequence[Row], folder: Path) -> dict[str, Any]:
    """Pairs for people, in the order in which they are asked."""
    memory, seconds = plan.memory, plan.seconds
    words = {"FIT": "fits", "UNCERTAIN": "may not fit", "NO": "does not fit"}
    learned = sum(map(_learned, rows))
    lost = sum(row.lost_targets for row in rows)
    facts: dict[str, Any] = {
        "base": f"{plan.recipe.base_model}, {memory.num_parameters:,} parameters, "
        f"{memory.num_trained:,} of them trained",
        "memory": f"{words[plan.verdict]}: {figures.show_bytes(memory.peak_bytes)} "
        f"({figures.show_bytes(memory.low_bytes)} to {figures.show_bytes(memory.high_bytes)}) of "
        f"{figures.show_bytes(plan.room_bytes)} free on {plan.device.name}",
        "time": f"{figures.show_seconds(seconds.total)} ({figures.show_seconds(seconds.low)} to "
        f"{figures.show_seconds(seconds.high)}), {plan.totals.steps:,} steps",
        "disk": f"{figures.show_bytes(_needed_bytes(plan))} of "
        f"{figures.show_bytes(_free_bytes(folder))} free",
        "longest row": f"{max((row.num_tokens + row.lost_targets for row in rows), default=0):,} "
        f"tokens; max_length is {how.max_length}",
    }
    if learned:
        template = "the tokenizer's own" if how.native_template else "ours, or plain"
        facts["chat template"] = template
        facts["learned tokens"] = f"{learned:,}, and {lost:,} lost to max_length"
    return facts


def _mostly_lost(rows: Sequence[Row]) -> list[Finding]:
    """An error where cutting takes more target tokens than it leaves."""
    lost = sum(row.lost_targets for row in rows)
    learned = sum(_learned(row) for row in rows)
    if lost == 0 or lost < MOSTLY_LOST * (lost + learned):
        return []
    share = 100 * lost / (lost + learned)
    message = f"{share:.0f} % of all target tokens lie beyond training.max_length; raise it"
    return [Finding("targets_cut_off", "error", message)]


def _learned(row: Row) -> int:
    if row.is_seq2seq and isinstance(row.target, np.ndarray):
        return int(row.target.size)
    return 0 if row.target_weights is None else int((row.target_weights > 0).sum())


def _nothing_learned(rows: Sequence[Row], prepared: Prepared) -> list[Finding]:
    """Rows of text of which no token carries loss: weights of 0, or an answer cut off whole."""
    empty = {row.id for row in rows if row.target_weights is not None and _learned(row) == 0}
    named = [example for example in prepared.splits.train if example.id in empty]
    if not named:
        return []
    message = f"{len(named)} rows teach nothing, for none of their tokens carries loss"
    return [name_rows("nothing_learned", "warn", f"{message} (first: {named[0].place})", named)]


def _own_special_tokens(how: Rendering, prepared: Prepared, journal: Journal) -> list[Finding]:
    """Special tokens of this very tokenizer inside texts, where the common ones are not meant."""
    splits = prepared.splits
    material = AuditMaterial(
        prepared.layout, splits.train, splits.validation, splits.test, journal=journal
    )
    own = [str(token) for token in how.tokenizer.all_special_tokens]
    common = {place for item in find_template_traces(material) for place in item.places}
    found = find_template_traces(material, special_tokens=own)
    return [
        item for item in found if item.kind == "special_tokens" and not set(item.places) <= common
    ]


def _unfitting(plan: Plan, folder: Path) -> list[Finding]:
    found = []
    if plan.verdict == "NO":
        advice = plan.changes[0].what if plan.changes else "take a smaller base"
        message = f"the run does not fit the memory here; {advice}"
        found.append(Finding("memory", "error", message))
    elif plan.verdict == "UNCERTAIN":
        message = "the run may not fit the memory here; `tunewright plan` has the figures"
        found.append(Finding("memory", "warn", message))
    needed, free = _needed_bytes(plan), _free_bytes(folder)
    if needed > free:
        message = (
            f"{folder}: the run leaves {figures.show_bytes(needed)} and "
            f"{figures.show_bytes(free)} are free; free some, or give another --run-dir"
        )
        found.append(Finding("disk", "error", message))
    return found


def _needed_bytes(plan: Plan) -> int:
    # A checkpoint is written aside before the one it replaces goes.
    return int((CHECKPOINTS_KEPT + 1) * plan.memory.checkpoint_bytes + plan.memory.model_bytes)


def _free_bytes(folder: Path) -> int:
    """Free bytes where the folder lies or would lie."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    with naming_disk_errors(place):
        return shutil.disk_usage(place).free
