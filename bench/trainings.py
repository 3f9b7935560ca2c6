"""Real trainings that several benchmarks read: made bases times data sets times shares of the rows.

`python bench/trainings.py [curves] [truths]` measures what is missing, on one thread. Each outcome
is one line of trainings.jsonl in the temporary folder, and a training that was interrupted goes on.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunewright.config import Recipe, make_recipe, with_values
from tunewright.data.prepare import Prepared, prepare
from tunewright.journal import silence
from tunewright.trial import Trial, deciding_metric, nested_order, run_trial, with_rows

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[2] / "shared" / "data")
WORK = Path(tempfile.gettempdir()) / "tunewright-trainings"
SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
BASES = ("minilm", "minilm-4", "minilm-2", "random", "llama")
SEED = 17


def base_path(name: str) -> str:
    """The base itself, or a folder with a truncated, random or tiny one; made at first use."""
    if name == "minilm":
        return "embedded:minilm"
    folder = WORK / "bases" / name
    if (folder / "model.safetensors").exists():
        return str(folder)
    import torch
    import transformers

    if name == "llama":
        # The published file holds its tied embeddings as lm_head alone, which a classifier lacks.
        source_folder = DATA / "model-tinystories-656k"
        whole = transformers.AutoModelForCausalLM.from_pretrained(source_folder)
        transformers.AutoTokenizer.from_pretrained(source_folder).save_pretrained(folder)
        whole.model.save_pretrained(folder)
        return str(folder)
    from safetensors.torch import load_file

    from tunewright.model.catalog import resolve_model

    source = resolve_model("embedded:minilm")
    config = transformers.BertConfig.from_pretrained(source.path)
    config.num_hidden_layers = 3 if name == "random" else int(name.rpartition("-")[2])
    torch.manual_seed(SEED)
    model = transformers.BertModel(config)
    if name != "random":
        state = load_file(source.weights[0])
        missing, _ = model.load_state_dict(
            {key.removeprefix("bert."): tensor for key, tensor in state.items()}, strict=False
        )
        assert not [key for key in missing if "position_ids" not in key], missing
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source.path)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    # It stays a sentence encoder: the note that its states are to be averaged goes along.
    for item in ("modules.json", "sentence_bert_config.json"):
        shutil.copy(source.path / item, folder / item)
    shutil.copytree(source.path / "1_Pooling", folder / "1_Pooling", dirs_exist_ok=True)
    return str(folder)


def set_values(name: str) -> dict[str, Any]:
    """Data and training sections: some thousand rows and a large validation set; "-few" after the
    name: 800 rows, 400 to judge on, and three passes.
    """
    name, _, few = name.partition("-")
    epochs = 3.0 if few or name == "sms_spam" else 4.0
    training = {"num_epochs": epochs, "batch_size": 32, "num_threads": 1, "seed": SEED}
    most = 800 if few else 3000
    if name == "banking77":
        held = _first_rows(DATA / "banking77" / "test.csv", 400 if few else 1000)
        data: dict[str, Any] = {"train": str(DATA / "banking77" / "train.csv"),
                                "validation": str(held), "test": 0.0, "max_rows": most}  # fmt: skip
    else:
        data = {"train": str(DATA / "sms_spam" / "SMSSpamCollection"), "format": "tsv",
                "validation": 1 / 3 if few else 0.3, "test": 0.0,
                "max_rows": 1200 if few else most}  # fmt: skip
    return {"task": "classify", "data": data, "training": training}


def _first_rows(path: Path, count: int) -> Path:
    """A copy with every n-th row, about `count` of them: the file is sorted by label."""
    out = WORK / f"{path.parent.name}-{path.stem}-{count}.csv"
    if not out.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        chosen = [rows[int(i * len(rows) / count)] for i in range(count)]
        with open(out, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(chosen)
    return out


def make(base: str, data: str) -> Recipe:
    return make_recipe({**set_values(data), "base_model": base_path(base)})


_PREPARED: dict[str, Prepared] = {}


def prepared_of(recipe: Recipe) -> Prepared:
    key = str(recipe.data.train)
    if key not in _PREPARED:
        _PREPARED[key] = prepare(recipe.data, recipe.task, silence())
    return _PREPARED[key]


def measured() -> dict[str, Trial]:
    """Everything measured so far, by key "SET BASE SHARE KIND"."""
    path = WORK / "trainings.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = {}
    for line in lines:
        item = json.loads(line)
        trial = {**item["trial"], "ci95": tuple(item["trial"]["ci95"])}
        found[item["key"]] = Trial(**trial)
    return found


def train(base: str, data: str, share: float, kind: str = "pilot", **changes: Any) -> Trial:
    """One training, read if measured already. kind: pilot (judged once) or full (as `train`)."""
    key = " ".join([data, base, f"1/{round(1 / share)}", kind, *map(str, changes.values())])
    known = measured()
    if key in known:
        return known[key]
    recipe = make(base, data)
    if changes:
        recipe = with_values(recipe, changes)
    prepared = prepared_of(recipe)
    rows = nested_order(prepared.splits.train, SEED)
    part = with_rows(prepared, rows[: round(share * len(rows))])
    trial = run_trial(
        recipe,
        part,
        deciding_metric(recipe, prepared),
        silence(),
        careful=kind == "full",
        place=WORK / "unfinished" / key.replace(" ", "-").replace("/", "-"),
    )
    with open(WORK / "trainings.jsonl", "a") as file:
        file.write(json.dumps({"key": key, "trial": asdict(trial)}) + "\n")
    print(f"{key}: {trial.metric} {trial.value:.4f} of {trial.num_rows} rows, "
          f"{trial.seconds:.0f} s", flush=True)  # fmt: skip
    return trial


CURVES = (
    ("banking77", "minilm-2"),
    ("banking77", "llama"),
    ("sms_spam", "minilm-2"),
    ("banking77", "minilm-4"),
    ("sms_spam", "llama"),
    ("sms_spam", "minilm-4"),
)
TRUTHS = tuple((data, base) for data in ("banking77-few", "sms_spam-few") for base in BASES)


def main(names: list[str]) -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    if "curves" in names or not names:
        for data, base in CURVES:
            for share in SHARES[:-1]:
                train(base, data, share)
            train(base, data, 1.0, "full")
    if "truths" in names or not names:
        for data, base in TRUTHS:
            train(base, data, 1.0, "full")


if __name__ == "__main__":
    main(sys.argv[1:])
