"""Configs of other tools, imported and trained for some steps on a tiny base."""

import json
from pathlib import Path

import pytest
from tests.importers.test_importers import write
from tests.model_zoo import make_tiny

from tunewright.config import make_recipe
from tunewright.importers.table import import_config
from tunewright.journal import silence
from tunewright.pipeline import train
from tunewright.store import RunFolder, read_jsonl

CONFIGS = Path(__file__).parents[1] / "importers" / "configs"
CHOSEN = {
    "axolotl": ("lora-1b.yml", "fft-8b.yaml", "lfm2-350m-fft.yaml"),
    "llamafactory": ("qwen3_lora_sft.yaml", "qwen3_lora_pretrain.yaml"),
    "trl": ("sft.py",),
    "autotrain": ("text_classification/local_dataset.yml", "text_regression/hub_dataset.yml"),
    "unsloth": ("full_finetune.yaml",),
    "torchtune": ("1B_lora_single_device.yaml",),
}
FAST = ("lora-1b.yml", "text_classification/local_dataset.yml")
COLORS = ("red", "green", "blue")
THINGS = (("roses", "blood", "rust"), ("grass", "leaves", "moss"), ("the sky", "ink", "the sea"))


def chosen():
    for tool, names in CHOSEN.items():
        entries = json.loads((CONFIGS / f"{tool}.json").read_text(encoding="utf-8"))
        for name in names:
            entry = next(item for item in entries if item["source"].endswith(name))
            marks = () if name in FAST else (pytest.mark.slow,)
            yield pytest.param(tool, entry, id=f"{tool}-{Path(name).stem}", marks=marks)


def rows(recipe):
    """Rows of the shape that the config speaks of."""
    columns = recipe.data.columns
    for number in range(48):
        color = COLORS[number % 3]
        thing = THINGS[number % 3][number // 3 % 3]
        text = f"number {number} is painted like {thing}"
        if recipe.task == "classify":
            yield {columns.input or "text": text, columns.output or "label": color}
        elif recipe.task == "regress":
            yield {columns.input or "text": text, columns.output or "score": float(number)}
        elif recipe.task == "continue":
            yield {"text": f"{text}. It was painted on a day of the month {number}."}
        elif recipe.task == "chat" or columns.messages:
            turns = [{"role": "user", "content": text}, {"role": "assistant", "content": color}]
            yield {columns.messages or "messages": turns}
        else:
            yield {"instruction": text, "input": "", "output": color}


def test_there_are_ten():
    assert len(list(chosen())) >= 10


@pytest.mark.parametrize(("tool", "entry"), chosen())
def test_imported_recipe_trains(tool, entry, tmp_path):
    losses = train_imported(tool, entry, tmp_path)
    assert losses and all(loss > 0 for loss in losses)


def train_imported(tool, entry, folder):
    """Losses of three steps of the imported recipe, on a tiny base and rows made for it."""
    imported = import_config(write(tool, entry, folder))
    encoder = imported.recipe.task in ("classify", "regress")
    data = folder / "rows.jsonl"
    values = json.loads(imported.recipe.model_dump_json())
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(imported.recipe)))
    values["base_model"] = str(make_tiny("bert" if encoder else "llama", folder / "base"))
    values["data"] |= {"train": str(data), "validation": 0.2, "test": 0.2}
    values["training"] |= {
        "max_steps": 3, "num_threads": 1, "device": "cpu", "trackers": [], "precision": "fp32",
        "max_length": 64, "num_workers": 0,
    }  # fmt: skip
    values["evaluation"] |= {"baselines": [], "max_new_tokens": 8}
    train(make_recipe(values), folder / "run", silence())
    return [step["loss"] for step in read_jsonl(RunFolder(folder / "run").steps)]
