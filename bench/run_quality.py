"""Quality on real rows: `python bench/run_quality.py [CASE ...]`, each through the whole pipeline.

With QUALITY_REUSE=1 runs that lie finished in the temporary folder are read, not repeated; with
QUALITY_THREADS=1 each takes one thread, so that several can run side by side. Every case writes
results/quality_CASE.json with its bars, seconds, peak memory and all figures.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from record import Bar, at_least, at_most, record

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[2] / "shared" / "data")
WORK = Path(tempfile.gettempdir()) / "tunewright-quality"
SEEDS = tuple(map(int, os.environ.get("QUALITY_SEEDS", "17,18,19").split(",")))
SUBSET_SEEDS = (0, 1, 2, 3, 4)


def tune(name: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Run one recipe in a process of its own; returns report.json."""
    folder = WORK / name
    if os.environ.get("QUALITY_REUSE") and (folder / "report.json").exists():
        return json.loads((folder / "report.json").read_text())
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = folder.with_suffix(".yaml")
    place.write_text(json.dumps(recipe))  # JSON is YAML
    command = [str(Path(sys.executable).with_name("tunewright")), "train", str(place)]
    command += ["--run-dir", str(folder)]
    if threads := os.environ.get("QUALITY_THREADS"):
        command += ["--set", f"training.num_threads={threads}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "report.json").read_text())


def figure(report: Mapping[str, Any], system: str, metric: str | None = None) -> float:
    metric = metric or report["primary_metric"]
    found = next(item for item in report["results"] if item["system"] == system)
    return float(found["metrics"][metric]["value"])


def verdict_against(report: Mapping[str, Any], rival: str) -> str:
    return next(item["verdict"] for item in report["comparisons"] if item["b"] == rival)


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one run worth keeping."""
    values = {
        item["system"]: {name: value["value"] for name, value in item["metrics"].items()}
        for item in report["results"]
    }
    cost = {name: amount["measured"] for name, amount in report["cost"].items()}
    return {"verdict": report["verdict"], "because": report["because"], "results": values,
            "comparisons": report["comparisons"], "cost": cost}  # fmt: skip


def keep(case: str, bars: Sequence[Bar], reports: Sequence[Mapping[str, Any]]) -> None:
    extra = {"runs": [summary(report) for report in reports]}
    device = f"{reports[0]['details']['environment']['device']}, 2 cores"
    record(f"quality_{case}", bars, device, extra)


def banking77() -> None:
    """All rows, the set's own test file; three seeds."""
    reports = [
        tune(f"banking77-{seed}", {
            "task": "classify",
            "base_model": "embedded:minilm",
            "data": {
                "train": str(DATA / "banking77" / "train.csv"),
                "test": str(DATA / "banking77" / "test.csv"),
                "validation": 0.05,
            },
            "training": {"seed": seed, "label_smoothing": 0.1},
            "evaluation": {"baselines": ["linear_probe", "tfidf_linear"]},
        })
        for seed in SEEDS
    ]  # fmt: skip
    accuracies = [100 * figure(report, "tuned") for report in reports]
    against = [verdict_against(report, "tfidf_linear") == "better" for report in reports]
    count = len(reports)  # median_low: with two seeds, what the median of three cannot be below
    keep("banking77", [
        at_least(f"accuracy, median of seeds {', '.join(map(str, SEEDS))}",
                 statistics.median_low(accuracies), 93.6, "%"),
        at_least(f"ship, of {count}", sum(r["verdict"] == "ship" for r in reports), count),
        at_least(f"better than tfidf_linear, of {count}", sum(against), count),
    ], reports)  # fmt: skip


def banking77_10() -> None:
    """Ten rows a class, five subsets drawn by numpy's default_rng(seed) over the file's order."""
    with open(DATA / "banking77" / "train.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    reports = []
    for seed in SUBSET_SEEDS:
        stream = np.random.default_rng(seed)
        labels = np.array([row["category"] for row in rows])
        chosen = np.concatenate([
            stream.choice(np.flatnonzero(labels == label), 10, replace=False)
            for label in sorted(set(labels))
        ])  # fmt: skip
        WORK.mkdir(parents=True, exist_ok=True)
        subset = WORK / f"banking77-10-{seed}.csv"
        with open(subset, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "category"])
            writer.writeheader()
            writer.writerows(rows[i] for i in chosen)
        reports.append(tune(f"banking77-10-{seed}", {
            "task": "classify",
            "base_model": "embedded:minilm",
            "data": {"train": str(subset), "test": str(DATA / "banking77" / "test.csv")},
            "evaluation": {"baselines": ["linear_probe", "tfidf_linear"]},
        }))  # fmt: skip
    accuracies = [100 * figure(report, "tuned") for report in reports]
    keep("banking77_10", [
        at_least("accuracy at 10 per class, median of 5 subsets",
                 statistics.median(accuracies), 84.0, "%"),
    ], reports)  # fmt: skip


def sms_spam() -> None:
    """Spam or not, on a share held out; the rarer class decides."""
    report = tune("sms-spam", {
        "task": "classify",
        "base_model": "embedded:minilm",
        "data": {
            "train": str(DATA / "sms_spam" / "SMSSpamCollection"),
            "format": "tsv", "validation": 0.1, "test": 0.2,
        },
    })  # fmt: skip
    keep("sms_spam", [
        at_least("spam F1", 100 * figure(report, "tuned", "f1[spam]"), 97.2, "%"),
        at_most("texts equal after normalising on two sides", straddling(WORK / "sms-spam"), 0),
    ], [report])  # fmt: skip


def straddling(folder: Path) -> int:
    """Test texts of a finished run that also stand in its training rows, after normalising."""
    from tunewright.config import parse_recipe
    from tunewright.data.clean import normalise
    from tunewright.data.prepare import prepare
    from tunewright.journal import silence

    recipe = parse_recipe((folder / "recipe.yaml").read_text(), "recipe.yaml")
    splits = prepare(recipe.data, recipe.task, silence()).splits
    names = [{normalise(e.input) for e in side} for side in (splits.train, splits.validation)]
    test = {normalise(e.input) for e in splits.test}
    return len(test & names[0]) + len(test & names[1]) + len(names[0] & names[1])


def e2e_nlg() -> None:
    """Restaurants into sentences with a 656k-parameter base; groups of one input stay together."""
    report = tune("e2e-nlg", {
        "task": "generate",
        "base_model": str(DATA / "model-tinystories-656k"),
        "data": {
            "train": str(DATA / "e2e_nlg" / "devset.csv"),
            "columns": {"input": "mr", "output": "ref"}, "group": "mr", "test": 0.2,
        },
        "training": {"num_epochs": 3},
        "evaluation": {
            "metrics": ["bleu", "chrf", "rougeL", "bits_per_byte"],
            "baselines": ["base", "nearest_neighbour", "few_shot", "from_scratch"],
        },
    })  # fmt: skip
    bleu = figure(report, "tuned", "bleu")
    keep("e2e_nlg", [
        at_least("BLEU better than base", verdict_against(report, "base") == "better", 1),
        at_most("difference from sacrebleu's own command",
                abs(bleu - sacrebleu_command(WORK / "e2e-nlg")), 0.01),
    ], [report])  # fmt: skip


def sacrebleu_command(folder: Path) -> float:
    """BLEU of the tuned system by the command line of sacrebleu, on files written for it."""
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").open(encoding="utf-8")]
    rows = [line for line in lines if line["system"] == "tuned"]
    references = [row.get("references") or [row["reference"]] for row in rows]
    most = max(map(len, references))
    one_line = " ".join
    hypothesis = folder / "hypothesis.txt"
    hypothesis.write_text("".join(one_line(row["prediction"].split()) + "\n" for row in rows))
    files = []
    for number in range(most):
        path = folder / f"references.{number}.txt"
        texts = [item[number] if number < len(item) else "" for item in references]
        path.write_text("".join(one_line(text.split()) + "\n" for text in texts))
        files.append(str(path))
    command = [sys.executable, "-m", "sacrebleu", *files, "-i", str(hypothesis), "-b", "-w", "4"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.strip())


def nl_regex() -> None:
    """English into regular expressions with a byte-level Llama of 1.6M parameters made for it."""
    base = make_byte_model(WORK / "byte-llama")
    pairs = DATA / "nl_regex" / "data_turk_eval_turk"
    for name, part in (("train", "train"), ("validation", "val"), ("test", "test")):
        sources = (pairs / f"src-{part}.txt").read_text().splitlines()
        targets = (pairs / f"targ-{part}.txt").read_text().splitlines()
        rows = ({"prompt": a, "completion": b.replace(" ", "")}
                for a, b in zip(sources, targets, strict=True))  # fmt: skip
        (WORK / f"regex-{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    report = tune("nl-regex", {
        "task": "generate",
        "base_model": str(base),
        "data": {
            "train": str(WORK / "regex-train.jsonl"),
            "validation": str(WORK / "regex-validation.jsonl"),
            "test": str(WORK / "regex-test.jsonl"),
        },
        "training": {"learning_rate": 2e-3, "num_epochs": 6, "batch_size": 32},
        "evaluation": {"metrics": ["exact_match", "token_f1", "chrf"], "max_rows": 1000,
                       "baselines": ["base", "nearest_neighbour"]},
    })  # fmt: skip
    keep("nl_regex", [
        at_least("exact match better than base", verdict_against(report, "base") == "better", 1),
    ], [report])  # fmt: skip


