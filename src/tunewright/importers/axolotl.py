"""axolotl YAML. Keys: its own schema files and example configs, 2026-07."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunewright.importers.convert import (
    flag,
    modules,
    number,
    optimizer,
    precision,
    preference,
    schedule,
    sections_first,
    share,
    switch,
    warmup_steps,
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

KERNELS = "Tunewright fuses what pays on this machine by itself"
PLACEMENT = "how a run is spread over devices is said on the command line, not in the recipe"
TEMPLATE = "the tokenizer's own chat template is used; data.chat_template takes another"
TOKENS = "special tokens come from the base's tokenizer; the end of a turn is always learned"
# Row shapes that tell the task; the rest is found in the rows themselves.
TASKS = {"completion": "continue", "pretrain": "continue", "chat_template": "chat"}


def import_axolotl(values: Mapping[str, Any], draft: Draft) -> None:
    """Fill the draft from an axolotl config."""
    draft.carry(sections_first(values, "rl", "max_steps", "adapter", "load_in_4bit"), RULES)
    if not values.get("adapter"):
        draft.values.setdefault("adapter.method", "full")


def _adapter(draft: Draft, key: str, value: Any) -> None:
    methods = {"lora": "lora", "qlora": "qlora"}
    if value in methods:
        draft.put(key, value, "adapter.method", methods[value])
    else:
        draft.leave(key, value, f"no adapter method {value} here")


def _quantized(bits: int) -> Rule:
    def rule(draft: Draft, key: str, value: Any) -> None:
        if not value:
            draft.unset(key, value)
        elif draft.values.get("adapter.method") == "qlora" and bits == 4:
            draft.always(key, value, "adapter.method qlora holds the base in 4 bits")
        elif bits == 4:
            draft.values.pop("adapter.method", None)
            draft.put(key, value, "adapter.method", "qlora")
        else:
            draft.put(key, value, "adapter.quantization", "int8")

    return rule


def _datasets(draft: Draft, key: str, value: Any) -> None:
    """The first dataset is the recipe's source; further ones are listed."""
    entries = value if isinstance(value, list) else [value]
    for position, entry in enumerate(entries):
        place = f"{key}[{position}]"
        if not isinstance(entry, Mapping):
            entry = {"path": entry}
        if position:
            note = "a recipe reads one source: put the files into one folder, and give that"
            for name, item in entry.items():
                draft.leave(f"{place}.{name}", item, note)
            continue
        _first_dataset(draft, place, entry)


def _first_dataset(draft: Draft, place: str, entry: Mapping[str, Any]) -> None:
    path = entry.get("path")
    files = entry.get("data_files")
    if path in ("json", "csv", "parquet", "text") and files:
        path = files[0] if isinstance(files, list) else files
    split = str(entry.get("split") or "")
    for name, item in entry.items():
        key = f"{place}.{name}"
        if name == "path":
            draft.put(key, item, "data.train", path)
        elif name == "data_files" and path == (item[0] if isinstance(item, list) else item):
            draft.always(key, item, "read as data.train")
        elif name == "type":
            _row_shape(draft, key, item)
        elif name in ("split", "train_on_split"):
            if split in ("", "train"):
                draft.always(key, item, "the train split is what data.train means")
            else:
                draft.leave(key, item, "all training rows are read; data.max_rows reads fewer")
        elif name.startswith(("field_messages", "message_", "roles", "conversation")):
            draft.always(key, item, "messages and their roles are found in the rows")
        elif name == "name":
            draft.leave(key, item, "name the folder in it: hf://datasets/owner/name/FOLDER")
        elif name == "ds_type":
            draft.always(key, item, "the file format is found by name and content")
        elif name in ("field_chosen", "field_rejected", "field"):
            draft.always(key, item, "the columns are found in the rows, or named in data.columns")
        else:
            draft.leave(key, item, "no counterpart here")


def _row_shape(draft: Draft, key: str, value: Any) -> None:
    if not isinstance(value, str):
        note = "a template of one's own for rows; data.columns names prompt and answer instead"
        draft.leave(key, value, note)
        return
    shape = value.split(".")[0].split(":")[0]
    objective = draft.values.get("objective")
    if shape in TASKS and objective is None:
        draft.put(key, value, "task", TASKS[shape])
    else:
        draft.always(key, value, "the shape of the rows is found in the rows")


def _held_datasets(draft: Draft, key: str, value: Any) -> None:
    entries = value if isinstance(value, list) else [value]
    first = entries[0]
    path = first.get("path") if isinstance(first, Mapping) else first
    draft.put(key, value, "data.validation", path)


def _train_on_inputs(draft: Draft, key: str, value: Any) -> None:
    if value:
        draft.leave(key, value, "loss is on the answers only; task: continue learns whole texts")
    else:
        draft.always(key, value, "loss is on the answers only")


def _tracker(name: str) -> Rule:
    def rule(draft: Draft, key: str, value: Any) -> None:
        draft.put(key, value, "training.trackers", [name], "the project's name is not carried")

    return rule


