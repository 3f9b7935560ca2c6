"""A small life through the real command line: init, train, report, evaluate, compare, chat."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunewright.cli.main import run

QUESTIONS = {
    "delivery": "where is my parcel",
    "card": "the card was refused",
    "account": "please close my account",
}

SHORT = ("--set", "training.max_steps=6", "--set", "evaluation.baselines=[majority]")


def write_tickets(path, numbers):
    lines = [
        f"{question} {'again ' * (number % 4)}number {number},{label}"
        for number in numbers
        for label, question in QUESTIONS.items()
    ]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A folder with data, a recipe and one finished run, made by commands alone."""
    folder = tmp_path_factory.mktemp("house")
    write_tickets(folder / "tickets.csv", range(40))
    write_tickets(folder / "new.csv", range(100, 110))
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert run(["init", "tickets.csv"]) == 0
        assert run(["train", "recipe.yaml", "--run-dir", "runs/first", *SHORT]) == 0
        yield folder
    finally:
        os.chdir(before)


@pytest.fixture
def ask(house, capsys):
    def call(*words, status=0):
        capsys.readouterr()
        assert run(words) == status
        return capsys.readouterr()

    return call


def test_the_run_folder_keeps_its_contract(house):
    folder = house / "runs" / "first"
    for name in (
        "recipe.yaml", "card.json", "evaluations.jsonl", "steps.jsonl", "checkpoints", "model",
        "predictions.jsonl", "report.json", "report.html", "report.md",
    ):  # fmt: skip
        assert (folder / name).exists(), name


def test_runs_lists_it(ask):
    (summary,) = json.loads(ask("runs", "--json").out)["runs"]
    assert summary["state"] == "finished"
    assert summary["task"] == "classify"
    assert summary["verdict"] in ("ship", "more data", "do not tune")
    assert summary["value"] is not None


def test_a_run_is_never_overwritten(ask):
    err = ask("train", "recipe.yaml", "--run-dir", "runs/first", status=2).err
    assert "--resume" in err


def test_a_gate_closes_unless_the_verdict_is_ship(ask):
    verdict = json.loads(ask("report", "runs/first", "--json").out)["verdict"]
    words = ["train", "recipe.yaml", "--run-dir", "runs/first", *SHORT, "--resume", "--json"]
    assert json.loads(ask(*words).out)["verdict"] == verdict
    gated = json.loads(ask(*words, "--gate", status=0 if verdict == "ship" else 1).out)
    assert gated["verdict"] == verdict


def test_report_in_every_format(ask):
    assert "accuracy" in ask("report", "runs/first").out
    assert ask("report", "runs/first", "--format", "md").out.startswith("#")
    assert "<html" in ask("report", "runs/first", "--format", "html").out


def test_evaluate_on_new_rows(ask):
    words = ("evaluate", "runs/first", "--data", "new.csv", "--metrics", "f1_macro,log_loss")
    (result,) = json.loads(ask(*words, "--json").out)["results"]
    assert result["n"] == 30
    assert set(result["metrics"]) == {"f1_macro", "log_loss"}
    assert "F1" in ask(*words).out


def test_evaluate_knows_its_metrics(ask):
    words = ("evaluate", "runs/first", "--data", "new.csv", "--metrics", "f1_macr")
    assert "f1_macro" in ask(*words, status=2).err


def test_compare_two_systems_of_a_run(ask):
    words = ("compare", "runs/first:tuned", "runs/first:majority")
    (comparison,) = json.loads(ask(*words, "--json").out)["comparisons"]
    assert comparison["verdict"] in ("better", "worse", "cannot tell")
    assert comparison["verdict"] in ask(*words).out
    (same,) = json.loads(ask("compare", "runs/first", "runs/first", "--json").out)["comparisons"]
    assert same["verdict"] == "cannot tell"
    assert "it has" in ask("compare", "runs/first", "runs/first:nobody", status=2).err


def test_chat_once_and_line_by_line(ask, monkeypatch):
    document = json.loads(ask("chat", "runs/first", "-m", "my card is refused", "--json").out)
    assert document["answer"]["prediction"] in QUESTIONS
    assert 0 < document["answer"]["confidence"] <= 1
    monkeypatch.setattr("sys.stdin", io.StringIO("where is my parcel\n\n/reset\n/odd\n/exit\nno\n"))
    told = ask("chat", "runs/first")
    assert told.out.count("\n") == 1
    assert "(forgotten)" in told.err
    assert "/odd: unknown" in told.err


def test_sigterm_saves_and_the_named_command_goes_on(house):
    executable = Path(sys.executable).with_name("tunewright")
    words = ["train", "recipe.yaml", "--run-dir", "runs/stopped"]
    words += ["--set", "training.max_steps=20", "--set", "evaluation.baselines=[]"]
    process = subprocess.Popen([executable, *words], stderr=subprocess.PIPE, text=True, cwd=house)
    steps = house / "runs" / "stopped" / "steps.jsonl"
    ends = time.monotonic() + 200
    while not (steps.exists() and steps.read_text().count("\n") >= 2):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < ends
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "--resume" in last
    assert "Traceback" not in err
    again = subprocess.run(
        [executable, *words, "--resume", "--json"], capture_output=True, text=True, cwd=house,
        timeout=200, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["verdict"]
