"""OpenAI fine-tuning jobs as JSON: the body of a request, or a job as the API returns it.

Source of the keys: the API reference of /v1/fine_tuning/jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunewright.importers.convert import whole
from tunewright.importers.draft import Draft, Rule, done_anyway, not_carried, to

OPEN_BASE = "Qwen/Qwen3-0.6B"
"""Where a hosted model was named: an open model that a small machine can tune."""
AUTO_RATE = "a factor on a hidden rate; training.learning_rate: auto is derived from the model"


GRADERS = "objective: grpo learns from graders here; docs/objectives.md says how they are written"


def import_openai(values: Mapping[str, Any], draft: Draft) -> None:
    """Fill the draft from a fine-tuning job."""
    draft.values["task"] = "chat"
    draft.values["adapter.method"] = "lora"
    draft.carry(values, RULES)


def _model(draft: Draft, key: str, value: Any) -> None:
    note = f"the weights of {value} are not public; any open model stands here"
    draft.put(key, value, "base_model", OPEN_BASE, note)


def _file(ours: str) -> Rule:
    def rule(draft: Draft, key: str, value: Any) -> None:
        if str(value).startswith("file-"):
            note = f"an uploaded file: download its rows and give the file as {ours}"
            draft.leave(key, value, note)
        else:
            draft.put(key, value, ours, value)

    return rule


def _method(draft: Draft, key: str, value: Any) -> None:
    if value == "supervised":
        draft.always(key, value, "supervised is the default objective")
    elif value == "dpo":
        draft.values.pop("task", None)
        draft.put(key, value, "objective", "dpo")
    else:
        draft.leave(key, value, GRADERS if value == "reinforcement" else f"no method {value} here")


def _unless_auto(ours: str, convert: Any) -> Rule:
    def rule(draft: Draft, key: str, value: Any) -> None:
        if value == "auto":
            draft.put(key, value, ours, "auto")
        else:
            to(ours, convert)(draft, key, value)

    return rule


def _rate(draft: Draft, key: str, value: Any) -> None:
    if value == "auto":
        draft.put(key, value, "training.learning_rate", "auto")
    else:
        draft.leave(key, value, AUTO_RATE)


def _hyperparameters(prefix: str) -> dict[str, Rule]:
    return {
        f"{prefix}n_epochs": _unless_auto("training.num_epochs", float),
        f"{prefix}batch_size": _unless_auto("training.batch_size", whole),
        f"{prefix}learning_rate_multiplier": _rate,
        f"{prefix}beta": _unless_auto("preference.beta", float),
    }


RESULT = not_carried("what came of the job, not how it was done")

RULES: dict[str, Rule] = {
    "model": _model,
    "training_file": _file("data.train"),
    "validation_file": _file("data.validation"),
    "seed": to("training.seed", int),
    "suffix": not_carried("runs are named by their folder"),
    "method.type": _method,
    **_hyperparameters("hyperparameters."),
    **_hyperparameters("method.supervised.hyperparameters."),
    **_hyperparameters("method.dpo.hyperparameters."),
    "method.reinforcement": not_carried(GRADERS),
    "integrations": not_carried("training.trackers names where numbers also go"),
    "metadata": not_carried("notes of the job; keep them beside the recipe"),
    "object": done_anyway("a fine-tuning job"),
    **dict.fromkeys(
        (
            "id", "created_at", "finished_at", "estimated_finish", "status", "trained_tokens",
            "fine_tuned_model", "organization_id", "result_files", "error", "error.code",
            "error.message", "error.param", "user_provided_suffix", "usage_metrics",
            "shared_with_openai", "eval_id",
        ),
        RESULT,
    ),
}  # fmt: skip
