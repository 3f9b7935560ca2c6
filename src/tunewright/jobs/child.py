"""The process of one job: `python -m tunewright.jobs.child prepare|train FOLDER`.

A process group of its own, so that a job can be ended with all that it started. It stops itself
when its worker is gone for longer than the lease: then another worker may have the job already.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from tunewright.errors import DataError, ModelError, RecipeError, TunewrightError
from tunewright.jobs.folder import JobFolder
from tunewright.journal import Journal
from tunewright.store import append_jsonl, read_json, write_json

LOCK_WAIT_S = 60.0
STALE_SHARE = 0.7
"""Of the lease, after which a child that nobody watches stops."""


def main(arguments: list[str]) -> int:
    """Run one phase; the exit status is that of `tunewright train`, details are in ended.json."""
    phase, folder = arguments[0], JobFolder(Path(arguments[1]))
    request = read_json(folder.request)
    _watch(folder, float(request["lease_s"]))
    journal = Journal(folder.path / "log.txt")
    try:
        if phase == "prepare":
            from tunewright.jobs.prepare import prepare_job

            prepare_job(folder, request, journal)
        else:
            _train(folder, journal)
        ended: dict[str, Any] = {"status": 0, "message": None, "param": None}
    except TunewrightError as error:
        ended = {
            "status": error.exit_status,
            "message": str(error),
            "param": _param(error),
            "kind": type(error).__name__,
        }
    except Exception as error:  # told to the worker, which decides what comes of it
        traceback.print_exc()
        ended = {"status": 4, "message": f"{type(error).__name__}: {error}"[:500], "param": None}
    write_json(folder.ended, {**ended, "phase": phase, "fence": request["fence"]})
    return int(ended["status"])


def _param(error: TunewrightError) -> str | None:
    if isinstance(error, DataError):
        return "validation_file" if "validation file" in str(error) else "training_file"
    if isinstance(error, ModelError):
        return "model"
    return "hyperparameters" if isinstance(error, RecipeError) else None


def _train(folder: JobFolder, journal: Journal) -> None:
    from tunewright.config import read_recipe
    from tunewright.jobs.checkpoint_models import make_checkpoint_models
    from tunewright.jobs.prepare import KEPT_EPOCHS
    from tunewright.pipeline import train

    run = folder.run
    _wait_for_lock(run.path / ".lock")
    resume = run.recipe.exists() or run.state.exists()
    train(read_recipe(folder.recipe), run.path, journal, resume=resume)
    steps = _epoch_ends(folder, KEPT_EPOCHS)
    made = make_checkpoint_models(folder, steps, journal)
    write_json(folder.path / "checkpoints.json", [{"step": s, "folder": str(p)} for s, p in made])


def _epoch_ends(folder: JobFolder, most: int) -> list[int]:
    """Steps of the last checkpoints that stand at the end of an epoch, the oldest first."""
    from tunewright.store import read_jsonl

    whole = {
        int(row["step"]) for row in read_jsonl(folder.run.steps) if float(row["epoch"]).is_integer()
    }
    there = {int(path.name[5:]) for path in folder.run.checkpoints.glob("step-*")}
    return sorted(whole & there)[-most:]


def _wait_for_lock(path: Path) -> None:
    """Wait for a child of an earlier worker that is still ending."""
    try:
        import fcntl
    except ImportError:  # Windows: training itself says that the folder is taken
        return
    until = time.monotonic() + LOCK_WAIT_S
    while path.exists() and time.monotonic() < until:
        with open(path, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.1)


def _watch(folder: JobFolder, lease_s: float) -> None:
    """Stop this process, gently and then not, once the worker's sign of life is old."""
    fence = read_json(folder.request)["fence"]

    def look() -> None:
        while True:
            time.sleep(min(1.0, lease_s / 10))
            try:
                sign = json.loads(folder.alive.read_text())
                old = time.time() - sign["at"] > STALE_SHARE * lease_s or sign["fence"] != fence
            except (OSError, ValueError, KeyError):
                old = True
            if old:
                append_jsonl(folder.path / "stopped.jsonl", [{"fence": fence, "at": time.time()}])
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(max(1.0, 0.25 * lease_s))
                os._exit(3)

    threading.Thread(target=look, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
