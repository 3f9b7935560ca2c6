"""Peak memory and wall time as `plan` forecasts them, against real steps in fresh processes.

24 recipes over model size (1M to 135M made Llama shapes, MiniLM), row length, batch, LoRA or full,
precision and checkpointing. Each runs in a child forked from a process that has imported the
libraries and done nothing else, so that what is counted is what plan counts. The coefficients of
cost/memory.py were fitted on CALIBRATION, recipes of other sizes; `--calibration` measures those.

    python bench/plan_memory.py                                  the 24, recorded
    python bench/plan_memory.py --calibration --keep FILE.json   the others
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import tunewright.probing as probing
from plan_fit import RESULT, left_out
from record import at_least, at_most, record
from tunewright.config import parse_recipe
from tunewright.cost.memory import COEFFICIENTS
from tunewright.cost.time import find_pace
from tunewright.journal import Journal

for _name in (  # whatever a run imports on its way is a library, and no memory of the run
    "tunewright.pipeline",
    "transformers.models.bert.modeling_bert",
    "transformers.models.llama.modeling_llama",
    "accelerate",
    "sklearn.linear_model",
):
    importlib.import_module(_name)

STEPS, PROBED = 12, 5
"""Steps of a run after whose first PROBED (the very first left out) the rest is foretold."""
HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16, one thread"
# name: (hidden, intermediate, layers, heads, key-value heads, vocabulary)
SHAPES = {
    "1M": (128, 344, 4, 4, 4, 2000),
    "3M": (192, 512, 5, 6, 2, 4000),
    "7M": (256, 688, 6, 4, 4, 8000),
    "15M": (288, 768, 6, 6, 6, 32000),
    "25M": (448, 1216, 8, 7, 7, 12000),
    "45M": (512, 1408, 10, 8, 4, 32000),
    "60M": (640, 1728, 10, 10, 5, 16000),
    "135M": (576, 1536, 30, 9, 3, 49152),
}


@dataclass(frozen=True)
class Case:
    shape: str
    words: int
    batch: int
    method: str
    precision: str
    checkpointing: str = "off"

    @property
    def name(self) -> str:
        check = "-checkpointing" if self.checkpointing == "on" else ""
        return f"{self.shape}-{self.words}w-b{self.batch}-{self.method}-{self.precision}{check}"


TEST = (
    Case("1M", 60, 16, "full", "bf16"),
    Case("1M", 240, 8, "lora", "bf16"),
    Case("1M", 120, 16, "full", "fp32"),
    Case("7M", 60, 16, "full", "bf16"),
    Case("7M", 120, 8, "lora", "bf16"),
    Case("7M", 120, 8, "lora", "fp32"),
    Case("7M", 240, 4, "full", "fp32"),
    Case("7M", 120, 8, "full", "bf16", "on"),
    Case("25M", 60, 8, "full", "bf16"),
    Case("25M", 120, 8, "full", "fp32"),
    Case("25M", 120, 8, "lora", "bf16"),
    Case("25M", 240, 4, "lora", "fp32"),
    Case("25M", 240, 4, "lora", "bf16", "on"),
    Case("60M", 60, 8, "full", "bf16"),
    Case("60M", 60, 8, "lora", "bf16"),
    Case("60M", 120, 4, "full", "fp32"),
    Case("135M", 60, 4, "full", "bf16"),
    Case("135M", 120, 4, "lora", "bf16"),
    Case("minilm", 12, 32, "full", "bf16"),
    Case("minilm", 24, 16, "full", "fp32"),
    Case("minilm", 48, 16, "lora", "bf16"),
    Case("minilm", 96, 8, "full", "bf16"),
    Case("minilm", 96, 8, "lora", "fp32"),
    Case("minilm", 24, 64, "full", "bf16", "on"),
)
CALIBRATION = (
    Case("3M", 90, 16, "full", "bf16"),
    Case("3M", 180, 8, "full", "fp32"),
    Case("3M", 180, 8, "lora", "bf16"),
    Case("3M", 90, 16, "lora", "fp32"),
    Case("15M", 90, 8, "full", "bf16"),
    Case("15M", 180, 4, "full", "fp32"),
    Case("15M", 90, 8, "lora", "bf16"),
    Case("15M", 180, 4, "lora", "fp32"),
    Case("15M", 180, 8, "full", "bf16", "on"),
    Case("45M", 90, 8, "full", "bf16"),
    Case("45M", 45, 8, "full", "fp32"),
    Case("45M", 180, 4, "lora", "bf16"),
    Case("45M", 90, 4, "lora", "fp32"),
    Case("45M", 90, 8, "lora", "bf16", "on"),
    Case("minilm", 18, 32, "full", "bf16"),
    Case("minilm", 36, 16, "full", "fp32"),
    Case("minilm", 72, 16, "full", "bf16"),
    Case("minilm", 36, 32, "lora", "bf16"),
    Case("minilm", 72, 8, "lora", "fp32"),
    Case("minilm", 72, 16, "full", "bf16", "on"),
)


def make_model(name: str, folder: Path) -> Path:
    """A random Llama of one shape with a small byte-level tokenizer."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from transformers import LlamaConfig, LlamaForCausalLM

    from model_zoo import _make_tokenizer

    hidden, wide, layers, heads, kv_heads, words = SHAPES[name]
    tokenizer = _make_tokenizer("llama")
    tokenizer.model_max_length = 4096
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=wide, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, vocab_size=words,
        max_position_embeddings=4096, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(1)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_rows(case: Case, path: Path) -> None:
    """Rows whose lengths vary by half around the middle, in one pass of STEPS batches."""
    rng = random.Random(case.name)
    rows = []
    for number in range(STEPS * case.batch):
        size = round(case.words * rng.uniform(0.5, 1.5))
        text = " ".join(rng.choice(("a", "b", "c", "d", "e", "f")) for _ in range(size))
        if case.shape == "minilm":
            rows.append({"text": f"{text} {number}", "label": f"class {number % 8}"})
        else:
            half = len(text) // 2
            rows.append({"prompt": f"{number} {text[:half]}", "completion": text[half:]})
    path.write_text("\n".join(map(json.dumps, rows)))


