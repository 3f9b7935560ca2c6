"""`doctor --calibration` reads runs; `plan` moves and widens its intervals by their record."""

import json

import pytest

from tunewright.cli.calibration import TITLES
from tunewright.registry import VERSION


@pytest.fixture
def runs(tmp_path):
    """Four finished runs that took half as much memory again as was forecast."""
    for number, ratio in enumerate((1.45, 1.5, 1.5, 1.55)):
        folder = tmp_path / "runs" / f"r{number}"
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text("task: classify\n")
        (folder / "state.json").write_text('{"stage": "finished"}')
        cost = {
            "peak_memory_bytes": {"forecast": 1e9, "measured": 1e9 * ratio},
            "seconds": {"forecast": 100.0, "measured": 80.0 + number},
            "tokens": {"forecast": 1000.0, "measured": 1000.0},
        }
        environment = {"device": "Some CPU", "tunewright": "0.9.8"}
        details = {"forecast_version": VERSION, "environment": environment}
        report = {"task": "classify", "cost": cost, "details": details}
        (folder / "report.json").write_text(json.dumps(report))
    return tmp_path / "runs"


def test_the_record_is_shown_by_device(tunewright, runs):
    ended = tunewright("doctor", "--calibration", "--runs", runs)
    assert ended.status == 0
    for text in ("Some CPU", "Peak memory", "1.50", "yes", "tunewright 0.9.8"):
        assert text in ended.out
    document = tunewright("doctor", "--calibration", "--runs", runs, "--json").document
    memory = document["devices"]["Some CPU"]["memory"]
    assert memory["runs"] == 4 and memory["factor"] == pytest.approx(1.5, rel=0.01)
    assert memory["low"] < 1.45 and memory["high"] > 1.55
    assert {record["version"] for record in document["records"]["memory"]} == {"0.9.8"}


def test_forecasts_of_another_version_say_nothing(tunewright, runs):
    for folder in runs.iterdir():
        report = json.loads((folder / "report.json").read_text())
        report["details"]["forecast_version"] = VERSION - 1
        (folder / "report.json").write_text(json.dumps(report))
    assert "no finished run" in tunewright("doctor", "--calibration", "--runs", runs).out


def test_a_pilots_forecast_stands_beside_what_its_run_came_to(tunewright, runs):
    """A run that took a pilot's recipe is held against its forecast; the pilot itself is no run."""
    whole = "data: {train: embedded:support-tickets}\ntraining: {learning_rate: 3.0e-4}\n"
    pilot = runs / "pilot-tickets"
    pilot.mkdir()
    (pilot / "recipe.yaml").write_text(whole)
    (pilot / "pilot.json").write_text('{"metric": "accuracy", "forecast": {"value": 0.9}}')
    looks = [{"step": 1, "best": True, "metrics": {"accuracy": 0.81}},
             {"step": 2, "best": False, "metrics": {"accuracy": 0.7}}]  # fmt: skip
    for name, asked in (("r0", whole), ("r1", whole.replace("3.0e-4", "1.0e-4"))):
        (runs / name / "state.json").write_text(json.dumps({"stage": "finished", "asked": asked}))
        (runs / name / "evaluations.jsonl").write_text("\n".join(map(json.dumps, looks)))
    document = tunewright("doctor", "--calibration", "--runs", runs, "--json").document
    (score,) = document["records"]["score"]
    assert score["run"].endswith("r0") and (score["forecast"], score["measured"]) == (0.9, 0.81)
    listed = tunewright("runs", runs, "--json")
    assert listed.status == 0 and "pilot-tickets" not in listed.out


def test_no_runs_is_a_mistake_in_one_line(tunewright):
    ended = tunewright("doctor", "--calibration")
    assert ended.status == 2 and "no runs here" in ended.err


def test_plan_moves_by_the_record(tunewright, runs, tmp_path, monkeypatch):
    monkeypatch.setattr("tunewright.model.device.device_name", lambda device: "Some CPU")
    (tmp_path / "t.yaml").write_text("data: {train: embedded:support-tickets}\n")
    plain = tunewright("plan", "t.yaml", "--runs", tmp_path / "none", "--json").document
    moved = tunewright("plan", "t.yaml", "--runs", runs, "--json").document
    ratio = moved["memory"]["peak_bytes"] / plain["memory"]["peak_bytes"]
    assert ratio == pytest.approx(1.5, rel=0.01)
    assert moved["memory"]["high_bytes"] >= 1.05 * moved["memory"]["peak_bytes"]
    assert set(TITLES) == {"memory", "seconds", "tokens", "energy", "score"}
