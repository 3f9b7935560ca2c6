"""TRL: YAML for `trl ... --config`, and command lines. Keys: its example scripts, 2026-07."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from tunewright.errors import RecipeError
from tunewright.importers.convert import (
    flag,
    modules,
    number,
    preference,
    sections_first,
    share,
    whole,
)
from tunewright.importers.draft import Draft, Rule, done_anyway, either_way, not_carried, to
from tunewright.importers.trainer_keys import TRAINER_RULES

OBJECTIVES = {
    "sft": None, "dpo": "dpo", "kto": "kto", "orpo": "orpo", "cpo": None, "reward": "reward",
}  # fmt: skip
COMMAND = "command"
"""Key under which read_command keeps the trainer's name."""


def import_trl(values: Mapping[str, Any], draft: Draft) -> None:
    """Fill the draft from TRL options."""
    first = (COMMAND, "loss_type", "use_peft", "load_in_4bit", "load_in_8bit", "max_steps")
    draft.carry(sections_first(values, *first), RULES)
    if not draft.values.get("adapter.method"):
        draft.values["adapter.method"] = "full"


def read_command(text: str, place: str) -> dict[str, Any]:
    """Options of the first TRL command line in a text: `trl sft ...`, `python .../dpo.py ...`.

    Raises RecipeError where there is none.
    """
    lines = text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines()
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        trainer, rest = _find_trainer(words)
        if trainer:
            return {COMMAND: trainer, **_options(rest)}
    raise RecipeError(f"{place}: no TRL command in it; expected `trl sft --model_name_or_path ...`")


def _find_trainer(words: list[str]) -> tuple[str, list[str]]:
    for position, word in enumerate(words):
        name = word.rsplit("/", 1)[-1]
        if name == "trl" and position + 1 < len(words):
            return words[position + 1], words[position + 2 :]
        if name.endswith(".py") and any(w.startswith("--model_name_or_path") for w in words):
            return name.removesuffix(".py"), words[position + 1 :]
    return "", []


def _options(words: list[str]) -> dict[str, Any]:
    """--key value, --key=value, --flag, and --key a b c."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, _, given = word[2:].replace("-", "_").partition("=")
            found[name] = [given] if given else []
        elif name:
            found[name].append(word)
    return {key: _value(texts) for key, texts in found.items()}


def _value(texts: list[str]) -> Any:
    values = [yaml.safe_load(text) if text else "" for text in texts]
    if not values:
        return True
    return values[0] if len(values) == 1 else values


def _command(draft: Draft, key: str, value: Any) -> None:
    name = str(value)
    if name == "sft":
        draft.always(key, value, "supervised is the default objective")
    elif OBJECTIVES.get(name):
        draft.put(key, value, "objective", OBJECTIVES[name])
    else:
        draft.leave(key, value, f"no objective {name} here; the recipe is supervised")


def _loss_type(draft: Draft, key: str, value: Any) -> None:
    draft.values.pop("objective", None)
    preference(draft, key, value[0] if isinstance(value, list) else value)


def _bits(bits: int) -> Rule:
    def rule(draft: Draft, key: str, value: Any) -> None:
        if not value:
            draft.unset(key, value)
        elif bits == 8:
            draft.put(key, value, "adapter.quantization", "int8")
        else:
            draft.values.pop("adapter.method", None)
            draft.put(key, value, "adapter.method", "qlora")

    return rule


def _use_peft(draft: Draft, key: str, value: Any) -> None:
    if value:
        draft.put(key, value, "adapter.method", "lora")
    else:
        draft.put(key, value, "adapter.method", "full")


def _completion_only(draft: Draft, key: str, value: Any) -> None:
    if value:
        draft.always(key, value, "loss is on the answers only")
    else:
        draft.leave(key, value, "loss is on the answers only; task: continue learns whole texts")


RULES: dict[str, Rule] = {
    **TRAINER_RULES,
    COMMAND: _command,
    "loss_type": _loss_type,
    "beta": to("preference.beta", number),
    "simpo_gamma": to("preference.gamma", number),
    "desirable_weight": to("preference.desirable_weight", number),
    "undesirable_weight": to("preference.undesirable_weight", number),
    "dataset_name": to("data.train"),
    "dataset_train_split": done_anyway("the train split is what data.train means"),
    "dataset_test_split": done_anyway("a test split of the source is used where there is one"),
    "dataset_config": not_carried(
        "name the file inside the data set: hf://datasets/owner/name/..."
    ),
    "test_split_size": to("data.test", share),
    "dataset_num_proc": either_way("rows are prepared on all cores"),
    "max_length": to("training.max_length", whole),
    "max_seq_length": to("training.max_length", whole),
    "max_completion_length": not_carried("prompt and answer together obey training.max_length"),
    "max_prompt_length": not_carried("prompt and answer together obey training.max_length"),
    "packing": to("training.packing", lambda value: bool(value)),
    "packing_strategy": not_carried("rows are never cut when they are packed"),
    "padding_free": either_way("batches have next to no padding"),
    "eos_token": not_carried("the end of a turn comes from the tokenizer and is always learned"),
    "chat_template_path": to("data.chat_template"),
    "completion_only_loss": _completion_only,
    "assistant_only_loss": _completion_only,
    "use_peft": _use_peft,
    "load_in_4bit": _bits(4),
    "load_in_8bit": _bits(8),
    "lora_r": to("adapter.r", whole),
    "lora_alpha": to("adapter.alpha", number),
    "lora_dropout": to("adapter.dropout", number),
    "lora_target_modules": to("adapter.target_modules", modules),
    "lora_modules_to_save": to("adapter.modules_to_save", modules),
    "use_dora": flag("adapter.dora"),
    "use_rslora": flag("adapter.rslora"),
    "no_remove_unused_columns": either_way("columns that no role needs are left alone"),
    "config": not_carried("give the file itself to `tunewright import`"),
}
