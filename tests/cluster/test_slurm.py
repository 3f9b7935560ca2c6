"""A run under a real Slurm: submitted, preempted, requeued, and in the end the same bits."""

import hashlib
import os
import subprocess
import sys
import time

import pytest

from cluster import slurm
from train.whole_command import make_place

WHY_NOT = slurm.why_not()
PATIENCE_S = 400


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
def test_preempted_and_requeued_it_ends_in_the_same_bits(tmp_path):
    make_place(tmp_path)
    train = [sys.executable, "-m", "tunewright", "train", "recipe.yaml", "--nproc", "2",
             "--set=training.num_epochs=20", "--set=training.device=cpu", "--run-dir"]  # fmt: skip
    subprocess.run([*train, "whole"], cwd=tmp_path, check=True, capture_output=True)
    script = subprocess.run(
        [*train, "run", "--hosts", "1", "--launcher", "slurm"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    (tmp_path / "job.sh").write_text(script.stdout)
    (tmp_path / "slurm").mkdir()
    os.chmod(tmp_path, 0o755)
    with slurm.one_node(tmp_path / "slurm") as env:

        def ask(*words):
            made = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True)
            assert made.returncode == 0, made.stderr
            return made.stdout

        ask("sbatch", "job.sh")
        _until(lambda: _lines(tmp_path / "run" / "steps.jsonl") > 20)
        ask("sbatch", "--partition=high", "--exclusive", "--wrap", "sleep 3")
        _until(lambda: "Restarts=1" in ask("scontrol", "show", "job", "1"))
        assert not (tmp_path / "run" / "report.json").exists()
        # Slurm lets a requeued job wait for two minutes; nothing is learned from that.
        _until(lambda: "JobState=COMPLETED" in ask("scontrol", "show", "job", "2"))
        ask("scontrol", "update", "JobId=1", "StartTime=now")
        _until(lambda: (tmp_path / "run" / "report.json").exists())
        _until(lambda: "JobState=COMPLETED" in ask("scontrol", "show", "job", "1"))
    assert _digest(tmp_path / "run") == _digest(tmp_path / "whole")


def _until(true):
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < PATIENCE_S, "a hang"
        time.sleep(0.5)


def _lines(path):
    return path.read_text().count("\n") if path.exists() else 0


def _digest(run):
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
