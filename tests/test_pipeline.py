"""What a run keeps when it is resumed, refuses when it cannot fit, and gives back when it is done."""

import json

import pytest
import torch
from tests.model_zoo import make_tiny

from tunewright import setup as setup_file
from tunewright.config import make_recipe
from tunewright.data.prepare import prepare
from tunewright.errors import RecipeError
from tunewright.journal import Journal
from tunewright.pipeline import train
from tunewright.setup import make_setup
from tunewright.tokenising import render_for_training


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    make_tiny("bert", folder / "bert")
    rows = [{"text": f"row {i} of {'xy'[i % 2]}", "label": "ab"[i % 2]} for i in range(60)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def recipe_of(place, **sections):
    training = {"num_threads": 1, "precision": "fp32", "max_steps": 2}
    values = {
        "base_model": str(place / "bert"),
        "data": {"train": str(place / "rows.jsonl"), "validation": 0.2, "test": 0.2},
        "evaluation": {"baselines": ["majority"]},
    }
    return make_recipe({**values, **sections, "training": training | sections.get("training", {})})


def test_a_resumed_run_keeps_the_reasons_of_what_was_derived(place, tmp_path):
    recipe, run = recipe_of(place), tmp_path / "run"
    first = train(recipe, run, Journal())
    before = (run / "recipe.yaml").read_text()
    assert "# auto:" in before
    (run / "report.json").unlink()
    again = train(recipe, run, Journal(), resume=True)
    assert (run / "recipe.yaml").read_text() == before
    assert [item.key for item in again.details["derived"]] == [
        item.key for item in first.details["derived"]
    ]


def test_a_row_that_will_be_cut_does_not_count_at_its_full_length(place, tmp_path):
    make_tiny("llama", tmp_path / "llama")
    config = tmp_path / "llama" / "config.json"
    values = json.loads(config.read_text()) | {"max_position_embeddings": 1 << 17}
    config.write_text(json.dumps(values))
    tokenizer = tmp_path / "llama" / "tokenizer_config.json"
    values = json.loads(tokenizer.read_text()) | {"model_max_length": 1 << 17}
    tokenizer.write_text(json.dumps(values))
    rows = [{"prompt": f"say {i}", "completion": f"{i}"} for i in range(20)]
    rows[7]["prompt"] = "the lazy dog " * 8000
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = recipe_of(
        place,
        base_model=str(tmp_path / "llama"),
        data={"train": str(tmp_path / "rows.jsonl"), "validation": 0, "test": 0},
        training={"max_length": 64, "batch_size": 4},
        budget={"memory_gb": 0.2},
    )
    prepared = prepare(recipe.data, recipe.task, Journal())
    forecast = make_setup(recipe, prepared, Journal()).forecast
    assert forecast.peak_memory_bytes < 1.8e8


@pytest.mark.parametrize(("task", "max_length"), [
    ("generate", "auto"), ("generate", 8), ("continue", "auto"), ("classify", "auto")
])  # fmt: skip
def test_tokens_made_to_settle_the_rest_are_those_that_are_learned(
    place, tmp_path, task, max_length
):
    make_tiny("bert" if task == "classify" else "llama", tmp_path / "base")
    columns = {
        "generate": ("prompt", "completion"), "classify": ("text", "label"), "continue": ("text",)
    }[task]  # fmt: skip
    rows = [
        dict(zip(columns, (f"what comes after {i} " * (1 + i % 3), "ab"[i % 2]), strict=False))
        for i in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = recipe_of(
        place, task=task, base_model=str(tmp_path / "base"), adapter={"method": "lora"},
        data={"train": str(tmp_path / "rows.jsonl"), "validation": 0, "test": 0},
        training={"max_length": max_length, "batch_size": 4},
    )  # fmt: skip
    setup = make_setup(recipe, prepare(recipe.data, recipe.task, Journal()), Journal())
    assert (setup.rows is None) == (task == "continue" or max_length == 8)
    anew = render_for_training(setup.prepared, setup.rendering, Journal())
    for kept, made in zip(setup.rows or anew, anew, strict=True):
        assert (kept.id, kept.target) == (made.id, made.target)
        assert kept.input_ids.tolist() == made.input_ids.tolist()
        assert (kept.target_weights is None) == (made.target_weights is None)
        if kept.target_weights is not None:
            assert kept.target_weights.tolist() == made.target_weights.tolist()


def test_weights_in_memory_are_not_asked_for_a_second_time(place, monkeypatch):
    recipe = recipe_of(place, adapter={"method": "lora"})
    prepared = prepare(recipe.data, recipe.task, Journal())
    made = make_setup(recipe, prepared, Journal())
    loaded = sum(parameter.nbytes for parameter in made.base.model.parameters())
    free = int(made.forecast.peak_memory_bytes) - loaded
    monkeypatch.setattr(setup_file, "available_memory", lambda device: free)
    journal = Journal()
    make_setup(recipe, prepared, journal)
    assert not [text for text in journal.warnings if text.startswith("memory")]


def test_a_trained_model_is_out_of_memory_before_rivals_are_asked(place, tmp_path, monkeypatch):
    held = []

    def watched(setup, test, journal):
        held.extend(p.device for p in setup.base.model.parameters())
        return {}

    monkeypatch.setattr("tunewright.pipeline.answer_with_rivals", watched)
    train(recipe_of(place), tmp_path / "run", Journal())
    assert set(held) == {torch.device("meta")}


def test_a_rival_that_fails_is_remembered_and_nothing_ships(place, tmp_path, monkeypatch):
    from tunewright.evaluate.baselines import BASELINES

    def broken(material):
        raise ValueError("a library's own trouble")

    monkeypatch.setitem(BASELINES, "tfidf_linear", broken)
    recipe = recipe_of(place, evaluation={"baselines": ["majority", "tfidf_linear"]})
    run = tmp_path / "run"
    report = train(recipe, run, Journal())
    assert report.verdict != "ship"
    assert json.loads((run / "state.json").read_text())["failed_rivals"] == ["tfidf_linear"]


def test_the_saved_head_carries_a_temperature_and_answers_as_before(place, tmp_path):
    answers, manifests = {}, {}
    for wish in ("auto", "off"):
        run = tmp_path / wish
        report = train(recipe_of(place, training={"temperature": wish}), run, Journal())
        lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
        answers[wish] = {r["id"]: r for r in lines if r["system"] == "tuned"}
        manifests[wish] = json.loads((run / "model" / "tunewright.json").read_text())
        found = report.details["calibration"]
        assert ("ece_before" in found) == (wish == "auto")
        if wish == "auto":
            warmed = found
        else:
            assert warmed["ece_before"] == pytest.approx(found["ece"], abs=1e-5)
    temperature = manifests["auto"]["temperature"]
    assert temperature is not None and temperature != 1.0
    assert manifests["off"]["temperature"] is None
    for name, cold in answers["off"].items():
        warm = answers["auto"][name]
        assert warm["prediction"] == cold["prediction"]
        wanted = torch.tensor(cold["probabilities"]).log().div(temperature).softmax(0)
        assert torch.allclose(torch.tensor(warm["probabilities"]), wanted, atol=1e-4)


def test_a_run_stopped_before_its_model_was_saved_finds_the_same_temperature(
    place, tmp_path, monkeypatch
):
    whole = tmp_path / "whole"
    train(recipe_of(place), whole, Journal())

    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tunewright.pipeline.save_tuned", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(recipe_of(place), tmp_path / "again", Journal())
    train(recipe_of(place), tmp_path / "again", Journal(), resume=True)
    for name in ("model.safetensors", "tunewright.json"):
        left, right = whole / "model" / name, tmp_path / "again" / "model" / name
        assert left.read_bytes() == right.read_bytes()


def test_workers_are_refused_where_there_is_no_fork(place, tmp_path, monkeypatch):
    monkeypatch.delattr("os.fork")
    with pytest.raises(RecipeError, match=r"training.num_workers is 2.*set it to 0"):
        train(recipe_of(place, training={"num_workers": 2}), tmp_path / "run", Journal())
