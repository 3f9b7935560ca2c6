"""The command line in this process: what it prints and how it ends."""

import json
from dataclasses import dataclass

import pytest

from tunewright.cli.main import run


@dataclass
class Ended:
    status: int
    out: str
    err: str

    @property
    def document(self):
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def faults_stay_here(tmp_path_factory, monkeypatch):
    """Traceback files of provoked faults go where pytest cleans up."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("faults")))


@pytest.fixture
def tunewright(capsys, monkeypatch, tmp_path):
    """Run a command line from an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        capsys.readouterr()
        status = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ended(status, captured.out, captured.err)

    return call
