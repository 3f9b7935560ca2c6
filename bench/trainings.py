"""Real trainings that several benchmarks read: made bases times data sets times shares of the rows.

`python bench/trainings.py [curves] [truths]` measures what is missing, on one thread. Each outcome
is one line of trainings.jsonl in the temporary folder, with the code that made it, and a training
that was interrupted goes on.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tunewright.config import Recipe, make_recipe, with_values
from tunewright.data.prepare import Prepared, prepare
from tunewright.journal import silence
from tunewright.trial import Trial, deciding_metric, nested_order, run_trial, with_rows

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[2] / "shared" / "data")
WORK = Path(tempfile.gettempdir()) / "tunewright-curves"
SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
BASES = ("minilm", "minilm-4", "minilm-2", "random", "llama")
SEED = 17


def base_path(name: str) -> str:
    """The base itself, or a folder with a truncated, random or tiny one; made at first use."""
    if name == "minilm":
        return "embedded:minilm"
    folder = WORK / "bases" / name
    if not folder.exists():
        made = folder.with_name(f"{name}-{os.getpid()}")
        _make_base(name, made)
        with suppress(OSError):  # whole or not at all, for another process may be making it too
            made.rename(folder)
    return str(folder)


def _make_base(name: str, folder: Path) -> None:
    import torch
    import transformers

    if name == "llama":
        # The published file holds its tied embeddings as lm_head alone, which a classifier lacks.
        source_folder = DATA / "model-tinystories-656k"
        whole = transformers.AutoModelForCausalLM.from_pretrained(source_folder)
        transformers.AutoTokenizer.from_pretrained(source_folder).save_pretrained(folder)
        whole.model.save_pretrained(folder)
        return
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


PASSES = 3
CLASSES = 16
"""Classes of the smaller banking set: every fifth of the 77 in alphabetical order."""


def rows_of(name: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]], int, int]:
    """(rows to train on, rows to judge on, most of either) of a set, as (text, label)."""
    if name.startswith("banking77"):
        train, held = (_columns(DATA / "banking77" / f"{part}.csv", "text", "category")
                       for part in ("train", "test"))  # fmt: skip
        return train, held, *((1200, 800) if name == "banking77-few" else (4000, 1000))
    if name == "banking16":
        parts = [_columns(DATA / "banking77" / f"{part}.csv", "text", "category")
                 for part in ("train", "test")]  # fmt: skip
        kept = set(sorted({label for _, label in parts[0]})[::5])
        assert len(kept) == CLASSES
        train, held = ([row for row in part if row[1] in kept] for part in parts)
        return train, held, len(train), len(held)
    if name == "sms_spam":
        lines = (DATA / "sms_spam" / "SMSSpamCollection").read_text(encoding="utf-8").splitlines()
        rows = [(line.split("\t", 1)[1], line.split("\t", 1)[0]) for line in lines]
        return *_halves(rows), 800, 800
    if name == "nl2bash":  # which of the ten commonest commands an English wish begins with
        wishes, commands = ((DATA / "nl2bash" / f"all.{end}").read_text(encoding="utf-8")
                            .split("\n") for end in ("nl", "cm"))  # fmt: skip
        rows = [(wish, command.split()[0]) for wish, command in zip(wishes, commands, strict=True)
                if wish.strip() and command.split()]  # fmt: skip
        common = {word for word, _ in Counter(label for _, label in rows).most_common(10)}
        return *_halves([row for row in rows if row[1] in common]), 2000, 1000
    assert name == "e2e_price", name  # the price range that a description of a restaurant tells of
    rows = []
    for meaning, text in _columns(DATA / "e2e_nlg" / "trainset.csv", "mr", "ref"):
        found = re.search(r"priceRange\[([^]]*)\]", meaning)
        rows.append((text, found.group(1) if found else "none told"))
    return *_halves(rows), 1600, 1000


def _columns(path: Path, text: str, label: str) -> list[tuple[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return [(row[text], row[label]) for row in csv.DictReader(file)]


def _halves(rows: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Two thirds and a third, by the text's own hash: equal texts stay on one side."""
    sides: tuple[list[tuple[str, str]], list[tuple[str, str]]] = ([], [])
    for text, label in rows:
        plain = "".join(filter(str.isalnum, text.lower()))
        sides[int(hashlib.sha256(plain.encode()).hexdigest(), 16) % 3 == 0].append((text, label))
    return sides


def set_values(name: str) -> dict[str, Any]:
    """Data and training sections: three passes, all else as the product itself would have it."""
    folder = WORK / "sets"
    files = {part: folder / f"{name}-{part}.csv" for part in ("train", "validation")}
    if not files["validation"].exists():
        folder.mkdir(parents=True, exist_ok=True)
        train, held, most, most_held = rows_of(name)
        dice = random.Random(SEED)
        for part, rows, limit in (("train", train, most), ("validation", held, most_held)):
            made = files[part].with_suffix(f".{os.getpid()}")
            with open(made, "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(("text", "label"))
                writer.writerows(dice.sample(rows, min(limit, len(rows))))
            made.rename(files[part])
    training = {"num_epochs": float(PASSES), "num_threads": 1, "seed": SEED}
    data = {"train": str(files["train"]), "validation": str(files["validation"]), "test": 0.0}
    return {"task": "classify", "data": data, "training": training}


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


@cache
def code() -> str:
    """Which code trained: tunewright's version and git's name of the tree of its sources."""
    tree = subprocess.run(["git", "rev-parse", "--short", "HEAD:src/tunewright"],
                          cwd=Path(__file__).parent, capture_output=True, text=True)  # fmt: skip
    return f"{version('tunewright')} {tree.stdout.strip() or 'without git'}"


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
    if kind == "full":  # one look at validation a pass: eight of them would cost as much again
        recipe = with_values(recipe, {"training.eval_steps": math.ceil(len(rows) / 32)})
    trial = run_trial(
        recipe,
        part,
        deciding_metric(recipe, prepared),
        silence(),
        careful=kind == "full",
        place=WORK / "unfinished" / key.replace(" ", "-").replace("/", "-"),
    )
    with open(WORK / "trainings.jsonl", "a") as file:
        file.write(json.dumps({"key": key, "code": code(), "trial": asdict(trial)}) + "\n")
    print(f"{key}: {trial.metric} {trial.value:.4f} of {trial.num_rows} rows, "
          f"{trial.seconds:.0f} s", flush=True)  # fmt: skip
    return trial


CURVES = (
    ("sms_spam", "minilm-2"),
    ("banking16", "minilm-4"),
    ("nl2bash", "minilm-2"),
    ("nl2bash", "llama"),
    ("e2e_price", "minilm-2"),
    ("banking77", "minilm-2"),
)
TRUTHS = tuple((data, base) for data in ("sms_spam", "banking77-few") for base in BASES)


def main(names: list[str]) -> None:
    """`curves`, `truths`, or both; a number after a name is one of its lines alone."""
    WORK.mkdir(parents=True, exist_ok=True)
    numbers = [int(name) for name in names if name.isdigit()]
    for number, (data, base) in enumerate(CURVES if "truths" not in names else ()):
        if not numbers or number in numbers:
            for share in SHARES[:-1]:
                train(base, data, share)
            train(base, data, 1.0, "full")
    for number, (data, base) in enumerate(TRUTHS if "curves" not in names else ()):
        if not numbers or number in numbers:
            train(base, data, 1.0, "full")


if __name__ == "__main__":
    main(sys.argv[1:])
