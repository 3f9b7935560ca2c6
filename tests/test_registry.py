"""The list of runs is what the folders say."""

import json
import os
import subprocess
import sys

import pytest

from tunewright.errors import RunError
from tunewright.records import Amount, Comparison, Cost, Report, Result, Score
from tunewright.registry import list_runs, summarise_run
from tunewright.report.files import make_report_json
from tunewright.store import RunFolder, write_json

REPORT = Report(
    task="classify",
    base_model="embedded:minilm",
    primary_metric="macro_f1",
    results=(
        Result("base", "test", 100, {"macro_f1": Score("macro_f1", 0.5, (0.4, 0.6), 100)}),
        Result("tuned", "test", 100, {"macro_f1": Score("macro_f1", 0.9, (0.8, 0.95), 100)}),
    ),
    comparisons=(
        Comparison(
            "tuned", "base", "macro_f1", 0.4, (0.3, 0.5), 0.0001, "bootstrap", 100, 0.1, "better"
        ),
    ),
    cost=Cost(seconds=Amount(60.0, 61.5)),
    verdict="ship",
    because=("It is better than the base.",),
)


def make_run(path, *, report=None, state=None):
    path.mkdir(parents=True)
    folder = RunFolder(path)
    folder.recipe.write_text("task: classify\nbase_model: embedded:minilm\n")
    if state is not None:
        write_json(folder.state, state)
    if report is not None:
        write_json(folder.report_json, make_report_json(report))
    return path


def test_a_finished_run_in_a_line(tmp_path):
    run = summarise_run(make_run(tmp_path / "a", report=REPORT, state={"stage": "done"}))
    assert (run.state, run.task, run.base_model) == ("finished", "classify", "embedded:minilm")
    assert (run.verdict, run.metric, run.value) == ("ship", "macro_f1", 0.9)
    assert run.ci95 == (0.8, 0.95)
    assert run.seconds == 61.5


def test_a_run_is_running_while_its_process_lives(tmp_path):
    mine = make_run(tmp_path / "mine", state={"stage": "train", "pid": os.getpid()})
    assert summarise_run(mine).state == "running"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead = make_run(tmp_path / "dead", state={"stage": "train", "pid": gone.pid})
    run = summarise_run(dead)
    assert (run.state, run.stage, run.task) == ("interrupted", "train", "classify")
    far = make_run(tmp_path / "far", state={"pid": os.getpid(), "host": "another.example"})
    assert summarise_run(far).state == "interrupted"


def test_the_newest_comes_first_and_other_folders_are_left_out(tmp_path):
    for number, name in enumerate(["old", "young"]):
        path = make_run(tmp_path / name, report=REPORT)
        for file in (*path.iterdir(), path):
            os.utime(file, (1_000_000 + number, 1_000_000 + number))
    (tmp_path / "notes").mkdir()
    (tmp_path / "file.txt").write_text("")
    assert [run.path.name for run in list_runs(tmp_path)] == ["young", "old"]
    assert [run.path.name for run in list_runs(tmp_path / "old")] == ["old"]


@pytest.mark.parametrize("damage", ["{", "[]", "\udcff", '{"results": 3, "cost": []}'])
def test_a_damaged_report_does_not_hide_the_others(tmp_path, damage):
    bad = make_run(tmp_path / "bad")
    RunFolder(bad).report_json.write_bytes(damage.encode("utf-8", "surrogateescape"))
    make_run(tmp_path / "good", report=REPORT)
    states = {run.path.name: run.state for run in list_runs(tmp_path)}
    assert states["good"] == "finished"
    assert states["bad"] in ("unreadable", "finished")
    if damage != '{"results": 3, "cost": []}':
        assert states["bad"] == "unreadable"


def test_a_missing_root_is_said(tmp_path):
    with pytest.raises(RunError, match="cannot be listed"):
        list_runs(tmp_path / "nowhere")


def test_runs_command(tunewright_in, tmp_path):
    make_run(tmp_path / "runs" / "first", report=REPORT, state={"stage": "done"})
    make_run(tmp_path / "runs" / "second", state={"stage": "train"})
    ended = tunewright_in("runs", "--json")
    runs = {run["path"]: run for run in json.loads(ended)["runs"]}
    assert runs["runs/first"]["verdict"] == "ship"
    assert runs["runs/second"]["state"] == "interrupted"
    text = tunewright_in("runs")
    assert "ship" in text
    assert "interrupted (train)" in text


@pytest.fixture
def tunewright_in(tmp_path, capsys, monkeypatch):
    from tunewright.cli.main import run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*words):
        assert run(words) == 0
        return capsys.readouterr().out

    return call