def make_byte_model(folder: Path) -> Path:
    """A Llama shape over bytes, random: every character of a regular expression has a token."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(names), hidden_size=192, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=6, num_key_value_heads=6, max_position_embeddings=512,
        tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ))  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def shuffled_labels() -> None:
    """Labels in random order over 12 classes of banking77: nothing to learn, so never `ship`."""
    with open(DATA / "banking77" / "train.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    classes = sorted({row["category"] for row in rows})[:12]
    rows = [row for row in rows if row["category"] in classes]
    reports = []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(rows))
        path = WORK / f"shuffled-{seed}.csv"
        WORK.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "category"])
            writer.writerows(
                (row["text"], rows[other]["category"])
                for row, other in zip(rows[:600], order[:600], strict=True)
            )
        reports.append(tune(f"shuffled-{seed}", {
            "task": "classify",
            "base_model": "embedded:minilm",
            "data": {"train": str(path), "test": 0.4},
            "training": {"seed": seed, "num_epochs": 3},
            "evaluation": {"baselines": ["base", "majority", "tfidf_linear"]},
        }))  # fmt: skip
    shipped = sum(report["verdict"] == "ship" for report in reports)
    keep("shuffled_labels", [at_most("ship with shuffled labels, of 20", shipped, 0)], reports)


CASES: dict[str, Callable[[], None]] = {
    "banking77": banking77,
    "banking77_10": banking77_10,
    "sms_spam": sms_spam,
    "e2e_nlg": e2e_nlg,
    "nl_regex": nl_regex,
    "shuffled_labels": shuffled_labels,
}

if __name__ == "__main__":
    for case in sys.argv[1:] or CASES:
        CASES[case]()