RULES: dict[str, Rule] = {
    "base_model": to("base_model"),
    "revision_of_model": to("base_revision"),
    "trust_remote_code": not_carried("code from a repository is never run unless you say so here"),
    "rl": preference,
    "rl_beta": to("preference.beta", number),
    "adapter": _adapter,
    "load_in_4bit": _quantized(4),
    "load_in_8bit": _quantized(8),
    "lora_r": to("adapter.r", whole),
    "lora_alpha": to("adapter.alpha", number),
    "lora_dropout": to("adapter.dropout", number),
    "lora_target_linear": to("adapter.target_modules", switch("all-linear")),
    "lora_target_modules": to("adapter.target_modules", modules),
    "lora_modules_to_save": to("adapter.modules_to_save", list),
    "peft_use_dora": flag("adapter.dora"),
    "peft_use_rslora": flag("adapter.rslora"),
    "loraplus_lr_ratio": to("adapter.b_rate_ratio", number),
    "lora_model_dir": not_carried("to go on from an adapter, give its folder as base_model"),
    "datasets": _datasets,
    "pretraining_dataset": _datasets,
    "test_datasets": _held_datasets,
    "val_set_size": to("data.validation", share),
    "dataset_exact_deduplication": done_anyway("equal rows are always found and merged"),
    "dataset_prepared_path": either_way("prepared rows are cached by content"),
    "chat_template": not_carried(TEMPLATE),
    "chat_template_jinja": to("data.chat_template"),
    "default_system_message": to("data.system_prompt"),
    "train_on_inputs": _train_on_inputs,
    "roles_to_train": done_anyway("loss is on the assistant's turns"),
    "sequence_len": to("training.max_length", whole),
    "sample_packing": to("training.packing", switch(True, False)),
    "eval_sample_packing": either_way("evaluation needs no packing: batches have next to no pad"),
    "pad_to_sequence_len": not_carried("batches are not padded to full length: it costs time only"),
    "gradient_accumulation_steps": to("training.gradient_accumulation_steps", whole),
    "micro_batch_size": to("training.batch_size", whole),
    "num_epochs": to("training.num_epochs", number),
    "max_steps": to("training.max_steps", whole),
    "optimizer": optimizer,
    "lr_scheduler": to("training.lr_scheduler", schedule),
    "learning_rate": to("training.learning_rate", number),
    "warmup_ratio": to("training.warmup_ratio", number),
    "warmup_steps": warmup_steps,
    "weight_decay": to("training.weight_decay", number),
    "max_grad_norm": to("training.max_grad_norm", number),
    "label_smoothing_factor": to("training.label_smoothing", number),
    "neftune_noise_alpha": to("training.neftune_alpha", number),
    "early_stopping_patience": to("training.early_stopping_patience", whole),
    "eval_steps": to("training.eval_steps", whole),
    "save_steps": to("training.save_steps", whole),
    "evals_per_epoch": not_carried("validation is judged about once an epoch; training.eval_steps"),
    "saves_per_epoch": done_anyway("a checkpoint every five minutes and at every best score"),
    "save_total_limit": done_anyway("the newest and the best checkpoint are kept"),
    "seed": to("training.seed", int),
    "bf16": precision("bf16"),
    "fp16": precision("fp16"),
    "tf32": not_carried("fp32 products are exact here; bf16 is the fast way"),
    "gradient_checkpointing": to("training.activation_checkpointing", switch("on", "off")),
    "gradient_checkpointing_kwargs.use_reentrant": either_way("an inner matter of the engine"),
    "activation_offloading": not_carried("activations are recomputed rather than moved"),
    "attn_implementation": either_way("attention without a dense mask is always used"),
    "flash_attention": either_way("attention without a dense mask is always used"),
    "resume_from_checkpoint": not_carried("`tunewright train --resume` continues a run"),
    "output_dir": run_dir,
    "logging_steps": done_anyway("every step is logged"),
    "wandb_project": _tracker("wandb"),
    "mlflow_experiment_name": _tracker("mlflow"),
    "use_tensorboard": to("training.trackers", switch(["tensorboard"])),
    "wandb_name": not_carried("runs are named by their folder"),
    "wandb_entity": not_carried("set WANDB_ENTITY in the environment"),
    "hub_model_id": not_carried("`tunewright export RUN --to hub` uploads"),
    "model_type": either_way("the architecture is read from the base's config"),
    "tokenizer_type": either_way("the tokenizer is read from the base"),
    "tokenizer_use_mistral_common": not_carried(TOKENS),
    "processor_type": not_carried("images and sound are not learned here"),
    "skip_prepare_dataset": not_carried("rows are always prepared and checked"),
    "remove_unused_columns": either_way("columns that no role needs are left alone"),
    "special_tokens.pad_token": done_anyway("padding needs no token of its own: it is masked"),
    "special_tokens.eos_token": not_carried(TOKENS),
    "special_tokens.bos_token": not_carried(TOKENS),
    "special_tokens.unk_token": not_carried(TOKENS),
    "eot_tokens": not_carried(TOKENS),
    "loss_watchdog_threshold": done_anyway("a loss that is not finite stops before the update"),
    "loss_watchdog_patience": done_anyway("a loss that is not finite stops before the update"),
    "dataset_processes": to("training.num_workers", whole),
    "dataloader_num_workers": to("training.num_workers", whole),
    "plugins": not_carried(KERNELS),
    "lora_mlp_kernel": either_way(KERNELS),
    "lora_qkv_kernel": either_way(KERNELS),
    "lora_o_kernel": either_way(KERNELS),
    "fsdp": not_carried(PLACEMENT),
    "deepspeed": not_carried(PLACEMENT),
    "ddp_find_unused_parameters": not_carried(PLACEMENT),
    "unfrozen_parameters": not_carried("adapter.method freeze names the layers that are tuned"),
    "kto_desirable_weight": to("preference.desirable_weight", number),
    "kto_undesirable_weight": to("preference.undesirable_weight", number),
    "strict": done_anyway("unknown keys are always errors"),
}
