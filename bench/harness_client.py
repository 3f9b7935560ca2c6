"""lm-evaluation-harness as a client of /v1/completions, beside the same model in its own process.

    python -m venv ENV && ENV/bin/pip install lm_eval torch transformers
    python -m bench.harness_client --python ENV/bin/python    about four minutes
    ... --quick                                               a few rows

Tasks are made here from local files: multiple choice, perplexity of whole texts, and generation.
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

from bench.record import at_least, at_most, record
from tests.api.tuning_server import TuningServer

DEVICE = "2 shared cores of an AMD EPYC with AVX512-BF16"
DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[1] / "../shared/data")
CHOICE = """task: local_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choice.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ROLLING = """task: local_rolling
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/texts.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
WRITING = """task: local_writing
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/texts.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{end}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 16, do_sample: false, temperature: 0.0}
metric_list: [{metric: exact_match}]
"""
TASKS = {"local_choice": CHOICE, "local_rolling": ROLLING, "local_writing": WRITING}
STORIES = (
    "Once upon a time there was a little {} who lived near the {}.",
    "One day a {} found a red ball under the {}.",
    "The {} was sad because the {} had gone away.",
    "Mom said to the {}: do not play with the {}!",
)
WHO = ("girl", "boy", "dog", "cat", "bird", "bear", "frog", "rabbit")
WHAT = ("tree", "house", "river", "park", "garden", "box", "lake", "hill")


def write_tasks(folder: Path, count: int) -> None:
    """Rows and task files."""
    choices, texts = [], []
    for number in range(count):
        who, what = WHO[number % 8], WHAT[(number // 8 + number) % 8]
        text = STORIES[number % 4].format(who, what)
        begin, _, end = text.rpartition(" ")
        others = [f" {other}." for other in WHAT if other != what][:3]
        wrong = [other.replace(".", "!") for other in others] if end.endswith("!") else others
        place = number % 4
        choices.append({"text": begin, "answer": place,
                        "choices": [*wrong[:place], f" {end}", *wrong[place:]]})  # fmt: skip
        texts.append({"text": text, "end": "x"})
    for name, rows in (("choice", choices), ("texts", texts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)))


def evaluate(python: str, folder: Path, out: str, model: str, arguments: str) -> dict[str, object]:
    """Results by task, and what each row came to."""
    done = subprocess.run(
        [python, "-m", "lm_eval", "--model", model, "--model_args", arguments,
         "--tasks", ",".join(TASKS), "--include_path", str(folder), "--batch_size", "8",
         "--output_path", str(folder / out), "--log_samples"],
        capture_output=True, text=True, check=False, timeout=3000,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
             "HF_HOME": str(folder / "hf"), "OPENAI_API_KEY": "none"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (results,) = (folder / out).rglob("results_*.json")
    samples = {}
    for name in TASKS:
        (path,) = (folder / out).rglob(f"samples_{name}_*.jsonl")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        samples[name] = sorted(rows, key=lambda row: row["doc_id"])
    return {"results": json.loads(results.read_text())["results"], "samples": samples}


def numbers_of(row: dict, task: str) -> list[float]:
    """Log-likelihoods of one row."""
    if task == "local_choice":
        return [float(item[0]) for item in row["filtered_resps"]]
    return [float(row["filtered_resps"][0])] if task == "local_rolling" else []


def compare(far: dict, near: dict) -> dict[str, object]:
    """Scores of both sides, and how far log-likelihoods lie apart."""
    scores, apart, same_text, rows = {}, 0.0, 0, 0
    for task in TASKS:
        for name, value in near["results"][task].items():
            if isinstance(value, float) and "stderr" not in name:
                scores[f"{task} {name}"] = (far["results"][task][name], value)
        for a, b in zip(far["samples"][task], near["samples"][task], strict=True):
            for x, y in zip(numbers_of(a, task), numbers_of(b, task), strict=True):
                apart = max(apart, abs(x - y))
            if task == "local_writing":
                rows, same_text = rows + 1, same_text + (a["filtered_resps"] == b["filtered_resps"])
    return {"scores": scores, "apart": apart, "same_text": same_text, "texts": rows}


def run(python: str, count: int, folder: Path) -> dict[str, object]:
    """The harness twice, on the same rows."""
    base = shutil.copytree(DATA / "model-tinystories-656k", folder / "tinystories")
    write_tasks(folder, count)
    (folder / "server").mkdir()
    server = TuningServer(folder / "server", str(base), "--no-worker")
    try:
        far = evaluate(
            python, folder, "far", "local-completions",
            f"model={base.name},base_url={server.url}/completions,tokenizer={base},"
            "num_concurrent=8,max_retries=1,tokenized_requests=True,max_length=512",
        )  # fmt: skip
    finally:
        log = server.stop()
    assert "Traceback" not in log, log
    near = evaluate(python, folder, "near", "hf", f"pretrained={base},dtype=float32")
    return compare(far, near)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", required=True, help="of an environment with lm_eval")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tunewright-harness-"))
    started = time.time()
    try:
        found = run(options.python, 8 if options.quick else 96, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found, indent=1))
    exact = [pair for name, pair in found["scores"].items() if "acc" in name or "exact" in name]
    shares = [abs(a - b) / abs(b) for name, (a, b) in found["scores"].items()
              if "perplexity" in name or "bits" in name]  # fmt: skip
    bars = [
        at_most("accuracies that differ", sum(a != b for a, b in exact), 0),
        at_most("perplexity, relative difference", max(shares), 0.01),
        at_most(
            "log-likelihood of a continuation, largest difference", found["apart"], 0.1, "nats"
        ),
        at_least("texts written alike", found["same_text"] / found["texts"], 0.95),
    ]
    if not options.quick:
        record(
            "harness_client",
            bars,
            DEVICE,
            {"found": found, "seconds": round(time.time() - started)},
        )


if __name__ == "__main__":
    main()
