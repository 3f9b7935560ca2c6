"""Unsloth YAML (`unsloth train -c`). Keys: the names in its default files, 2026-08."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunewright.importers.convert import (
    flag,
    modules,
    number,
    optimizer,
    schedule,
    sections_first,
    switch,
    warmup_steps,
    whole,
)
from tunewright.importers.draft import Draft, Rule, done_anyway, not_carried, run_dir, to

VISION = "images and sound are not learned here"


def import_unsloth(values: Mapping[str, Any], draft: Draft) -> None:
    """Fill the draft from an Unsloth config."""
    training = values.get("training")
    ordered = dict(values)
    if isinstance(training, Mapping):
        ordered["training"] = sections_first(training, "training_type", "load_in_4bit", "max_steps")
    draft.carry(sections_first(ordered, "model", "training"), RULES)
    draft.values.setdefault("adapter.method", "lora")
    if draft.values["adapter.method"] == "full":
        _drop_lora(draft)


def _drop_lora(draft: Draft) -> None:
    """Numbers of a LoRA that is not there would be refused by the recipe."""
    for key in [key for key in draft.values if key.startswith("adapter.") and key[8:] != "method"]:
        del draft.values[key]
    draft.fates = [
        fate
        if not fate.to.startswith("adapter.") or fate.to == "adapter.method"
        else type(fate)(fate.key, fate.value, "not carried", note="training_type is full")
        for fate in draft.fates
    ]


def _training_type(draft: Draft, key: str, value: Any) -> None:
    names = {"lora": "lora", "qlora": "qlora", "full": "full"}
    if value in names:
        draft.put(key, value, "adapter.method", names[value])
    else:
        draft.leave(key, value, f"no training type {value} here")


def _four_bits(draft: Draft, key: str, value: Any) -> None:
    if not value:
        draft.unset(key, value)
    elif draft.values.get("adapter.method") == "full":
        draft.leave(key, value, "4 bits go with an adapter, not with full tuning")
    else:
        draft.values.pop("adapter.method", None)
        draft.put(key, value, "adapter.method", "qlora")


def _loftq(draft: Draft, key: str, value: Any) -> None:
    if not value:
        draft.unset(key, value)
    elif draft.values.get("adapter.method") == "full":
        draft.leave(key, value, "training_type is full")
    else:
        draft.values.pop("adapter.method", None)
        draft.put(key, value, "adapter.method", "loftq", "the base is held in 4 bits")


def _part(what: str, pattern: str) -> Rule:
    """A part of each layer that is tuned with the others, or left out."""
    note = f'adapter.exclude_modules: "{pattern}" leaves the {what} as they are'

    def rule(draft: Draft, key: str, value: Any) -> None:
        if value:
            draft.always(key, value, "adapter.target_modules names what is tuned")
        else:
            draft.leave(key, value, note)

    return rule


def _completions(draft: Draft, key: str, value: Any) -> None:
    if value:
        draft.always(key, value, "loss is on the answers only")
    else:
        draft.leave(key, value, "loss is on the answers only; task: continue learns whole texts")


RULES: dict[str, Rule] = {
    "model": to("base_model"),
    "data.dataset": to("data.train"),
    "data.local_dataset": to("data.train", lambda v: v[0] if isinstance(v, list) else v),
    "data.format_type": done_anyway("the shape of the rows is found in the rows"),
    "training.training_type": _training_type,
    "training.load_in_4bit": _four_bits,
    "training.max_seq_length": to("training.max_length", whole),
    "training.output_dir": run_dir,
    "training.num_epochs": to("training.num_epochs", lambda v: number(v) or None),
    "training.learning_rate": to("training.learning_rate", number),
    "training.batch_size": to("training.batch_size", whole),
    "training.gradient_accumulation_steps": to("training.gradient_accumulation_steps", whole),
    "training.warmup_steps": warmup_steps,
    "training.warmup_ratio": to("training.warmup_ratio", number),
    "training.max_steps": to("training.max_steps", whole),
    "training.save_steps": to("training.save_steps", whole),
    "training.eval_steps": to("training.eval_steps", whole),
    "training.weight_decay": to("training.weight_decay", number),
    "training.random_seed": to("training.seed", int),
    "training.packing": to("training.packing", switch(True, False)),
    "training.train_on_completions": _completions,
    "training.gradient_checkpointing": to("training.activation_checkpointing", switch("on", "off")),
    "training.optim": optimizer,
    "training.lr_scheduler_type": to("training.lr_scheduler", schedule),
    "training.trust_remote_code": not_carried("code from a repository is never run unasked"),
    "lora.lora_r": to("adapter.r", whole),
    "lora.lora_alpha": to("adapter.alpha", number),
    "lora.lora_dropout": to("adapter.dropout", number),
    "lora.target_modules": to("adapter.target_modules", modules),
    "lora.use_rslora": flag("adapter.rslora"),
    "lora.use_dora": flag("adapter.dora"),
    "lora.use_loftq": _loftq,
    "lora.vision_all_linear": not_carried(VISION),
    "lora.finetune_vision_layers": not_carried(VISION),
    "lora.finetune_language_layers": done_anyway("the language layers are what is tuned"),
    "lora.finetune_attention_modules": _part("attention layers", "self_attn.*"),
    "lora.finetune_mlp_modules": _part("MLPs", "mlp.*"),
    "logging.enable_wandb": to("training.trackers", switch(["wandb"])),
    "logging.enable_tensorboard": to("training.trackers", switch(["tensorboard"])),
    "logging.wandb_project": not_carried("set WANDB_PROJECT in the environment"),
    "logging.wandb_token": not_carried("set WANDB_API_KEY in the environment"),
    "logging.hf_token": not_carried("set HF_TOKEN in the environment"),
    "logging.tensorboard_dir": done_anyway("TensorBoard files lie in the run folder"),
    "logging.log_frequency": done_anyway("every step is logged"),
    "inference.temperature": not_carried("said when asking: `chat` and `serve`"),
    "inference.top_p": not_carried("said when asking: `chat` and `serve`"),
    "inference.top_k": not_carried("said when asking: `chat` and `serve`"),
    "inference.min_p": not_carried("said when asking: `chat` and `serve`"),
}
