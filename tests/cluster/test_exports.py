"""Files for other launchers: as agreed on (golden), and as their own schemas want them."""

import subprocess
from pathlib import Path

import pytest
import yaml

from tunewright.cluster.exports import EXPORTS, Request, write_file
from tunewright.errors import UserError

GOLDEN = Path(__file__).parent / "golden"
ASKED = Request(
    ["my recipe.yaml", "--run-dir", "/runs/first", "--set=training.seed=3"],
    "/runs/first",
    hosts=2,
    nproc=8,
    gpus=8,
    image="ghcr.io/example/tunewright:1",
)
NAMES = {"slurm": "job.sh", "kubeflow": "trainjob.yaml", "skypilot": "sky.yaml"}


@pytest.mark.parametrize("launcher", EXPORTS)
def test_files_are_as_agreed_on(launcher, monkeypatch):
    """After a change on purpose: write the new text into tests/cluster/golden."""
    monkeypatch.setattr("sys.executable", "/opt/python")
    assert write_file(launcher, ASKED) == (GOLDEN / NAMES[launcher]).read_text()


@pytest.mark.parametrize("name", ["job.sh"])
def test_shell_can_be_read(name):
    assert subprocess.run(["bash", "-n", GOLDEN / name], check=False).returncode == 0


@pytest.mark.parametrize("name", ["trainjob.yaml", "sky.yaml"])
def test_shell_inside_yaml_can_be_read(name):
    document = yaml.safe_load((GOLDEN / name).read_text())
    text = document["run"] if "run" in document else document["spec"]["trainer"]["command"][2]
    assert "'my recipe.yaml'" in text
    assert subprocess.run(["bash", "-n", "-c", text], check=False).returncode == 0


def test_a_trainjob_is_one_for_kubeflows_own_models():
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="no kubeflow-trainer-api")
    document = yaml.safe_load((GOLDEN / "trainjob.yaml").read_text())
    job = models.TrainerV1alpha1TrainJob.from_dict(document)
    assert job is not None
    assert job.spec.trainer.num_nodes == 2


def test_names_are_ones_that_kubernetes_takes():
    for run_dir in ("/runs/My Run_2026.11/", "x" * 200, "///", "Ünïcode"):
        name = Request([], run_dir).name
        assert len(name) <= 52
        assert name == name.lower()
        assert all(c.isascii() and (c.isalnum() or c == "-") for c in name)
        assert not name.endswith("-")


def test_an_unknown_launcher_is_told_from_the_known():
    with pytest.raises(UserError, match="slurm, kubeflow, skypilot"):
        write_file("pbs", ASKED)
