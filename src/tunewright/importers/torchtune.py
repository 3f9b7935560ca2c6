"""torchtune YAML. Keys and dataset builders: its recipes and sources, 2026-04."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tunewright.importers.convert import (
    flag,
    mixed_precision,
    number,
    optimizer,
    preference,
    sections_first,
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

# Builders that stand for one hub data set.
DATASETS = {
    "alpaca_dataset": "tatsu-lab/alpaca",
    "alpaca_cleaned_dataset": "yahma/alpaca-cleaned",
    "samsum_dataset": "Samsung/samsum",
    "grammar_dataset": "liweili/c4_200m",
    "stack_exchange_paired_dataset": "lvwerra/stack-exchange-paired",
    "cnn_dailymail_articles_dataset": "ccdv/cnn_dailymail",
    "slimorca_dataset": "Open-Orca/SlimOrca-Dedup",
    "wikitext_dataset": "EleutherAI/wikitext_document_level",
}
PREFERENCE_DATASETS = (
    "stack_exchange_paired_dataset",
    "preference_dataset",
    "hh_rlhf_helpful_dataset",
)
TEXTS = ("text_completion_dataset", "wikitext_dataset", "cnn_dailymail_articles_dataset")
# Their names of modules, in the spelling of transformers.
MODULES = {"output_proj": ("o_proj",)}
MLP = ("gate_proj", "up_proj", "down_proj")
SECTIONS = ("profiler", "quantizer", "metric_logger")


def import_torchtune(values: Mapping[str, Any], draft: Draft) -> None:
    """Fill the draft from a torchtune config."""
    plain = _resolve(values)
    model = plain.get("model")
    if isinstance(model, Mapping):
        _model(draft, model)
    rest = {key: value for key, value in plain.items() if key != "model"}
    draft.carry(sections_first(rest, "loss", "max_steps_per_epoch"), RULES)


def _resolve(values: Mapping[str, Any]) -> dict[str, Any]:
    """`${name}` replaced by the top-level value of that name."""
    top = {key: value for key, value in values.items() if isinstance(value, str | int | float)}

    def resolve(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: resolve(item) for key, item in value.items()}
        if isinstance(value, list):
            return [resolve(item) for item in value]
        if isinstance(value, str):
            whole_name = re.fullmatch(r"\$\{(\w+)\}", value)
            if whole_name and whole_name[1] in top:
                return top[whole_name[1]]
            return re.sub(r"\$\{(\w+)\}", lambda m: str(top.get(m[1], m[0])), value)
        return value

    return {key: resolve(value) for key, value in values.items()}


def _model(draft: Draft, model: Mapping[str, Any]) -> None:
    builder = str(model.get("_component_", ""))
    name = builder.rsplit(".", 1)[-1]
    method = "qlora" if "qlora" in name else "lora" if "lora" in name else "full"
    if model.get("quantize_base"):
        method = "qlora"
    draft.put("model._component_", builder, "adapter.method", method)
    _targets(draft, model)
    rules = {
        "model.lora_rank": to("adapter.r", whole),
        "model.lora_alpha": to("adapter.alpha", number),
        "model.lora_dropout": to("adapter.dropout", number),
        "model.quantize_base": either_way("adapter.method holds the base so"),
        "model.use_dora": flag("adapter.dora"),
    }
    ours = ("_component_", "lora_attn_modules", "apply_lora_to_mlp", "apply_lora_to_output")
    draft.carry({k: v for k, v in model.items() if k not in ours}, rules, "model.")


def _targets(draft: Draft, model: Mapping[str, Any]) -> None:
    """Three keys of theirs are one of ours."""
    given = model.get("lora_attn_modules")
    if given is None:
        return
    names: list[str] = []
    for name in given:
        names += MODULES.get(name, (name,))
    if model.get("apply_lora_to_mlp"):
        names += MLP
    if model.get("apply_lora_to_output"):
        names.append("lm_head")
    for key in ("lora_attn_modules", "apply_lora_to_mlp", "apply_lora_to_output"):
        if key in model:
            draft.put(f"model.{key}", model[key], "adapter.target_modules", names)


def _dataset(draft: Draft, key: str, value: Any) -> None:
    section = value if isinstance(value, Mapping) else {}
    name = str(section.get("_component_", "")).rsplit(".", 1)[-1]
    source = section.get("source")
    files = section.get("data_files")
    if source in ("json", "csv", "parquet", "text") and files:
        source = files[0] if isinstance(files, list) else files
    ours = "data.train" if key == "dataset" else "data.validation"
    for inner, item in section.items():
        place = f"{key}.{inner}"
        if inner == "_component_":
            _builder(draft, place, item, name, ours, source)
        elif item is None or item is False:
            draft.unset(place, item)
        elif inner in ("source", "data_files"):
            draft.always(place, item, f"read as {ours}")
        elif inner == "packed":
            draft.put(place, item, "training.packing", True)
        elif inner == "train_on_input":
            draft.leave(place, item, "loss is on the answers only; task: continue learns all")
        elif inner in ("column_map", "conversation_column", "conversation_style", "column"):
            draft.always(place, item, "found in the rows, or named in data.columns")
        elif inner == "new_system_prompt":
            draft.put(place, item, "data.system_prompt", item)
        elif inner == "split":
            draft.leave(place, item, "all training rows are read; a share is held back here")
        else:
            draft.leave(place, item, "no counterpart here")


def _builder(draft: Draft, place: str, item: Any, name: str, ours: str, source: Any) -> None:
    chosen = source or DATASETS.get(name)
    if ours == "data.validation" and chosen == draft.values.get("data.train"):
        draft.leave(place, item, "a share of the training rows is held back for validation")
    elif chosen:
        draft.put(place, item, ours, chosen)
    else:
        draft.leave(place, item, "builds rows in code; give the file or hub id as data.train")
    if name in TEXTS and ours == "data.train":
        draft.values.setdefault("task", "continue")


def _checkpoint_dir(draft: Draft, key: str, value: Any) -> None:
    folder = str(value).rstrip("/").removesuffix("/original")
    draft.put(key, value, "base_model", folder, "a folder in Hugging Face layout, or its hub id")


def _loss(draft: Draft, key: str, value: Any) -> None:
    name = str(value).rsplit(".", 1)[-1]
    if "CrossEntropy" in name or "CEWithChunkedOutput" in name:
        draft.always(key, value, "cross-entropy over the answers, in chunks")
    else:
        word = {"DPOLoss": "dpo", "RSOLoss": "rso", "SimPOLoss": "simpo"}.get(name, name)
        preference(draft, key, word)


def _schedule(draft: Draft, key: str, value: Any) -> None:
    if "cosine" in str(value):
        draft.put(key, value, "training.lr_scheduler", "cosine")
    else:
        draft.leave(key, value, "no such schedule here; linear stays (or cosine, constant)")


def _steps_per_epoch(draft: Draft, key: str, value: Any) -> None:
    draft.put(key, value, "training.max_steps", int(value), "for one epoch")


FILES = done_anyway("the files of the base are found in its folder")
MEASURED = either_way("speed and memory of every step are written down")

RULES: dict[str, Rule] = {
    "output_dir": run_dir,
    "checkpointer.checkpoint_dir": _checkpoint_dir,
    "checkpointer._component_": done_anyway("weights are read and written as safetensors"),
    "checkpointer.checkpoint_files": FILES,
    "checkpointer.checkpoint_files.filename_format": FILES,
    "checkpointer.checkpoint_files.max_filename": FILES,
    "checkpointer.output_dir": done_anyway("the model lies in the run folder"),
    "checkpointer.model_type": done_anyway("the architecture is read from the base's config"),
    "checkpointer.recipe_checkpoint": not_carried("`tunewright train --resume` continues a run"),
    "checkpointer.adapter_checkpoint": not_carried("give the adapter's folder as base_model"),
    "tokenizer._component_": done_anyway("the tokenizer is read from the base"),
    "tokenizer.path": done_anyway("the tokenizer is read from the base"),
    "tokenizer.merges_file": done_anyway("the tokenizer is read from the base"),
    "tokenizer.vocab_path": done_anyway("the tokenizer is read from the base"),
    "tokenizer.merges_path": done_anyway("the tokenizer is read from the base"),
    "tokenizer.max_seq_len": to("training.max_length", whole),
    "tokenizer.prompt_template": not_carried("the tokenizer's own chat template is used"),
    "resume_from_checkpoint": not_carried("`tunewright train --resume` continues a run"),
    "save_adapter_weights_only": done_anyway("model/ holds the adapter alone"),
    "dataset": _dataset,
    "dataset_val": _dataset,
    "run_val_every_n_steps": to("training.eval_steps", whole),
    "batch_size_val": done_anyway("evaluation batches are sized by memory"),
    "seed": to("training.seed", int),
    "shuffle": done_anyway("rows come in a new order every epoch"),
    "batch_size": to("training.batch_size", whole),
    "optimizer._component_": optimizer,
    "optimizer.lr": to("training.learning_rate", number),
    "optimizer.weight_decay": to("training.weight_decay", number),
    "optimizer.fused": either_way("the update is fused"),
    "optimizer_in_bwd": not_carried("gradients are clipped by their common norm first"),
    "lr_scheduler._component_": _schedule,
    "lr_scheduler.num_warmup_steps": warmup_steps,
    "loss._component_": _loss,
    "loss.beta": to("preference.beta", number),
    "loss.label_smoothing": to("training.label_smoothing", lambda v: float(v) or None),
    "loss.num_output_chunks": done_anyway("chunks are sized by memory"),
    "epochs": to("training.num_epochs", number),
    "max_steps_per_epoch": _steps_per_epoch,
    "gradient_accumulation_steps": to("training.gradient_accumulation_steps", whole),
    "clip_grad_norm": to("training.max_grad_norm", number),
    "compile": not_carried("compiled only where it pays back within the run"),
    "device": to("training.device"),
    "dtype": to("training.precision", mixed_precision),
    "enable_activation_checkpointing": to("training.activation_checkpointing", switch("on", "off")),
    "enable_activation_offloading": not_carried("activations are recomputed rather than moved"),
    "metric_logger._component_": done_anyway("steps.jsonl holds every step"),
    "metric_logger.log_dir": done_anyway("steps.jsonl lies in the run folder"),
    "metric_logger.project": not_carried("set WANDB_PROJECT in the environment"),
    "log_every_n_steps": done_anyway("every step is logged"),
    "log_peak_memory_stats": MEASURED,
    "log_level": not_carried("the log tells what matters; there are no levels"),
    "profiler": not_carried("a profile is a matter of developing, not of a recipe"),
    "quantizer": not_carried("adapter.quantization names how the base is held"),
    "low_cpu_ram": either_way("weights are mapped from disk"),
}
