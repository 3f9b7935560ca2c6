"""Moving home: an OpenAI account's jobs, files and results, and recipes that tune an open model on
the same rows, with the old model's recorded answers as the baseline to beat.

What was fetched or answered is not fetched or paid for twice; nothing in the folder is replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunewright.config import Recipe, parse_recipe
from tunewright.data.prepare import Prepared
from tunewright.errors import DataError, ProviderError, RecipeError, Refusal, UserError
from tunewright.evaluate.saved import save_predictions
from tunewright.hosted_asking import answer_limit, ask_systems
from tunewright.hosted_cost import Asked, Consent, forecast_hosted, get_consent
from tunewright.hosted_rivals import WRITTEN
from tunewright.importers.table import import_config, write_imported
from tunewright.journal import Journal, silence
from tunewright.preparing import prepare_for_training
from tunewright.price_desk import Ask, prices_of
from tunewright.providers.openai import OpenAIProvider
from tunewright.providers.rows import make_wording
from tunewright.sections import HostedSection
from tunewright.setup import first_by_content
from tunewright.store import write_atomic, write_json

OLD = "old_model"
PLAIN_ID = re.compile(r"[A-Za-z0-9_:-][A-Za-z0-9_.:-]*")
SEEN = (
    "# The old model has seen these test rows: its job had no validation file. Its recorded\n"
    "# answers look better than on new rows; give data.test a file that it never saw.\n"
)


@dataclass(frozen=True, slots=True)
class Moved:
    """One job and what became of it. recipe: None where no recipe could be made, see note."""

    job: str
    status: str
    base: str
    tuned: str | None
    num_rows: int = 0
    recipe: Path | None = None
    recorded: int = 0
    """Test rows that the old model answered."""
    score: float | None = None
    note: str = ""


@dataclass(slots=True)
class Move:
    """Everything that a migration works with. base_model: the open model for every recipe."""

    provider: OpenAIProvider
    out: Path
    journal: Journal
    base_model: str | None = None
    names: dict[str, str] = field(default_factory=dict)
    """File id to the name it had there."""
    sizes: dict[str, int] = field(default_factory=dict)
    """File id to its bytes there."""

    def fetch(self, file: str, folder: str) -> Path | None:
        """A file of the account, fetched once; None where it is gone."""
        name = f"{_plain(file)}-{Path(self.names.get(file, 'rows.jsonl')).name}"
        path = self.out / folder / name
        if path.exists():
            return path
        try:
            content = self.provider.download(file)
        except ProviderError as error:
            self.journal.warn(f"{file}: not fetched: {error}")
            return None
        size = self.sizes.get(file, len(content))
        if size != len(content):
            self.journal.warn(
                f"{file}: {len(content):,} bytes came, the account speaks of {size:,}; "
                "not kept, run again"
            )
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
        return path


def migrate_openai(
    provider: OpenAIProvider,
    out: Path,
    journal: Journal,
    *,
    base_model: str | None = None,
    record: bool = True,
    consent: Consent,
    ask: Ask | None = None,
) -> tuple[list[Moved], dict[str, Any]]:
    """(each job and what became of it, the account's inventory).

    Leaves inventory.json, jobs/, files/, results/, recipes/ and recorded/ below out. record: put
    the test rows to every tuned model that still answers, after consent. Raises ProviderError.
    """
    check_ours(out / "inventory.json")
    jobs, files, models = provider.account()
    out.mkdir(parents=True, exist_ok=True)
    move = Move(
        provider, out, journal, base_model,
        names={str(f.id): str(f.filename) for f in files},
        sizes={str(f.id): int(f.bytes) for f in files if isinstance(f.bytes, int)},
    )  # fmt: skip
    moved: list[Moved] = []
    recipes: dict[str, tuple[Recipe, Prepared]] = {}
    with journal.progress(f"moving {len(jobs)} jobs", float(max(1, len(jobs)))) as advance:
        for number, job in enumerate(jobs, 1):
            plain = job.model_dump(mode="json")
            made = _move_job(move, plain, recipes)
            moved.append(made)
            advance(number, made.job)
    if record:
        moved = _record(move, moved, recipes, frozenset(models), consent, ask)
    used = {str(job.training_file) for job in jobs} | {str(job.validation_file) for job in jobs}
    inventory = {
        "jobs": [m.job for m in moved],
        "files": [{"id": f.id, "name": f.filename, "bytes": f.bytes, "purpose": f.purpose,
                   "used": f.id in used} for f in files],
        "tuned_models": models,
        "moved": moved,
    }  # fmt: skip
    write_json(out / "inventory.json", inventory)
    return moved, inventory


def check_ours(inventory: Path) -> None:
    """Raise UserError where an inventory stands that no migration wrote."""
    if not inventory.exists():
        return
    try:
        found = json.loads(inventory.read_bytes())
    except ValueError:
        found = None
    if not (isinstance(found, dict) and "moved" in found):
        raise UserError(f"{inventory}: not written by migrate; give another folder with --out")


def _plain(name: str) -> str:
    """An id of the account as part of a file's name. Raises ProviderError for a path."""
    if not PLAIN_ID.fullmatch(name):
        raise ProviderError(f"the account has an id that no file can have: {name[:80]!r}")
    return name


def _move_job(
    move: Move, job: Mapping[str, Any], recipes: dict[str, tuple[Recipe, Prepared]]
) -> Moved:
    """Fetch what a job used and left behind, and make its recipe."""
    key = _plain(str(job["id"]))
    path = move.out / "jobs" / f"{key}.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, job)
    made = Moved(key, str(job["status"]), str(job["model"]), job.get("fine_tuned_model"))
    train = move.fetch(str(job["training_file"]), "files")
    held = move.fetch(str(job["validation_file"]), "files") if job.get("validation_file") else None
    for result in job.get("result_files") or ():
        move.fetch(str(result), "results")
    kind = (job.get("method") or {}).get("type", "supervised")
    if train is None:
        return replace(made, note="its training file is gone")
    if kind not in ("supervised", "dpo"):
        return replace(made, note=f"{kind} jobs learn from graders; no recipe of ours does")
    recipe = move.out / "recipes" / f"{key}.yaml"
    if not recipe.exists():
        recipe.parent.mkdir(exist_ok=True)
        write_atomic(recipe, _recipe_text(move, path, train, held))
    try:
        parsed = parse_recipe(recipe.read_bytes(), str(recipe), folder=recipe.parent)
        alone = parsed.model_copy(
            update={"evaluation": parsed.evaluation.model_copy(update={"beside": {}})}
        )
        prepared = prepare_for_training(alone, silence())
    except (DataError, RecipeError, Refusal) as error:
        return replace(made, recipe=recipe, note=str(error))
    recipes[key] = (parsed, prepared)
    rows = prepared.splits
    count = len(rows.train) + len(rows.validation) + len(rows.test)
    return replace(made, recipe=recipe, num_rows=count)


def _recipe_text(move: Move, job: Path, train: Path, held: Path | None) -> str:
    """YAML for the same rows and an open model; every key of the job carried over or listed."""
    plain = json.loads(job.read_text(encoding="utf-8"))
    local = {**plain, "training_file": f"../files/{train.name}", "validation_file": None}
    with_paths = job.with_suffix(".local.json")
    write_json(with_paths, local)
    try:
        imported = import_config(with_paths, "openai")
    finally:
        with_paths.unlink()
    values = dict(imported.values)
    values["data"] = {**dict(values.get("data") or {}), "train": f"../files/{train.name}"}
    if held is not None:
        # The old model never learned from these: the fair place to compare the two.
        values["data"]["test"] = f"../files/{held.name}"
    if move.base_model:
        values["base_model"] = move.base_model
    if "prompt" in _first_row(train):
        values["task"] = "generate"
    seen = "" if held is not None else SEEN
    return write_imported(replace(imported, values=values), job.name) + seen


def _first_row(path: Path) -> Mapping[str, Any]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError:
                    return {}
                return row if isinstance(row, dict) else {}
    return {}


def _record(
    move: Move,
    moved: Sequence[Moved],
    recipes: Mapping[str, tuple[Recipe, Prepared]],
    alive: frozenset[str],
    consent: Consent,
    ask: Ask | None,
) -> list[Moved]:
    """Put the test rows to every old model that still answers, once all of it is agreed to."""
    wanted = [m for m in moved if m.job in recipes and m.tuned in alive and _test(recipes[m.job])]
    if not wanted:
        return list(moved)
    _agree(move, wanted, recipes, consent, ask)
    done = {m.job: _record_one(move, m, *recipes[m.job]) for m in wanted}
    return [done.get(m.job, m) for m in moved]


def _test(made: tuple[Recipe, Prepared]) -> tuple[Any, ...]:
    recipe, prepared = made
    return first_by_content(prepared.splits.test, recipe.evaluation.max_rows)


def _asked(move: Move, made: Moved) -> Asked:
    return Asked(OLD, move.provider, str(made.tuned), priced_as=f"ft:{made.base}")


def _agree(
    move: Move,
    wanted: Sequence[Moved],
    recipes: Mapping[str, tuple[Recipe, Prepared]],
    consent: Consent,
    ask: Ask | None,
) -> None:
    """One forecast and one yes for everything that is asked."""
    today, total = datetime.now(UTC).date(), None
    for made in wanted:
        recipe, prepared = recipes[made.job]
        part = forecast_hosted(
            None, None, (), [_asked(move, made)], _test(recipes[made.job]),
            make_wording(prepared.layout, "openai"), prices=prices_of(recipe, today), today=today,
            ask=ask,
        )  # fmt: skip
        total = part if total is None else replace(
            total, ask_tokens=total.ask_tokens + part.ask_tokens,
            ask_usd=total.ask_usd + part.ask_usd,
            sources=tuple(dict.fromkeys((*total.sources, *part.sources))),
            warnings=tuple(dict.fromkeys((*total.warnings, *part.warnings))),
        )  # fmt: skip
    assert total is not None
    what = f"asking {len(wanted)} old models their test rows (--no-record leaves it out)"
    get_consent(recipes[wanted[0].job][0], total, what, consent, move.journal)


def _record_one(move: Move, made: Moved, recipe: Recipe, prepared: Prepared) -> Moved:
    """Keep an old model's answers where the recipe finds them as a run beside its own."""
    folder = move.out / "recorded" / made.job
    folder.mkdir(parents=True, exist_ok=True)
    test = _test((recipe, prepared))
    answers, _ = ask_systems(
        [_asked(move, made)], test, make_wording(prepared.layout, "openai"),
        kept=folder / "answers.jsonl", max_tokens=answer_limit(recipe, prepared.splits.train),
        num_parallel=HostedSection().num_parallel, journal=move.journal,
    )  # fmt: skip
    rows = answers[OLD]
    save_predictions(folder / "predictions.jsonl", rows)
    assert made.recipe is not None
    text = made.recipe.read_text(encoding="utf-8")
    if "beside:" not in text and recipe.objective in WRITTEN:
        beside = (
            f"evaluation:\n  beside:\n    {OLD}: {{run: ../recorded/{made.job}, system: {OLD}}}\n"
        )
        write_atomic(made.recipe, text + beside)
    right = sum(str(row.prediction).strip() == str(row.reference).strip() for row in rows)
    return replace(made, recorded=len(rows), score=right / len(rows))
