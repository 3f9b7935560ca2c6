"""The whole `tunewright train` in a forked process, on a small disk or killed, and what it left."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers.models.bert.modeling_bert  # noqa: F401  children shall not import it anew

import tunewright.pipeline  # noqa: F401  nor this
from model_zoo import make_tiny
from tunewright.cli.main import run
from tunewright.journal import silence
from tunewright.store import RunFolder, read_jsonl
from tunewright.train.resume import load_newest, verify

RECIPE = """\
task: classify
base_model: base
data: {train: rows.csv, columns: {input: text, output: label}}
training: {num_epochs: 2, save_steps: 3, eval_steps: 5, num_threads: 1, precision: fp32,
           token_dropout: 0.1, early_stopping_patience: null}
evaluation: {baselines: []}
"""
ROOM_BYTES = 8 * 1024 * 1024
TIMINGS = ("tokens_per_s", "peak_memory_bytes", "seconds")


@dataclass(frozen=True)
class Ended:
    """How a command ended; status is minus the signal's number for a killed one."""

    status: int
    err: str
    seconds: float


def make_place(folder: Path) -> Path:
    """A folder with a tiny base, 240 rows and a recipe; returns the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    make_tiny("bert", folder / "base")
    dice = random.Random(1)
    words = {
        "late": ["where", "late", "arrived", "waiting", "parcel"],
        "money": ["refund", "charge", "bill", "paid", "money"],
        "bug": ["crash", "error", "freeze", "broken", "bug"],
    }
    with open(folder / "rows.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for number in range(240):
            label = dice.choice(sorted(words))
            text = " ".join(dice.choices([*words[label], "my", "the", "is", "please", "it"], k=6))
            rows.writerow([f"{text} {number}", label])
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    return recipe


@dataclass(frozen=True)
class Filler:
    """Fills the disk, all but left_bytes, just before pipeline.`before` runs."""

    before: str
    left_bytes: int

    def lay_in_wait(self, disk: Path) -> None:
        whole = getattr(tunewright.pipeline, self.before)

        def filled(*arguments: Any, **options: Any) -> Any:
            with open(disk / "filler", "wb") as file:
                while (free := _free_bytes(disk)) > self.left_bytes:
                    file.write(bytes(min(free - self.left_bytes, 1 << 16)))
                    file.flush()
            return whole(*arguments, **options)

        setattr(tunewright.pipeline, self.before, filled)


def _free_bytes(disk: Path) -> int:
    stats = os.statvfs(disk)
    return stats.f_bfree * stats.f_frsize


def train(
    recipe: Path,
    run_dir: Path,
    *,
    kill_after_s: float | None = None,
    filler: Filler | None = None,
) -> Ended:
    """Start, or go on with, a run; resumes when the run folder holds one."""
    resume = ["--resume"] if RunFolder(run_dir).recipe.exists() else []
    arguments = ["train", str(recipe), "--run-dir", str(run_dir), "--json", *resume]
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        if filler is not None:
            filler.lay_in_wait(run_dir.parent)
        os._exit(_child(recipe.parent, arguments))
    timer = threading.Timer(kill_after_s or 0.0, os.kill, (child, signal.SIGKILL))
    if kill_after_s is not None:
        timer.start()
    # The id stays the child's own until it is reaped, so a late timer hits nobody else.
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    timer.cancel()
    if kill_after_s is not None:
        timer.join()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, (recipe.parent / "err.txt").read_text(), time.monotonic() - began)


def _child(place: Path, arguments: list[str]) -> int:
    sys.stdout = open(place / "out.txt", "w", buffering=1)  # noqa: SIM115  lives to the end
    sys.stderr = open(place / "err.txt", "w", buffering=1)  # noqa: SIM115
    os.chdir(place)
    torch.set_num_threads(1)
    try:
        return run(arguments)
    except BaseException:
        return 99


def fingerprint(run_dir: Path) -> dict[str, Any]:
    """What must not depend on interruptions: model, predictions, losses, evaluations, scores."""
    folder = RunFolder(run_dir)
    report = json.loads(folder.report_json.read_text())
    files = [*sorted(p for p in folder.model.iterdir() if p.suffix != ".md"), folder.predictions]
    last = load_newest(folder.checkpoints, silence())
    assert last is not None
    return {
        **{path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        "steps": [
            {k: v for k, v in row.items() if k not in TIMINGS} for row in read_jsonl(folder.steps)
        ],
        "evaluations": read_jsonl(folder.evaluations),
        "results": report["results"],
        "verdict": report["verdict"],
        "last step": last.step,
        "pages": [folder.report_html.exists(), folder.report_md.exists(), folder.card.exists()],
    }


def _without_timings(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in TIMINGS}


def damaged_checkpoints(run_dir: Path) -> list[str]:
    """Folders under a valid name that do not verify."""
    return [p.name for p in RunFolder(run_dir).checkpoints.glob("step-*") if verify(p) is not None]


@contextmanager
def small_disk(place: Path, size_bytes: int) -> Iterator[Path]:
    """A tmpfs of so many bytes; needs root."""
    place.mkdir(parents=True, exist_ok=True)
    options = f"size={size_bytes}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def grow(place: Path, size_bytes: int) -> None:
    """Give a small disk more room."""
    options = f"remount,size={size_bytes}"
    subprocess.run(["mount", "-o", options, str(place)], check=True)


def can_mount() -> bool:
    """Whether this process may mount a tmpfs."""
    if os.geteuid() != 0:
        return False
    test = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(test, capture_output=True, check=False).returncode == 0


def used_bytes(run_dir: Path) -> int:
    """Bytes in whole pages, as a tmpfs counts them."""
    sizes = (p.stat().st_size for p in run_dir.rglob("*"))
    return sum(-(-size // 4096) * 4096 for size in sizes)


@dataclass(frozen=True)
class FullDisk:
    """What a run on a disk that filled came to."""

    first: Ended
    stage: str
    damaged: list[str]
    second: Ended
    same: bool
    differences: list[str]


def fill_and_grow(recipe: Path, place: Path, whole: dict[str, Any], how: int | Filler) -> FullDisk:
    """Train on a disk of `how` bytes, or on one that fills in mid-run; then again with room."""
    size_bytes = how if isinstance(how, int) else ROOM_BYTES
    with small_disk(place, size_bytes):
        run_dir = place / "run"
        first = train(recipe, run_dir, filler=how if isinstance(how, Filler) else None)
        damaged = damaged_checkpoints(run_dir)
        stage = _stage(run_dir)
        (place / "filler").unlink(missing_ok=True)
        grow(place, ROOM_BYTES)
        second = train(recipe, run_dir)
        left = fingerprint(run_dir) if second.status == 0 else {}
    different = [key for key in whole if left.get(key) != whole[key]]
    return FullDisk(first, stage, damaged, second, not different, different)


def _stage(run_dir: Path) -> str:
    """How far a run came, from its files."""
    folder = RunFolder(run_dir)
    if not folder.recipe.exists():
        return "not begun"
    if folder.predictions.exists():
        return "reporting"
    if (folder.model / "model.safetensors").exists():
        return "evaluating"
    return "training" if list(folder.checkpoints.glob("step-*")) else "preparing"
