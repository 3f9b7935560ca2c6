"""The spine's own bars: start-up, the quickstart's time, and parity of adapters with plain PEFT."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from record import at_least, at_most, record
from run_quality import DATA, WORK, tune

PROGRAM = str(Path(sys.executable).with_name("tunewright"))


def start_up() -> None:
    """Best of five of `tunewright --help`."""
    took = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([PROGRAM, "--help"], check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - started)
    record("start_up", [at_most("tunewright --help, best of 5", min(took), 0.4, "s")])


def quickstart() -> None:
    """The main job on embedded defaults, whole."""
    folder = Path(tempfile.mkdtemp(prefix="tunewright-")) / "quickstart"
    started = time.perf_counter()
    subprocess.run([PROGRAM, "quickstart", "--run-dir", str(folder), "--json"], check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    seconds = time.perf_counter() - started
    report = json.loads((folder / "report.json").read_text())
    record("quickstart", [
        at_most("quickstart", seconds, 180, "s"),
        at_least("its verdict is ship", report["verdict"] == "ship", 1),
    ], f"{report['details']['environment']['device']}, 2 cores",
        {"accuracy_percent": {
            item["system"]: round(100 * item["metrics"]["accuracy"]["value"], 2)
            for item in report["results"]
        }, "because": report["because"], "cost": report["cost"]})  # fmt: skip
    shutil.rmtree(folder.parent)


def parity() -> None:
    """LoRA runs in fp32, loaded by plain transformers and PEFT: the same logits."""
    training = {"precision": "fp32", "max_steps": 20}
    tune("parity-generate", {
        "task": "generate",
        "base_model": str(DATA / "model-tinystories-656k"),
        "data": {"train": str(DATA / "e2e_nlg" / "devset.csv"), "group": "mr", "max_rows": 600,
                 "columns": {"input": "mr", "output": "ref"}},
        "adapter": {"method": "lora"}, "training": training,
        "evaluation": {"baselines": [], "max_rows": 5},
    })  # fmt: skip
    tune("parity-classify", {
        "task": "classify",
        "base_model": "embedded:minilm",
        "data": {"train": "embedded:support-tickets"},
        "adapter": {"method": "lora"}, "training": training,
        "evaluation": {"baselines": ["majority"], "max_rows": 50},
    })  # fmt: skip
    furthest = max(_difference("parity-generate"), _difference("parity-classify"))
    record("parity", [at_most("LoRA logits by plain PEFT, largest difference", furthest, 1e-4)])


def _difference(name: str) -> float:
    """Largest difference of logits between our loader and plain PEFT on the run's test rows."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    from tunewright.model.weights import load_tuned

    folder = WORK / name / "model"
    manifest = json.loads((folder / "tunewright.json").read_text())
    config = json.loads((folder / "adapter_config.json").read_text())
    ours = load_tuned(folder).model
    if manifest["task"] == "classify":
        base = AutoModelForSequenceClassification.from_pretrained(
            config["base_model_name_or_path"], num_labels=len(manifest["labels"])
        )
    else:
        base = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"])
    theirs = PeftModel.from_pretrained(base.float(), folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lines = (WORK / name / "predictions.jsonl").read_text().split("\n")[:50]
    texts = {json.loads(line)["input"] for line in lines if line}
    furthest = 0.0
    with torch.inference_mode():
        for text in sorted(texts):
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            a, b = ours(input_ids=ids).logits, theirs(input_ids=ids).logits
            furthest = max(furthest, float(np.abs(a.numpy() - b.numpy()).max()))
    return furthest


if __name__ == "__main__":
    cases = {"start_up": start_up, "quickstart": quickstart, "parity": parity}
    for case in sys.argv[1:] or cases:
        cases[case]()
