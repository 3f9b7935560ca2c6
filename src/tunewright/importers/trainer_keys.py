"""Rules that LLaMA-Factory and TRL share: the arguments of Hugging Face's Trainer.

Source: TrainingArguments of transformers 5, and the options that both tools add alike.
"""

from __future__ import annotations

from tunewright.importers.convert import (
    number,
    optimizer,
    precision,
    schedule,
    switch,
    trackers,
    warmup_steps,
    whole,
)
from tunewright.importers.draft import Rule, done_anyway, either_way, not_carried, run_dir, to

PLACEMENT = "how a run is spread over devices is said on the command line, not in the recipe"
LOGGED = either_way("every step is logged")
EVALUATED = done_anyway("validation is judged about once an epoch; training.eval_steps changes it")
UPLOAD = not_carried("`tunewright export RUN --to hub` uploads")

TRAINER_RULES: dict[str, Rule] = {
    "model_name_or_path": to("base_model"),
    "model_revision": to("base_revision"),
    "trust_remote_code": not_carried("code from a repository is never run unless you say so here"),
    "per_device_train_batch_size": to("training.batch_size", whole),
    "gradient_accumulation_steps": to("training.gradient_accumulation_steps", whole),
    "learning_rate": to("training.learning_rate", number),
    "num_train_epochs": to("training.num_epochs", number),
    "max_steps": to("training.max_steps", whole),
    "lr_scheduler_type": to("training.lr_scheduler", schedule),
    "warmup_ratio": to("training.warmup_ratio", number),
    "warmup_steps": warmup_steps,
    "weight_decay": to("training.weight_decay", number),
    "max_grad_norm": to("training.max_grad_norm", number),
    "label_smoothing_factor": to("training.label_smoothing", number),
    "neftune_noise_alpha": to("training.neftune_alpha", number),
    "optim": optimizer,
    "bf16": precision("bf16"),
    "fp16": precision("fp16"),
    "tf32": not_carried("fp32 products are exact here; bf16 is the fast way"),
    "gradient_checkpointing": to("training.activation_checkpointing", switch("on", "off")),
    "gradient_checkpointing_kwargs.use_reentrant": either_way("an inner matter of the engine"),
    "seed": to("training.seed", int),
    "output_dir": run_dir,
    "overwrite_output_dir": not_carried("a run is never overwritten; give another --run-dir"),
    "resume_from_checkpoint": not_carried("`tunewright train --resume` continues a run"),
    "save_steps": to("training.save_steps", whole),
    "save_strategy": done_anyway("a checkpoint every five minutes and at every best score"),
    "save_total_limit": done_anyway("the newest and the best checkpoint are kept"),
    "save_only_model": either_way("checkpoints hold the whole state, so that resume is exact"),
    "load_best_model_at_end": done_anyway("the best weights are always what is left"),
    "metric_for_best_model": not_carried("evaluation.metrics: the first one decides"),
    "eval_steps": to("training.eval_steps", whole),
    "eval_strategy": EVALUATED,
    "do_eval": EVALUATED,
    "per_device_eval_batch_size": done_anyway("evaluation batches are sized by memory"),
    "logging_steps": LOGGED,
    "logging_first_step": LOGGED,
    "logging_strategy": LOGGED,
    "report_to": to("training.trackers", trackers),
    "run_name": not_carried("runs are named by their folder"),
    "dataloader_num_workers": to("training.num_workers", whole),
    "remove_unused_columns": either_way("columns that no role needs are left alone"),
    "group_by_length": done_anyway("batches hold rows of like length"),
    "use_liger_kernel": either_way("Tunewright fuses what pays on this machine by itself"),
    "attn_implementation": done_anyway("attention without a dense mask is always used"),
    "torch_dtype": not_carried("training.precision says in what the model computes"),
    "dtype": not_carried("training.precision says in what the model computes"),
    "push_to_hub": UPLOAD,
    "hub_model_id": UPLOAD,
    "deepspeed": not_carried(PLACEMENT),
    "fsdp": not_carried(PLACEMENT),
    "ddp_timeout": not_carried(PLACEMENT),
    "do_train": done_anyway("`tunewright train` trains"),
}
