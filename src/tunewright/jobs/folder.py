"""The folder of one job: what the worker hands to its child process, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunewright.store import RunFolder


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Paths of one job."""

    path: Path

    @property
    def request(self) -> Path:
        """What the child is to do."""
        return self.path / "request.json"

    @property
    def prepared(self) -> Path:
        """What the look at the files came to: resolved hyper-parameters, findings, forecast."""
        return self.path / "prepared.json"

    @property
    def recipe(self) -> Path:
        """The recipe that is trained."""
        return self.path / "recipe.yaml"

    @property
    def run(self) -> RunFolder:
        """The run, as `tunewright train` leaves it."""
        return RunFolder(self.path / "run")

    @property
    def checkpoint_models(self) -> Path:
        """One model folder for each checkpoint that is offered."""
        return self.path / "checkpoint-models"

    @property
    def ended(self) -> Path:
        """How the child ended: exit status and message."""
        return self.path / "ended.json"

    @property
    def alive(self) -> Path:
        """Touched by the worker as long as it holds the lease; the child stops when it goes old."""
        return self.path / "alive"

    @property
    def child(self) -> Path:
        """Process id, start time and host of the child."""
        return self.path / "child.json"

    @property
    def output(self) -> Path:
        """What the child prints."""
        return self.path / "output.txt"
