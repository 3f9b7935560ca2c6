"""What is exported answers as trained: `python bench/export_parity.py [--writer RUN]`.

A real checkpoint (model-tinystories-656k) is tuned on e2e_nlg for some steps and exported merged.
A tiny Llama 3 (or the run given as --writer) is exported as GGUF (f16, q8_0), read by llama.cpp if
llama-cpp-python is installed. MiniLM is tuned on banking77 (or the run given as --labels is taken),
exported to ONNX and asked all 3,080 test rows.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from record import Bar, at_least, at_most, record
from tunewright.config import make_recipe
from tunewright.exporting import Exported, export_run
from tunewright.journal import silence
from tunewright.pipeline import train

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[2] / "shared" / "data")
WORK = Path(tempfile.gettempdir()) / "tunewright-export"
HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16"


def tune_writer() -> Path:
    recipe = {
        "task": "generate",
        "base_model": str(DATA / "model-tinystories-656k"),
        "data": {
            "train": str(DATA / "e2e_nlg" / "devset.csv"),
            "columns": {"input": "mr", "output": "ref"},
            "group": "mr",
        },
        "adapter": {"method": "lora", "r": 8},
        "training": {"max_steps": 60, "num_threads": 1, "precision": "fp32", "max_length": 200},
        "evaluation": {"baselines": [], "max_new_tokens": 40, "max_rows": 20},
    }
    train(make_recipe(recipe), WORK / "writer", silence())
    return WORK / "writer"


def tune_llama() -> Path:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.model_zoo import make_tiny

    recipe = {
        "task": "chat",
        "base_model": str(make_tiny("llama", WORK / "llama-base")),
        "data": {
            "train": str(DATA / "e2e_nlg" / "devset.csv"),
            "columns": {"input": "mr", "output": "ref"},
            "group": "mr",
            "max_rows": 1500,
        },
        "adapter": {"method": "lora", "r": 8},
        "training": {
            "max_steps": 60, "num_threads": 1, "precision": "fp32", "max_length": 250,
            "learning_rate": 0.01,
        },
        "evaluation": {"baselines": [], "max_new_tokens": 40, "max_rows": 20},
    }  # fmt: skip
    train(make_recipe(recipe), WORK / "llama", silence())
    return WORK / "llama"


def tune_classifier() -> Path:
    recipe = {
        "task": "classify",
        "base_model": "embedded:minilm",
        "data": {
            "train": str(DATA / "banking77" / "train.csv"),
            "test": str(DATA / "banking77" / "test.csv"),
            "columns": {"input": "text", "output": "category"},
        },
        "training": {"max_steps": 60, "num_threads": 1},
        "evaluation": {"baselines": []},
    }
    train(make_recipe(recipe), WORK / "labels", silence())
    return WORK / "labels"


def export(run: Path, to: str, precision: str | None = None) -> Exported:
    return export_run(
        run, to, WORK / f"{run.name}-{to}-{precision}", silence(), precision=precision
    )


def bars_of(
    exported: Exported, what: str, least_same_text: float | None, most: float | None = None
) -> list[Bar]:
    """Bars of one export; most: of the logit difference, by default the gate's own tolerance."""
    bars = []
    for parity in exported.parity:
        by = f"{what}, read by {parity.checked_by}"
        limit = most or parity.tolerance
        bars.append(at_most(f"{by}: largest logit difference", parity.max_logit_difference, limit))
        bars.append(at_least(f"{by}: same best choice", parity.same_top, parity.least_same_top))
        if least_same_text is not None and parity.same_text is not None:
            name = f"{by}: same greedy text, {parity.num_prompts} prompts"
            bars.append(at_least(name, parity.same_text, least_same_text))
    return bars


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--writer", type=Path)
    parser.add_argument("--labels", type=Path)
    given = parser.parse_args()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    bars = bars_of(export(tune_writer(), "merged"), "merged fp32", 1.0, 1e-3)
    writer = given.writer or tune_llama()
    bars += bars_of(export(writer, "gguf", "f16"), "GGUF f16", 1.0)
    bars += bars_of(export(writer, "gguf", "q8_0"), "GGUF q8_0", None)
    labels = given.labels or tune_classifier()
    parity = export(labels, "onnx").parity[0]
    name = f"ONNX, {parity.num_prompts} banking77 test rows"
    bars.append(at_least(f"{name}: same label", parity.same_top, 1.0))
    # A logit off by d moves a probability by less than d.
    bars.append(at_most(f"{name}: largest logit difference", parity.max_logit_difference, 1e-3))
    record("export_parity", bars, HARDWARE)


if __name__ == "__main__":
    main()
