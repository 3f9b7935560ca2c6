"""One run of Hugging Face's Trainer on pre-tokenised rows with labels: one JSON line.

python classify.py MODEL_FOLDER FOLDER: FOLDER holds train.jsonl and, for whole runs, few.jsonl and
test.jsonl with {"input_ids", "label"}; settings.json with {"variant", "batch_size",
"learning_rate", "num_epochs", "steps", "warmup_ratio", "weight_decay", "seed"}. The first five
steps are not timed.
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
from pathlib import Path

warnings.filterwarnings("ignore")

import datasets
import torch
import transformers

WARM_UP = 5
VARIANTS = {
    "shipped": {},
    "bf16 by length": {"bf16": True, "train_sampling_strategy": "group_by_length"},
}


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
        self.ends = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())


def main() -> None:
    model_folder, folder = sys.argv[1], Path(sys.argv[2])
    settings = json.loads((folder / "settings.json").read_text())
    imported, began = status("VmRSS"), time.perf_counter()
    name = "train.jsonl" if settings["steps"] else "few.jsonl"
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        model_folder, dtype=torch.float32
    )
    watch = Watch()
    with tempfile.TemporaryDirectory() as out:
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(
                output_dir=out, per_device_train_batch_size=settings["batch_size"],
                learning_rate=settings["learning_rate"], num_train_epochs=settings["num_epochs"],
                max_steps=settings["steps"] or -1, warmup_steps=settings["warmup_ratio"],
                weight_decay=settings["weight_decay"], save_strategy="no", report_to="none",
                use_cpu=True, disable_tqdm=True, seed=settings["seed"],
                **VARIANTS[settings["variant"]],
            ),
            train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer,
            callbacks=[watch],
        )  # fmt: skip
        trainer.train()
        predicted = None
        if (folder / "test.jsonl").exists() and not settings["steps"]:
            test = [json.loads(x) for x in (folder / "test.jsonl").read_text().splitlines()]
            trainer.args.train_sampling_strategy = "random"  # or the answers come sorted by length
            logits = trainer.predict(datasets.Dataset.from_list(test)).predictions
            predicted = logits.argmax(-1).tolist()
    steps = len(watch.ends) - WARM_UP
    seconds = watch.ends[-1] - watch.ends[WARM_UP - 1]
    print(json.dumps({
        "rows_per_s": steps * settings["batch_size"] / seconds, "seconds": seconds, "steps": steps,
        "waited_share": waited_share(time.perf_counter() - began),
        "memory_bytes": status("VmHWM") - imported, "predicted": predicted,
        "versions": {m.__name__: m.__version__ for m in (transformers, torch)},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
