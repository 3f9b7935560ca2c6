"""The gate: parity, and not worse than the champion; through the command."""

import json
import shutil

import pytest
from tests.api.conftest import make_tiny, tune

from tunewright.cli.main import run
from tunewright.errors import Refusal, RunError
from tunewright.journal import silence
from tunewright.releases import gate
from tunewright.releases.board import Release
from tunewright.store import RunFolder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gated")
    bert = make_tiny("bert", folder / "bert")
    tune(folder, "first", bert, "classify", "full")
    shutil.copytree(folder / "first", folder / "worse")
    path = RunFolder(folder / "worse").predictions
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["system"] == "tuned" and row["split"] == "test":
            row["prediction"] = "nothing"
            row.pop("probabilities", None)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def champion(path):
    return Release("topics", 1, "production", None, str(path), {}, (), 0, 0)


def test_what_is_worse_than_the_champion_stays_outside(runs):
    found = gate.check_champion(runs / "worse", champion(runs / "first"), silence())
    assert not found.passed and found.says.startswith("worse against topics@1")
    with pytest.raises(Refusal, match="gate closed"):
        gate.refuse_failed([found])


def test_what_cannot_be_told_apart_may_pass(runs):
    shutil.copytree(runs / "first", runs / "same", dirs_exist_ok=True)
    found = gate.check_champion(runs / "same", champion(runs / "first"), silence())
    assert found.passed and found.says.startswith("cannot tell")


def test_the_first_release_needs_a_verdict_that_allows_it(runs):
    shutil.copytree(runs / "first", runs / "poor", dirs_exist_ok=True)
    path = RunFolder(runs / "poor").report_json
    path.write_text(json.dumps(json.loads(path.read_text()) | {"verdict": "do not tune"}))
    assert not gate.check_champion(runs / "poor", None, silence()).passed
    assert gate.check_champion(runs / "first", None, silence()).passed


def test_parity_is_found_once_and_again_for_other_weights(runs, monkeypatch):
    calls = []
    real = gate.export_run
    monkeypatch.setattr(gate, "export_run", lambda *a, **k: calls.append(1) or real(*a, **k))
    assert gate.check_parity(runs / "first", silence()).passed
    assert gate.check_parity(runs / "first", silence()).passed
    assert len(calls) == 1
    kept = runs / "first" / gate.PARITY
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"weights": "others"}))
    assert gate.check_parity(runs / "first", silence()).passed
    assert len(calls) == 2


def test_a_model_that_does_not_answer_as_trained_stays_outside(runs, monkeypatch):
    def refuse(*args, **named):
        raise Refusal("export: merged does not answer as trained: logits differ by up to 3")

    shutil.copytree(runs / "first", runs / "broken", dirs_exist_ok=True)
    (runs / "broken" / gate.PARITY).unlink(missing_ok=True)
    monkeypatch.setattr(gate, "export_run", refuse)
    found = gate.check_parity(runs / "broken", silence())
    assert not found.passed and "logits differ" in found.says
    assert not (runs / "broken" / gate.PARITY).exists()


def test_lineage_names_base_data_recipe_and_scores(runs):
    lineage = gate.read_lineage(runs / "first")
    assert len(lineage["base"]) == len(lineage["model"]) == len(lineage["recipe"]) == 64
    assert any(name.endswith("classify.jsonl") for name in lineage["data"])
    assert lineage["scores"][lineage["primary_metric"]] >= 0
    with pytest.raises(RunError, match="not a finished run"):
        gate.read_lineage(runs)


def test_commands(runs, tmp_path, capsys):
    where = ["--server", str(tmp_path), "--json"]
    assert run(["release", "promote", str(runs / "first"), "--name", "topics", *where]) == 0
    assert json.loads(capsys.readouterr().out)["stage"] == "production"
    assert run(["release", "promote", str(runs / "worse"), "--name", "topics", *where]) == 1
    assert "worse against topics@1" in capsys.readouterr().err
    assert run(["release", "promote", "topics@2", "--to", "shadow", *where]) == 0
    assert run(["release", "list", "topics", *where]) == 0
    out = capsys.readouterr().out
    document = json.loads(out[out.rindex('{\n  "releases"') :])
    assert [r["stage"] for r in document["releases"]] == ["shadow", "production"]
    assert run(["release", "rollback", "topics", *where]) == 2
    assert run(["release", "promote", "none", *where]) == 2
    assert run(["release", "promote", "topics", "--to", "moon", *where]) == 2
