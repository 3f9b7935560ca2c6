"""Where progress goes: console, log file, and trackers. Rooms receive a Journal and never print.

A tracker that fails is reported once and dropped: losing it must not stop training.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tunewright.errors import RecipeError


class Tracker(Protocol):
    """Something that keeps numbers by step: TensorBoard, MLflow, W&B."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Keep these numbers for this step."""


class Journal:
    """Says what happens. This base class keeps a log file and feeds trackers; silent on screen.

    advance callbacks returned by `progress` take (done, note): how far, and a short live text.
    """

    def __init__(self, log_file: Path | None = None) -> None:
        self.log_file = log_file
        self.trackers: list[Tracker] = []
        self.warnings: list[str] = []

    def recall(self) -> None:
        """Take up the warnings of an earlier attempt at the same run from its log file."""
        if self.log_file is None or not self.log_file.exists():
            return
        for line in self.log_file.read_text(encoding="utf-8", errors="replace").split("\n"):
            _, mark, text = line.partition(" warning: ")
            if mark and text not in self.warnings:
                self.warnings.append(text)

    def say(self, text: str) -> None:
        """A plain sentence about what is going on."""
        self._write(text)

    def warn(self, text: str) -> None:
        """A sentence that the user should not miss; kept for the report."""
        self.warnings.append(text)
        self._write(f"warning: {text}")

    @contextmanager
    def progress(self, what: str, total: float) -> Iterator[Callable[[float, str], None]]:
        """Show a bar with the time left while the block runs; yields advance(done, note)."""
        started = time.monotonic()
        yield _no_progress
        self._write(f"{what}: {time.monotonic() - started:.1f} s")

    def track(self, numbers: Mapping[str, float], step: int) -> None:
        """Hand numbers to every tracker; one that raises is dropped with a warning."""
        for tracker in list(self.trackers):
            try:
                tracker.log(numbers, step)
            except Exception as error:  # a tracker may raise anything; training goes on
                self.trackers.remove(tracker)
                self.warn(f"{type(tracker).__name__} stopped working and is left out: {error}")

    def _write(self, text: str) -> None:
        if self.log_file is None:
            return
        try:
            with open(self.log_file, "a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}\n")
        except OSError:  # a full disk is reported by the writes that matter
            self.log_file = None


class ConsoleJournal(Journal):
    """A Journal that also speaks on stderr through rich: coloured, plain where nobody looks."""

    def __init__(self, log_file: Path | None = None) -> None:
        super().__init__(log_file)
        from rich.console import Console

        class Steady(Console):
            """A console that falls silent when its reader goes away; the run goes on."""

            def on_broken_pipe(self) -> None:
                self.quiet = True

        self.console = Steady(stderr=True, soft_wrap=True)

    def say(self, text: str) -> None:
        """A plain sentence, on stderr too."""
        super().say(text)
        self.console.print(text, markup=False, highlight=False)

    def warn(self, text: str) -> None:
        """A warning, on stderr too."""
        super().warn(text)
        self.console.print(f"[yellow]![/] {_escape(text)}", highlight=False)

    @contextmanager
    def progress(self, what: str, total: float) -> Iterator[Callable[[float, str], None]]:
        """A bar with the time left, or a line now and then where nobody watches."""
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        started = time.monotonic()
        if not self.console.is_terminal:
            self.console.print(f"{what} …", markup=False, highlight=False)
            yield _plain_progress(self.console, what, total)
            seconds = time.monotonic() - started
            self.console.print(f"{what}: {seconds:.1f} s", markup=False, highlight=False)
        else:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            with Progress(*columns, console=self.console) as bar:
                task = bar.add_task(what, total=total, note="")

                def advance(done: float, note: str = "") -> None:
                    bar.update(task, completed=done, note=note)

                yield advance
        self._write(f"{what}: {time.monotonic() - started:.1f} s")


class ProgressJournal(ConsoleJournal):
    """A ConsoleJournal that shows progress alone: what is said stands in the answer anyway."""

    def say(self, text: str) -> None:
        """Keep a sentence off the screen."""
        Journal.say(self, text)

    def warn(self, text: str) -> None:
        """Keep a warning for the answer, off the screen."""
        Journal.warn(self, text)


def _no_progress(done: float, note: str = "") -> None:
    """Nobody watches."""


def _plain_progress(console: Any, what: str, total: float) -> Callable[[float, str], None]:
    """Progress for logs: one line at most every ten seconds, with the time left."""
    started = last = time.monotonic()

    def advance(done: float, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < 10 or done <= 0:
            return
        last = now
        left_s = (now - started) * (total - done) / done
        line = f"{what}: {100 * done / max(total, 1e-9):.0f}%, {left_s:.0f} s left {note}"
        console.print(line.rstrip(), markup=False, highlight=False)

    return advance


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


def open_tracker(name: str, folder: Path, config: Mapping[str, Any]) -> Tracker:
    """Open a tracker by name: tensorboard, mlflow wandb. Raises RecipeError where not installed."""
    try:
        return TRACKERS[name](folder, config)
    except ImportError as error:
        raise RecipeError(
            f"training.trackers: {name} is not installed; pip install 'tunewright[trackers]'"
        ) from error


class TensorBoardTracker:
    """Writes event files to `folder`/tensorboard."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))  # type: ignore[no-untyped-call]

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Keep these numbers for this step."""
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)  # type: ignore[no-untyped-call]


class MLflowTracker:
    """Logs to the MLflow server or folder that MLFLOW_TRACKING_URI names."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import mlflow

        self.mlflow = mlflow
        mlflow.start_run(run_name=folder.name)
        mlflow.log_params({key: str(value)[:500] for key, value in config.items()})

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Keep these numbers for this step."""
        self.mlflow.log_metrics(dict(numbers), step=step)


class WandbTracker:
    """Logs to Weights & Biases; WANDB_MODE=offline works too."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import wandb

        self.run = wandb.init(name=folder.name, dir=str(folder), config=dict(config))

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Keep these numbers for this step."""
        self.run.log(dict(numbers), step=step)


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "mlflow": MLflowTracker,
    "wandb": WandbTracker,
}


def silence() -> Journal:
    """A journal for tests and library use: no screen, no file."""
    return Journal()


def is_interactive() -> bool:
    """True when a person can be asked: both stdin and stderr are terminals."""
    return sys.stdin.isatty() and sys.stderr.isatty()
