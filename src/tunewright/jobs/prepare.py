"""What a job will do, found out before it is queued: rows, audits, resolved settings, forecast.

Runs in the job's child process; torch is loaded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunewright.config import Recipe, dump_recipe, with_values
from tunewright.errors import DataError, ModelError
from tunewright.jobs.folder import JobFolder
from tunewright.jobs.rows import UNANSWERED, check_rows
from tunewright.journal import Journal
from tunewright.planning import Plan, make_plan, this_machine
from tunewright.preparing import prepare_for_training
from tunewright.prices import read_prices
from tunewright.records import Finding
from tunewright.store import write_atomic, write_json

KEPT_EPOCHS = 3
TARGET_EPOCHS, MIN_TARGET, MAX_TARGET, MAX_EPOCHS = 3, 100, 25_000, 25
MAX_FINDINGS = 50
SHAPES = {
    "supervised": ("chat", "completion"), "dpo": ("preference",), "reinforcement": ("prompt",)
}  # fmt: skip
OBJECTIVES = {"reinforcement": "grpo"}
COMPLETIONS = 8
"""Answers that are tried to each prompt at compute_multiplier 1."""
MIN_COMPLETIONS, MAX_COMPLETIONS = 2, 64
ANSWER_TOKENS = 256
"""Longest answer that is tried, where the recipe of the settings says nothing else."""


def auto_epochs(num_rows: int) -> int:
    """Three, more for few rows and fewer for many: the rule of OpenAI's notebook on data."""
    if num_rows * TARGET_EPOCHS < MIN_TARGET:
        return min(MAX_EPOCHS, max(1, MIN_TARGET // max(1, num_rows)))
    if num_rows * TARGET_EPOCHS > MAX_TARGET:
        return max(1, MAX_TARGET // num_rows)
    return TARGET_EPOCHS


def prepare_job(folder: JobFolder, request: Mapping[str, Any], journal: Journal) -> None:
    """Leave recipe.yaml and prepared.json. Raises DataError, ModelError, RecipeError, Refusal."""
    recipe, document = look_ahead(request, journal)
    write_atomic(folder.recipe, dump_recipe(recipe))
    write_json(folder.prepared, document)


def look_ahead(request: Mapping[str, Any], journal: Journal) -> tuple[Recipe, dict[str, Any]]:
    """(the job's recipe; resolved settings, warnings and forecast). Raises as prepare_job."""
    num_rows, shape = _look_at_files(request)
    recipe = _draft(request, num_rows, shape)
    prepared = prepare_for_training(recipe, journal)
    device, room = this_machine(recipe)
    today = datetime.now(UTC).date()
    plan = make_plan(
        recipe, device, room, journal, prices=read_prices(None, today), prepared=prepared,
        today=today,
    )  # fmt: skip
    if plan.shape.kind == "encoder":
        raise ModelError(
            f"model {request['model']!r}: stands for {recipe.base_model}, an encoder, which writes "
            "no text; give a causal base in settings.yaml (models: {NAME: BASE}) or with "
            "`tunewright serve --base NAME=BASE`"
        )
    recipe, resolved = _resolve(recipe, plan, request)
    return (
        recipe,
        {
            "hyperparameters": resolved,
            "warnings": [_say(item) for item in _telling(prepared.findings)],
            "memory_bytes": plan.memory.high_bytes,
            "total_steps": plan.totals.steps,
            "forecast": {
                "seconds": plan.seconds.total,
                "seconds_range": [plan.seconds.low, plan.seconds.high],
                "peak_memory_bytes": plan.memory.peak_bytes,
                "tokens": plan.totals.tokens,
                "steps": plan.totals.steps,
                "usd": plan.usd,
                "energy_kwh": plan.energy.kwh,
                "fits": plan.verdict,
                "device": plan.device.name,
            },
        },
    )


def _look_at_files(request: Mapping[str, Any]) -> tuple[int, str]:
    """(rows, shape) of the training file. Raises DataError for rows that cannot be learned."""
    wanted, tries = SHAPES[request["method"]], request["method"] == "reinforcement"
    checked = check_rows(Path(request["training_path"]), unanswered=tries)
    sides = [("training", checked)]
    if request["validation_path"]:
        other = check_rows(Path(request["validation_path"]), unanswered=tries)
        sides.append(("validation", other))
    for side, found in sides:
        if found.fault:
            raise DataError(f"Invalid {side} file: {found.fault}")
        if found.shape == "prompt" and not tries:
            raise DataError(f"Invalid {side} file: Line 1: {UNANSWERED}")
        if found.shape not in wanted:
            raise DataError(
                f"Invalid {side} file: {found.shape} rows, but method {request['method']} learns "
                f"from {' or '.join(wanted)} rows"
            )
    if checked.num_rows < request["min_rows"]:
        raise DataError(
            f"Training file has {checked.num_rows} example(s), but must have at least "
            f"{request['min_rows']} examples"
        )
    return checked.num_rows, str(checked.shape)


def _draft(request: Mapping[str, Any], num_rows: int, shape: str) -> Recipe:
    given = request["hyperparameters"]
    epochs, batch = given.get("n_epochs", "auto"), given.get("batch_size", "auto")
    values: dict[str, Any] = {
        "base_model": request["base_model"],
        "objective": OBJECTIVES.get(request["method"], request["method"]),
        "data.train": request["training_path"],
        "data.format": "jsonl",
        "data.validation": request["validation_path"] or request["validation"],
        "data.test": request["test"],
        "training.seed": request["seed"],
        "training.num_epochs": auto_epochs(num_rows) if epochs == "auto" else epochs,
        "training.batch_size": batch,
        "training.keep_epochs": KEPT_EPOCHS,
        "training.trackers": request["trackers"],
    }
    if request["method"] == "reinforcement":
        values.update(_reinforced(request))
    elif request["method"] == "dpo":
        beta = given.get("beta", "auto")
        values["preference.beta"] = None if beta == "auto" else beta
    else:
        values["task"] = "chat" if shape == "chat" else "generate"
    return with_values(Recipe(), {**values, **request["recipe"]})


def _reinforced(request: Mapping[str, Any]) -> dict[str, Any]:
    """Recipe values of a job that learns from a grader."""
    given = request["hyperparameters"]
    multiplier, every = given.get("compute_multiplier"), given.get("eval_interval")
    factor = 1.0 if multiplier in (None, "auto") else float(str(multiplier))
    count = min(MAX_COMPLETIONS, max(MIN_COMPLETIONS, round(COMPLETIONS * factor)))
    values: dict[str, Any] = {
        "task": "chat",
        "graders": [{"type": "api", "name": "grader", "grader": request["grader"]}],
        "grpo.num_completions": count,
        "evaluation.max_new_tokens": ANSWER_TOKENS,
    }
    if every not in (None, "auto"):
        values["training.eval_steps"] = every
    return values


def _resolve(
    recipe: Recipe, plan: Plan, request: Mapping[str, Any]
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe with the multiplier applied, and every hyper-parameter as the number used."""
    filled = plan.recipe
    factor = request["hyperparameters"].get("learning_rate_multiplier", "auto")
    rate = filled.training.learning_rate
    if factor != "auto" and isinstance(rate, float):
        recipe = with_values(recipe, {"training.learning_rate": rate * float(factor)})
    resolved: dict[str, Any] = {
        "n_epochs": recipe.training.num_epochs,
        "batch_size": filled.training.batch_size,
        "learning_rate_multiplier": 1.0 if factor == "auto" else float(factor),
    }
    if isinstance(resolved["n_epochs"], float) and resolved["n_epochs"].is_integer():
        resolved["n_epochs"] = int(resolved["n_epochs"])
    if recipe.objective == "dpo":
        resolved["beta"] = 0.1 if recipe.preference.beta is None else recipe.preference.beta
    if recipe.objective == "grpo":
        resolved |= {
            "compute_multiplier": recipe.grpo.num_completions / COMPLETIONS,
            "eval_interval": filled.training.eval_steps,
            "eval_samples": 1,
            "reasoning_effort": "default",
        }
    return recipe, resolved


def _telling(findings: tuple[Finding, ...]) -> list[Finding]:
    chosen = [item for item in findings if item.severity in ("error", "warn")]
    return chosen[:MAX_FINDINGS]


def _say(finding: Finding) -> str:
    """The finding in a line, with the first rows that it speaks of."""
    places = ", ".join(place.rpartition("/")[2] for place in finding.places[:5])
    more = f" (rows: {places}{', ...' if len(finding.places) > 5 else ''})" if places else ""
    return f"{finding.kind}: {finding.message}{more}"