def in_child(work):
    """The JSON that `work` returns, from a forked child; None where it failed."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read)
            with os.fdopen(write, "w") as out:
                out.write(json.dumps(work()))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return json.loads(text) if text else None


def recipe_of(case: Case, folder: Path):
    task = "classify" if case.shape == "minilm" else "generate"
    base = "embedded:minilm" if case.shape == "minilm" else str(folder / case.shape)
    return parse_recipe(
        f"task: {task}\nbase_model: {base}\n"
        f"data: {{train: {folder / case.name}.jsonl, validation: 0, test: 0}}\n"
        f"adapter: {{method: {case.method}}}\n"
        f"training: {{batch_size: {case.batch}, precision: {case.precision}, num_threads: 1,"
        f" activation_checkpointing: '{case.checkpointing}'}}\n",
        case.name,
    )


def play(case: Case, folder: Path) -> dict:
    """Forecast and measure one case in this process."""
    return asdict(probing.measure(recipe_of(case, folder), Journal(), steps=STEPS))


def play_all(cases) -> list[dict]:
    rows = []
    with tempfile.TemporaryDirectory(prefix="plan-memory-") as place:
        folder = Path(place)
        for name in sorted({case.shape for case in cases} - {"minilm"}):
            in_child(lambda name=name: str(make_model(name, folder / name)))
        for case in cases:
            make_rows(case, folder / f"{case.name}.jsonl")
            before = os.times().children_user + os.times().children_system
            found = in_child(lambda case=case: play(case, folder))
            took = os.times().children_user + os.times().children_system - before
            if found is None:
                print(case.name, "FAILED", flush=True)
                continue
            ratio = found["peak_bytes"] / found["forecast_bytes"]
            row = {"case": case.name, "ratio": round(ratio, 4), "core_s": round(took, 1), **found}
            rows.append(row)
            print(
                f"{case.name:38s} measured {found['peak_bytes'] / 1e6:8.1f} MB forecast "
                f"{found['forecast_bytes'] / 1e6:8.1f} MB  ratio {ratio:.3f}  core {took:.0f} s",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Forecast against measured peak memory.")
    parser.add_argument("--calibration", action="store_true", help="the other recipes")
    parser.add_argument("--part", default=":", help="only these of them, 0:6")
    parser.add_argument("--keep", type=Path, help="append to this file, and record once it is full")
    parser.add_argument("--earlier", type=Path, help="kept measurements that help to fit")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part == "none":  # the arithmetic changed, the measurements did not
        save(json.loads(options.keep.read_text()), earlier_of(options.earlier))
        return
    first, _, last = options.part.partition(":")
    cases = (CALIBRATION if options.calibration else TEST)[int(first or 0) : int(last or 99)]
    rows = play_all(cases)
    if options.keep:
        earlier = json.loads(options.keep.read_text()) if options.keep.exists() else []
        rows = [row for row in earlier if row["case"] not in {r["case"] for r in rows}] + rows
        options.keep.write_text(json.dumps(rows, indent=1))
    if not options.calibration and len(rows) == len(TEST):
        save(rows, earlier_of(options.earlier))


def time_error(row: dict) -> float:
    """How far the pace of the first steps misses the processor time of the rest, as a share.

    Processor time, because the machine is shared: one thread, so that it is what a wall clock would
    show on a machine of one's own.
    """
    tokens, seconds = row["step_tokens"], row["step_processor_s"]
    pace = find_pace(tokens[:PROBED], seconds[:PROBED])
    forecast = pace.seconds(sum(tokens[PROBED:]), len(tokens) - PROBED)
    return forecast / sum(seconds[PROBED:]) - 1


def earlier_of(path: Path | None) -> list[dict]:
    """Kept measurements of a file; else those of the last record."""
    if path is not None:
        return json.loads(path.read_text())
    return json.loads(RESULT.read_text())["earlier"] if RESULT.exists() else []


def save(rows: list[dict], earlier: list[dict]) -> None:
    """Bars of the rows. Every forecast is by factors that were fitted without its recipe.

    earlier: kept measurements of the calibration recipes, which help to fit and are not judged.
    """
    forecasts = left_out([*rows, *earlier])[: len(rows)]
    for row, forecast in zip(rows, forecasts, strict=True):
        row["forecast_bytes"] = round(forecast)
        row["ratio"] = round(row["peak_bytes"] / forecast, 4)
        if "step_tokens" in row:
            row["time_error"] = round(time_error(row), 4)
    errors = [row["forecast_bytes"] / row["peak_bytes"] - 1 for row in rows]
    high = COEFFICIENTS["cpu"].high
    false_fits = sum(high * row["forecast_bytes"] < row["peak_bytes"] for row in rows)
    on_time = sum(abs(row.get("time_error", 1.0)) <= 0.15 for row in rows)
    record(
        "plan_memory",
        [
            at_least("recipes measured, of 24", len(rows), 24),
            at_most("mean error of peak memory", 100 * sum(map(abs, errors)) / len(rows), 6.0, "%"),
            at_most("furthest too low", 100 * max(0.0, -min(errors)), 10.0, "%"),
            at_most("false FIT at the measured peak", false_fits, 0),
            at_least("time after a probe within 15 %, of 24", on_time, 20),
            at_most("core-minutes", sum(row["core_s"] for row in rows) / 60, 15.0),
        ],
        device=HARDWARE,
        extra={
            "cases": [{k: v for k, v in row.items() if k != "step_seconds"} for row in rows],
            "earlier": [
                {k: row[k] for k in ("case", "peak_bytes", "shape", "work")} for row in earlier
            ],
        },
    )


if __name__ == "__main__":
    main()
