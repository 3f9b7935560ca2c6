"""The next training set: suspects out, made labels capped, a stream held back; and the verdict."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tunewright.config import make_recipe
from tunewright.lifecycle import Plan, judge, next_recipe, record_lineage
from tunewright.records import Example, Prediction, Request
from tunewright.store import RunFolder
from tunewright.training_set import build_set, read_pool, write_pool, write_set

HOW = make_recipe({"retune": {"model_labels": 0.2, "holdout": 0.25}})


def old_rows(count: int, begin: str) -> tuple[Example, ...]:
    return tuple(
        Example(f"{begin}{n}", "x", f"{begin} question {n}", f"class {n % 4}") for n in range(count)
    )


def new_requests() -> list[Request]:
    """400 from ten clients, one of whom flips every label; 200 more with a model's labels."""
    made = [
        Request(f"p{n}", n, f"new question {n}", "class 1", 0.97,
                label="class 2" if n % 10 == 3 else "class 1", label_by="person",
                client=f"client {n % 10}")
        for n in range(400)
    ]  # fmt: skip
    made += [Request(f"m{n}", n, f"made question {n}", "class 1", 0.97, label="class 1",
                     label_by="model") for n in range(200)]  # fmt: skip
    return [*made, Request("j", 1, "TEST question 3", "class 1", label="class 3")]


def _prepared(sides) -> SimpleNamespace:
    return SimpleNamespace(splits=sides, layout=SimpleNamespace(task="classify"))


@pytest.fixture
def built(tmp_path):
    sides = SimpleNamespace(
        train=old_rows(200, "train"), validation=old_rows(20, "val"), test=old_rows(100, "test")
    )
    requests = new_requests()
    answers = [
        Prediction(r.id, "new", "tuned", r.input, r.label, r.answer, r.confidence) for r in requests
    ]
    return build_set(RunFolder(tmp_path / "run"), _prepared(sides), requests, answers, HOW.retune)


def plan_of(built, tmp_path, recipe=HOW) -> Plan:
    return Plan(tmp_path / "run", recipe, built, "base", 0.3, 0.1, None, ())


def test_the_client_that_flips_is_out_and_made_labels_are_capped(built):
    assert [name for name, *_ in built.clients] == ["client 3"]
    assert all(row.client != "client 3" for row in built.new)
    people = sum(row.by == "person" for row in built.new)
    made = sum(row.by == "model" for row in built.new)
    assert made <= 0.2 * (people + made) + 1
    assert built.left_out["labels of a suspect client"] == 40
    assert built.left_out["text judges already"] == 1
    held = {row.input for row in built.tasks["update 1"]}
    assert 50 < len(held) < 130
    assert not held & {row.example.input for row in built.new}
    assert len(built.old) == 200


def test_files_of_the_next_training_tell_where_rows_come_from(built, tmp_path):
    recipe = next_recipe(plan_of(built, tmp_path), tmp_path / "data")
    lines = [json.loads(x) for x in (tmp_path / "data" / "train.jsonl").read_text().splitlines()]
    origins = {line["origin"] for line in lines}
    assert origins == {"old", "new, by person", "new, by model"}
    assert recipe.data.columns.output == "output"
    assert Path(str(recipe.data.test)).exists()


def test_promotion_needs_a_gain_and_no_loss(built, tmp_path):
    plan = plan_of(built, tmp_path)
    n, m = 100, len(built.tasks["update 1"])
    same = (np.ones(n), np.ones(n))
    gain = (np.zeros(m), np.ones(m))
    good = judge(plan, tmp_path / "new", {"first": same, "update 1": gain})
    assert good.promoted
    assert good.learning is not None
    assert good.learning.bwt == 0.0
    assert good.matrix == ((1.0, 0.0), (1.0, 1.0))
    worse = np.ones(n)
    worse[:20] = 0
    bad = judge(plan, tmp_path / "new", {"first": (np.ones(n), worse), "update 1": gain})
    assert not bad.promoted
    assert "first" in bad.because[0]
    idle = judge(plan, tmp_path / "new", {"first": same, "update 1": (np.ones(m), np.ones(m))})
    assert not idle.promoted
    (tmp_path / "new").mkdir()
    record_lineage(plan, good)
    told = json.loads((tmp_path / "new" / "lineage.json").read_text())
    assert told["promoted"] is True
    assert set(told["judges"].values()) == {"first", "update 1"}


def test_the_pool_keeps_what_replay_leaves_out(built, tmp_path):
    """A second update replays from all rows ever learned, not from the first update's replay."""
    folder = RunFolder(tmp_path / "run")
    taught = {row.example.input for row in built.new}
    assert not taught & {row.input for row in built.validation}
    assert len(built.validation) > 20
    folder.path.mkdir()
    write_pool(built.pool[:150], folder)
    assert len(read_pool(folder)) == 150
    again = build_set(
        folder,
        _prepared(SimpleNamespace(train=old_rows(5, "replayed"), validation=(), test=())),
        new_requests(),
        [],
        HOW.retune,
    )
    assert again.old_rows == 150
    assert {row.input for row in again.old} == {row.input for row in built.pool[:150]}


def test_labels_of_something_new_are_no_contradiction(tmp_path):
    sides = SimpleNamespace(train=old_rows(200, "train"), validation=(), test=())
    requests = [
        Request(f"p{n}", n, f"new {n}", label="class 9" if n % 10 == 3 else "class 1",
                label_by="person", client=f"client {n % 10}")
        for n in range(400)
    ]  # fmt: skip
    answers = [
        Prediction(r.id, "new", "tuned", r.input, r.label, "class 1", 0.97) for r in requests
    ]
    made = build_set(RunFolder(tmp_path), _prepared(sides), requests, answers, HOW.retune)
    assert made.clients == ()


def test_replayed_rows_stand_for_their_class(tmp_path):
    """Weights tell how common a class is; nothing is weighted where all rows are learned again."""
    how = make_recipe({"retune": {"strategy": "continue", "replay": 0.1}}).retune
    sides = SimpleNamespace(train=old_rows(200, "train"), validation=(), test=())
    requests = [
        Request(f"n{n}", n, f"new {n}", label="class 9", label_by="person") for n in range(50)
    ]
    answers = [
        Prediction(r.id, "new", "tuned", r.input, r.label, "class 1", 0.97) for r in requests
    ]
    made = build_set(RunFolder(tmp_path), _prepared(sides), requests, answers, how)
    values = write_set(made, tmp_path / "data")
    lines = [json.loads(x) for x in (tmp_path / "data" / "train.jsonl").read_text().splitlines()]
    old = [line for line in lines if line["origin"] == "old"]
    assert [line["weight"] for line in old] == [10.0] * 20
    assert not any("weight" in line for line in lines if line["origin"] != "old")
    assert values["training.weighting"] == "logits"
    assert values["data.columns"]["weight"] == "weight"
    whole = make_recipe({"retune": {"strategy": "base"}}).retune
    values = write_set(
        build_set(RunFolder(tmp_path), _prepared(sides), requests, answers, whole), tmp_path / "all"
    )
    assert "training.weighting" not in values
    assert "weight" not in values["data.columns"]
