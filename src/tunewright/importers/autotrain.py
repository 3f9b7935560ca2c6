"""AutoTrain YAML. Keys: its example configs, 2025-01."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewright.importers.convert import (
    mixed_precision,
    modules,
    number,
    optimizer,
    schedule,
    trackers,
    whole,
)
from tunewright.importers.draft import (
    Draft,
    Rule,
    done_anyway,
    either_way,
    not_carried,
    run_dir,
    to,
)

TASKS = {
    "text_classification": ("classify", None),
    "text_regression": ("regress", None),
    "token_classification": ("tag", None),
    "seq2seq": ("generate", None),
    "llm": (None, None),
    "llm-sft": (None, None),
    "llm-default": (None, None),
    "llm-generic": ("continue", None),
    "llm-dpo": (None, "dpo"),
    "llm-orpo": (None, "orpo"),
    "llm-reward": (None, "reward"),
    "sentence-transformers:pair": ("embed", None),
    "sentence-transformers:triplet": ("embed", None),
    "sentence-transformers:qa": ("embed", None),
}
UPLOAD = not_carried("`tunewright export RUN --to hub` uploads")
LABEL_OUTPUT = ("text_classification", "text_regression", "seq2seq", "token_classification")


def import_autotrain(values: Mapping[str, Any], draft: Draft) -> None:
    """Fill the draft from an AutoTrain config."""
    draft.carry(_without_data(values), RULES)
    data = values.get("data")
    if isinstance(data, Mapping):
        _data(draft, data, str(values.get("task")))
    params = values.get("params") or {}
    if "peft" not in params and str(values.get("task")).startswith("llm"):
        draft.values.setdefault("adapter.method", "full")


def _without_data(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "data"}


def _task(draft: Draft, key: str, value: Any) -> None:
    if value not in TASKS:
        draft.leave(key, value, f"no task {value} here")
        return
    task, objective = TASKS[value]
    if objective:
        draft.put(key, value, "objective", objective)
    elif task:
        draft.put(key, value, "task", task)
    else:
        draft.always(key, value, "the task is found in the rows")


def _data(draft: Draft, data: Mapping[str, Any], task: str) -> None:
    path = str(data.get("path", ""))
    local = path.startswith((".", "/")) or path.endswith("/") or Path(path).exists()
    for name, value in data.items():
        key = f"data.{name}"
        if name == "path":
            draft.put(key, value, "data.train", value)
        elif name == "column_mapping" and isinstance(value, Mapping):
            for theirs, column in value.items():
                _column(draft, f"{key}.{theirs}", theirs, column, task)
        elif value in (None, "", "null", "none"):
            draft.unset(key, value)
        elif name == "train_split":
            _train_split(draft, key, str(value))
        elif name == "valid_split":
            where = "a file of that name in the folder" if local else "the source's own split"
            draft.always(key, value, f"{where} is used for validation where there is one")
        elif name == "chat_template":
            draft.leave(key, value, "the tokenizer's own template is used; data.chat_template")
        else:
            draft.leave(key, value, "no counterpart here")


def _train_split(draft: Draft, key: str, value: str) -> None:
    if value == "train":
        draft.always(key, value, "the train split is what data.train means")
    else:
        draft.leave(key, value, "name it behind the source: data.train: owner/name:SPLIT")


def _column(draft: Draft, key: str, theirs: str, column: Any, task: str) -> None:
    if column in (None, ""):
        draft.unset(key, column)
        return
    if theirs == "text_column":
        chat = task.startswith("llm")
        ours = "data.columns.messages" if chat and column == "messages" else "data.columns.input"
        if chat and column != "messages":
            draft.always(key, column, "prompt, answer or conversation are found in the rows")
        else:
            draft.put(key, column, ours, column)
    elif theirs in ("target_column", "tags_column") and task in LABEL_OUTPUT:
        draft.put(key, column, "data.columns.output", column)
    elif theirs == "tokens_column":
        draft.put(key, column, "data.columns.input", column)
    elif theirs == "rejected_text_column":
        draft.put(key, column, "data.columns.rejected", column)
    else:
        draft.always(key, column, "found in the rows where their shape is known")


def _peft(draft: Draft, key: str, value: Any) -> None:
    if "adapter.method" in draft.values:
        draft.always(key, value, f"adapter.method is {draft.values['adapter.method']}")
    else:
        draft.put(key, value, "adapter.method", "lora" if value else "full")


def _quantization(draft: Draft, key: str, value: Any) -> None:
    if value == "int4":
        draft.values.pop("adapter.method", None)
        draft.put(key, value, "adapter.method", "qlora")
    elif value == "int8":
        draft.put(key, value, "adapter.quantization", "int8")
    else:
        draft.unset(key, value)


RULES: dict[str, Rule] = {
    "task": _task,
    "base_model": to("base_model"),
    "project_name": run_dir,
    "log": to("training.trackers", trackers),
    "backend": not_carried("where a run happens is said on the command line"),
    "params.block_size": to("training.max_length", whole),
    "params.max_seq_length": to("training.max_length", whole),
    "params.max_target_length": not_carried("prompt and answer obey training.max_length"),
    "params.max_prompt_length": not_carried("prompt and answer obey training.max_length"),
    "params.model_max_length": done_anyway("the base's own limit is read from its config"),
    "params.epochs": to("training.num_epochs", number),
    "params.batch_size": to("training.batch_size", whole),
    "params.lr": to("training.learning_rate", number),
    "params.peft": _peft,
    "params.quantization": _quantization,
    "params.lora_r": to("adapter.r", whole),
    "params.lora_alpha": to("adapter.alpha", number),
    "params.lora_dropout": to("adapter.dropout", number),
    "params.target_modules": to("adapter.target_modules", modules),
    "params.padding": either_way("padding never changes a number here"),
    "params.optimizer": optimizer,
    "params.scheduler": to("training.lr_scheduler", schedule),
    "params.gradient_accumulation": to("training.gradient_accumulation_steps", whole),
    "params.mixed_precision": to("training.precision", mixed_precision),
    "params.weight_decay": to("training.weight_decay", number),
    "params.warmup_ratio": to("training.warmup_ratio", number),
    "params.max_grad_norm": to("training.max_grad_norm", number),
    "params.seed": to("training.seed", int),
    "params.early_stopping_patience": to("training.early_stopping_patience", whole),
    "params.early_stopping_threshold": not_carried("any better score counts as better"),
    "params.merge_adapter": not_carried("`tunewright export RUN --to merged` merges"),
    "params.unsloth": either_way("Tunewright fuses what pays on this machine by itself"),
    "hub.push_to_hub": UPLOAD,
    "hub.username": not_carried("`tunewright export RUN --to hub` asks for the name"),
    "hub.token": not_carried("set HF_TOKEN in the environment; never in a recipe"),
}
