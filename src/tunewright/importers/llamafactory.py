"""LLaMA-Factory YAML, with the dataset_info.json beside it. Keys: its example configs, 2026-08."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

SHARED_ROWS = "a recipe reads one source: put the files into one folder, and give that"
# Keys of dataset_info.json that name a hub.
HUBS = ("hf_hub_url", "ms_hub_url", "om_hub_url")


def import_llamafactory(
    values: Mapping[str, Any], draft: Draft, dataset_info: Mapping[str, Any] | None = None
) -> None:
    """Fill the draft from a LLaMA-Factory config.

    dataset_info: the parsed dataset_info.json, in which `dataset` names its entries.
    """
    rules = {**RULES, "dataset": _dataset(dataset_info or {}, "data.train")}
    rules["eval_dataset"] = _dataset(dataset_info or {}, "data.validation")
    first = ("stage", "pref_loss", "finetuning_type", "quantization_bit", "max_steps")
    draft.carry(sections_first(values, *first), rules)


def _stage(draft: Draft, key: str, value: Any) -> None:
    if value == "pt":
        draft.put(key, value, "task", "continue")
    elif value == "sft":
        draft.always(key, value, "supervised is the default objective")
    elif value == "dpo":
        draft.always(key, value, "pref_loss tells the objective")
        draft.values.setdefault("objective", "dpo")
    elif value == "kto":
        draft.put(key, value, "objective", "kto")
    elif value == "rm":
        draft.put(key, value, "objective", "reward")
    else:
        draft.leave(key, value, f"no stage {value} here")


def _pref_loss(draft: Draft, key: str, value: Any) -> None:
    draft.values.pop("objective", None)
    preference(draft, key, value)


def _finetuning_type(draft: Draft, key: str, value: Any) -> None:
    if value in ("lora", "full", "oft"):
        draft.put(key, value, "adapter.method", value)
    elif value == "freeze":
        draft.put(key, value, "adapter.method", "freeze")
    else:
        draft.leave(key, value, f"no adapter method {value} here")


def _pissa(draft: Draft, key: str, value: Any) -> None:
    if not value:
        draft.unset(key, value)
    elif draft.values.get("adapter.method") == "qlora":
        draft.leave(key, value, "pissa starts from whole weights; on 4 bits there is loftq")
    else:
        draft.values.pop("adapter.method", None)
        draft.put(key, value, "adapter.method", "pissa")


def _bits(draft: Draft, key: str, value: Any) -> None:
    if int(value) == 4 and draft.values.get("adapter.method") in (None, "lora"):
        draft.values.pop("adapter.method", None)
        draft.put(key, value, "adapter.method", "qlora")
    elif int(value) == 8:
        draft.put(key, value, "adapter.quantization", "int8")
    else:
        draft.leave(key, value, f"{value} bits: there are 4 (with LoRA) and 8 here")


def _dataset(info: Mapping[str, Any], ours: str) -> Rule:
    def rule(draft: Draft, key: str, value: Any) -> None:
        names = [name.strip() for name in str(value).split(",")]
        for position, name in enumerate(names):
            place = key if len(names) == 1 else f"{key}[{position}]"
            if position:
                draft.leave(place, name, SHARED_ROWS)
            else:
                _first_dataset(draft, place, name, info, ours)

    return rule


def _first_dataset(draft: Draft, place: str, name: str, info: Mapping[str, Any], ours: str) -> None:
    entry = info.get(name)
    if not isinstance(entry, Mapping):
        note = "not found in dataset_info.json: give the file, or --dataset-info"
        draft.put(place, name, ours, name, note)
        return
    source = entry.get("file_name") or next((entry[h] for h in HUBS if entry.get(h)), name)
    draft.put(place, name, ours, source, "by dataset_info.json")
    columns = entry.get("columns") or {}
    roles = {"prompt": "input", "response": "output", "messages": "messages"}
    roles["rejected"] = "rejected"
    for theirs, column in columns.items():
        inner = f"dataset_info.{name}.columns.{theirs}"
        if theirs in roles:
            draft.put(inner, column, f"data.columns.{roles[theirs]}", column)
        else:
            draft.always(inner, column, "found in the rows where their shape is known")


RULES: dict[str, Rule] = {
    **TRAINER_RULES,
    "stage": _stage,
    "pref_loss": _pref_loss,
    "pref_beta": to("preference.beta", number),
    "finetuning_type": _finetuning_type,
    "freeze_trainable_layers": to("adapter.train_layers", int),
    "freeze_trainable_modules": done_anyway("the chosen layers learn whole"),
    "simpo_gamma": to("preference.gamma", number),
    "kto_chosen_weight": to("preference.desirable_weight", number),
    "kto_rejected_weight": to("preference.undesirable_weight", number),
    "quantization_bit": _bits,
    "quantization_method": not_carried("nf4 by bitsandbytes is what qlora means here"),
    "double_quantization": done_anyway("qlora quantises its scales as well"),
    "lora_rank": to("adapter.r", whole),
    "lora_alpha": to("adapter.alpha", number),
    "lora_dropout": to("adapter.dropout", number),
    "lora_target": to("adapter.target_modules", modules),
    "additional_target": to("adapter.modules_to_save", modules),
    "loraplus_lr_ratio": to("adapter.b_rate_ratio", number),
    "use_dora": flag("adapter.dora"),
    "use_rslora": flag("adapter.rslora"),
    "pissa_init": _pissa,
    "pissa_iter": to("adapter.pissa_iterations", whole),
    "pissa_convert": not_carried("the adapter is saved in PEFT's format as it is"),
    "adapter_name_or_path": not_carried("to go on from an adapter, give its folder as base_model"),
    "dataset_dir": not_carried("paths are taken from the recipe's folder"),
    "template": not_carried("the tokenizer's own chat template is used; data.chat_template"),
    "cutoff_len": to("training.max_length", whole),
    "max_samples": to("data.max_rows", whole),
    "val_size": to("data.validation", share),
    "packing": to("training.packing", lambda value: bool(value)),
    "neat_packing": done_anyway("packed rows never see each other"),
    "train_on_prompt": not_carried("loss is on the answers only; task: continue learns all"),
    "mask_history": not_carried("message weights of 0 take turns out of the loss"),
    "preprocessing_num_workers": either_way("rows are prepared on all cores"),
    "overwrite_cache": either_way("the cache goes by content, so it is never stale"),
    "tokenized_path": done_anyway("prepared rows are cached by content"),
    "plot_loss": either_way("the report draws the loss"),
    "early_stopping_steps": to("training.early_stopping_patience", whole),
    "image_max_pixels": not_carried("images are not learned here"),
    "video_max_pixels": not_carried("images are not learned here"),
    "freeze_vision_tower": not_carried("images are not learned here"),
    "ray_num_workers": not_carried("`tunewright train --launcher ray --nproc N`"),
}


def read_dataset_info(folder: Path) -> Path | None:
    """Where the dataset_info.json of a config in `folder` usually lies; None where it does not."""
    places = (folder / "dataset_info.json", folder / "data" / "dataset_info.json")
    return next((place for place in places if place.is_file()), None)
