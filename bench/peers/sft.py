"""One measured run of TRL's SFTTrainer on pre-tokenised rows: one JSON line. Peers' environment.

python sft.py MODEL_FOLDER ROWS.jsonl SETTINGS.json: rows {"input_ids", "completion_mask"}; settings
{"variant", "batch_size", "learning_rate", "r", "alpha", "max_length", "seed"}. The first step is
not timed.
"""

# ruff: noqa: E402, SIM115

from __future__ import annotations

import glob
import json
import os
import sys
import tempfile
import time
import warnings

warnings.filterwarnings("ignore")

import datasets
import peft
import torch
import transformers
import trl


def status(field: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def waited_share(seconds: float) -> float:
    """As in speed_lora.py: share of the processors' time that others had while we wanted it."""
    tasks = glob.glob("/proc/self/task/*/schedstat")
    waits = [int(open(task).read().split()[1]) for task in tasks]
    return sum(waits) / 1e9 / (seconds * len(os.sched_getaffinity(0)))


class Watch(transformers.TrainerCallback):
    def __init__(self):
        self.ends, self.losses = [], []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self.losses.append(logs["loss"])


VARIANTS = {
    "shipped": {},
    "bf16 by length": {
        "gradient_checkpointing": False,
        "train_sampling_strategy": "group_by_length",
        "model_init_kwargs": {"dtype": "bfloat16"},
    },
    "bf16 by length, checkpointed": {
        "train_sampling_strategy": "group_by_length",
        "model_init_kwargs": {"dtype": "bfloat16"},
    },
    "packed": {
        "gradient_checkpointing": False,
        "packing": True,
        "model_init_kwargs": {"dtype": "bfloat16"},
    },
    "fp32 in order": {
        "gradient_checkpointing": False,
        "bf16": False,
        "train_sampling_strategy": "sequential",
        "model_init_kwargs": {"dtype": "float32"},
    },
}


def main() -> None:
    model, rows_file, settings_file = sys.argv[1:]
    settings = json.load(open(settings_file))
    imported, began = status("VmRSS"), time.perf_counter()
    rows = [json.loads(line) for line in open(rows_file)]
    options = {
        "per_device_train_batch_size": settings["batch_size"],
        "learning_rate": settings["learning_rate"],
        "max_length": settings["max_length"],
        **VARIANTS[settings["variant"]],
        **settings.get("more", {}),
    }
    if options.get("packing"):  # a pack takes the place of several rows
        mean = sum(len(row["input_ids"]) for row in rows) / len(rows)
        options["per_device_train_batch_size"] = max(
            1, round(settings["batch_size"] * mean / settings["max_length"])
        )
    with tempfile.TemporaryDirectory() as folder:
        config = trl.SFTConfig(
            output_dir=folder, num_train_epochs=1, logging_steps=1, save_strategy="no",
            report_to="none", use_cpu=True, seed=settings["seed"], completion_only_loss=True,
            disable_tqdm=True, **options,
        )  # fmt: skip
        watch = Watch()
        trainer = trl.SFTTrainer(
            model=model, args=config, train_dataset=datasets.Dataset.from_list(rows),
            callbacks=[watch],
            peft_config=peft.LoraConfig(
                r=settings["r"], lora_alpha=settings["alpha"], lora_dropout=0.0,
                target_modules="all-linear", task_type="CAUSAL_LM",
            ),
        )  # fmt: skip
        if settings.get("adapter"):
            state = peft.utils.load_peft_weights(settings["adapter"], device="cpu")
            peft.set_peft_model_state_dict(trainer.model, state)
        counts = []
        collate = trainer.data_collator

        def counting(features):
            counts.append(
                (
                    sum(len(f["input_ids"]) for f in features),
                    sum(sum(x != -100 for x in f["labels"]) for f in features),
                )
            )
            return collate(features)

        trainer.data_collator = counting
        trainer.train()
    steps = len(watch.ends) - 1
    real = sum(c[0] for c in counts[1 : steps + 1])
    target = sum(c[1] for c in counts[1 : steps + 1])
    seconds = watch.ends[-1] - watch.ends[0]
    print(json.dumps({
        "tokens_per_s": real / seconds, "target_tokens_per_s": target / seconds, "tokens": real,
        "targets": target, "seconds": seconds, "steps": steps,
        "waited_share": waited_share(time.perf_counter() - began),
        "memory_bytes": status("VmHWM") - imported, "losses": watch.losses,
        "versions": {m.__name__: m.__version__ for m in (trl, peft, transformers, torch)},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
