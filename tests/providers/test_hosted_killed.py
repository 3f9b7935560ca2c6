"""A hosted run killed by SIGKILL and run again: no second job, no second upload, the same result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.providers.conftest import write_rows

MOMENTS = {
    "the job was just made": ("POST", "/fine_tuning/jobs", 0),
    "it is being followed": ("GET", "/fine_tuning/jobs/", 2),
    "answers are coming in": ("POST", "/chat/completions", 9),
}


def start(folder):
    command = [
        sys.executable, "-c", "from tunewright.cli.main import main; main()", "train",
        str(folder / "recipe.yaml"), "--run-dir", str(folder / "run"), "--yes", "--json",
    ]  # fmt: skip
    if (folder / "run").exists():
        command.append("--resume")
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, env=dict(os.environ)
    )


def finish(folder):
    process = start(folder)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err.decode()
    return json.loads(out)


def figures(report):
    return [(r["system"], r["metrics"]) for r in report["results"]], report["comparisons"]


def prepare(folder):
    folder.mkdir()
    data = write_rows(folder)
    (folder / "recipe.yaml").write_text(
        f"provider: openai\nbase_model: gpt-4.1-nano\n"
        f"data: {{train: {data}, validation: 0.15, test: 0.25}}\n"
        "hosted: {poll_s: 0.05, patience_s: 5, num_parallel: 1}\n"
        "evaluation: {baselines: [base, majority]}\n"
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_run_again(account, openai_url, tmp_path):
    prepare(tmp_path / "whole")
    whole = figures(finish(tmp_path / "whole"))
    for number, (moment, (method, path, skipped)) in enumerate(MOMENTS.items()):
        folder = tmp_path / str(number)
        prepare(folder)
        jobs, files = len(account.jobs), len(account.files)
        asked = account.num_asked
        process = start(folder)
        if skipped:
            account.faults.order(method, path, hook=lambda: None, times=skipped)
        account.faults.order(method, path, hook=process.kill)
        process.wait(timeout=200)
        assert process.returncode == -9, (moment, process.stderr.read().decode())
        account.faults.ordered.clear()
        again = finish(folder)
        assert figures(again) == whole, moment
        assert len(account.jobs) == jobs + 1 and len(account.files) == files + 2, moment
        most = 2 * 22 + 1  # the answer on its way when the process died is asked for again
        assert account.num_asked - asked <= most, moment


@pytest.mark.slow
def test_ctrl_c_is_resumable_and_cancel_cancels(account, openai_url, tmp_path):
    import signal

    prepare(tmp_path / "run1")
    folder = tmp_path / "run1"
    account.walk = (*account.walk[:3], *["running"] * 500)
    process = start(folder)
    account.faults.order("GET", "/fine_tuning/jobs/", hook=lambda: None, times=3)
    account.faults.order(
        "GET", "/fine_tuning/jobs/", hook=lambda: process.send_signal(signal.SIGINT)
    )
    out, err = process.communicate(timeout=200)
    assert process.returncode == 3 and b"--resume" in err, err.decode()
    job = next(iter(account.jobs.values()))
    assert job["status"] == "running"
    ended = subprocess.run(
        [sys.executable, "-c", "from tunewright.cli.main import main; main()", "train",
         str(folder / "recipe.yaml"), "--run-dir", str(folder / "run"), "--cancel", "--json"],
        capture_output=True, cwd=folder, check=False, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr.decode()
    assert json.loads(ended.stdout)["phase"] == "cancelled" == job["status"]


@pytest.mark.slow
def test_without_a_terminal_nothing_is_spent_unasked(account, openai_url, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.invalid/v1")  # not this machine: it costs
    prepare(tmp_path / "one")
    recipe = Path(tmp_path / "one" / "recipe.yaml")
    prices = tmp_path / "prices.yaml"
    prices.write_text(
        "train_tokens: {gpt-4.1-nano: 1.5}\ninput_tokens: {gpt-4.1-nano: 0.1}\n"
        "output_tokens: {gpt-4.1-nano: 0.4}\n"
    )
    recipe.write_text(recipe.read_text() + f"business: {{prices: {prices}}}\n")
    ended = subprocess.run(
        [sys.executable, "-c", "from tunewright.cli.main import main; main()", "train",
         str(recipe), "--run-dir", str(tmp_path / "run")],
        capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 2 and b"add --yes, or set budget.usd" in ended.stderr, ended.stderr
    assert not account.files
