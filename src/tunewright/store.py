"""The run folder: every file name in it, atomic writes, JSON lines. Nobody else spells these names.

Writes go to a temporary file in the same folder, are fsynced, then renamed over the target, so a
reader sees the old content or the new, never half of one.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunewright.errors import DiskFull, RunError

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None  # type: ignore[assignment]

# Errno values that mean "no room": the disk, the quota, or the size limit of a file.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclasses.dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run. Creating the record touches nothing on disk; `open_run` does."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The recipe as resolved, every derived value with its reason."""
        return self.path / "recipe.yaml"

    @property
    def card(self) -> Path:
        """The data card."""
        return self.path / "card.json"

    @property
    def steps(self) -> Path:
        """One line per optimiser step."""
        return self.path / "steps.jsonl"

    @property
    def evaluations(self) -> Path:
        """One line per look at validation."""
        return self.path / "evaluations.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Full training states, each with a manifest."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The tuned model, as transformers and PEFT load it."""
        return self.path / "model"

    @property
    def predictions(self) -> Path:
        """One line per row and system."""
        return self.path / "predictions.jsonl"

    @property
    def teacher(self) -> Path:
        """What a teacher answered, one line a row, so that nobody is asked twice."""
        return self.path / "teacher.jsonl"

    @property
    def rollouts(self) -> Path:
        """What graders gave to the answers that were tried, one line a step."""
        return self.path / "rollouts.jsonl"

    @property
    def report_json(self) -> Path:
        """The verdict and its evidence, for programs."""
        return self.path / "report.json"

    @property
    def report_html(self) -> Path:
        """The same, as one page."""
        return self.path / "report.html"

    @property
    def report_md(self) -> Path:
        """The same, in short."""
        return self.path / "report.md"

    @property
    def benefit_html(self) -> Path:
        """What the model costs against what it saves, as one page with sliders."""
        return self.path / "benefit.html"

    @property
    def watch(self) -> Path:
        """What traffic is compared with, and what was seen of it."""
        return self.path / "watch"

    @property
    def threshold(self) -> Path:
        """From which confidence on answers are used: what `threshold` found, what `serve` reads."""
        return self.path / "threshold.json"

    @property
    def job(self) -> Path:
        """Of a run that is trained elsewhere: the job there, its files, key and forecast."""
        return self.path / "job.json"

    @property
    def prices(self) -> Path:
        """Prices that a person was asked for when the run began, as a prices file."""
        return self.path / "prices.yaml"

    @property
    def upload(self) -> Path:
        """What was sent to a provider: train.jsonl, validation.jsonl."""
        return self.path / "upload"

    @property
    def answers(self) -> Path:
        """Answers of hosted models as they come, so that none is paid for twice."""
        return self.path / "answers.jsonl"

    @property
    def asked(self) -> Path:
        """The same of questions after the run: other data, rows of a log."""
        return self.path / "asked.jsonl"

    @property
    def state(self) -> Path:
        """Stage reached, start time, tunewright version, process id: for `runs` and `--resume`."""
        return self.path / "state.json"

    @property
    def launches(self) -> Path:
        """Of runs by several processes: signs of life and endings of every rank, by attempt."""
        return self.path / ".launch"

    @property
    def log(self) -> Path:
        """What was said while the run went on."""
        return self.path / "log.txt"


def open_run(path: Path, *, resume: bool) -> RunFolder:
    """Make or re-open a run folder.

    Raises RunError when the folder holds something and `resume` is off, when it is missing and
    `resume` is on, or when it cannot be written.
    """
    folder = RunFolder(path)
    with naming_disk_errors(path):
        path.exists()  # a name that no disk can hold is told here
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: is a file, not a folder; give another --run-dir")
    # Hidden files are what a killed write left behind, never the user's or a run's own.
    taken = path.is_dir() and any(not item.name.startswith(".") for item in path.iterdir())
    if taken and not resume:
        what = "already holds a run" if folder.recipe.exists() else "is not empty"
        hint = "add --resume to continue it, or " if folder.recipe.exists() else ""
        raise RunError(f"{path}: {what}; {hint}give another --run-dir")
    if resume and not (folder.recipe.exists() or folder.state.exists()):
        raise RunError(f"{path}: no run to resume here; leave out --resume to start one")
    with naming_disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".probe-"):
            pass
    return folder


def host_name() -> str:
    """This host's name: as the launcher calls it, else as it calls itself."""
    return os.environ.get("TUNEWRIGHT_HOST") or socket.gethostname()


@contextmanager
def owning_run(folder: RunFolder) -> Iterator[None]:
    """Hold a run folder alone, and clear what a killed owner left half written.

    The lock dies with the process. Raises RunError when another process holds it.
    """
    with naming_disk_errors(folder.path):
        lock = open(folder.path / ".lock", "w")  # noqa: SIM115 - held until the run ends
    with lock:
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{folder.path}: another process works in this run; wait for it, or end it"
            ) from error
        for left in (*folder.path.glob(".*.tmp"), *folder.path.glob(".*.old")):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        yield


@contextmanager
def naming_disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError from a write below `path` into DiskFull or RunError with place and remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFull(
                f"{path}: no space left on the device; free some and run again with --resume"
            ) from error
        reason = error.strerror or str(error)
        raise RunError(f"{path}: cannot write here ({reason}); choose a writable place") from error


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content`, whole or not at all. Raises DiskFull or RunError."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with naming_disk_errors(path):
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut; no-op on Windows."""
    if os.name == "nt":  # Windows cannot open a folder for fsync.
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def to_plain(value: Any) -> Any:
    """Records, paths, tuples and numpy values as what JSON knows; NaN and inf become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "tolist"):
        return to_plain(value.tolist())
    raise TypeError(f"no JSON form for {type(value).__name__}")


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document, indented, atomically."""
    write_atomic(path, json.dumps(to_plain(value), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read one JSON document. Raises RunError naming the file when missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path}: missing; is this a finished run folder?") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: not valid JSON ({error}); run it again") from error


def append_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Append rows as JSON lines in one write. Raises DiskFull or RunError."""
    text = "".join(json.dumps(to_plain(row), ensure_ascii=False) + "\n" for row in rows)
    with naming_disk_errors(path), open(path, "a", encoding="utf-8") as file:
        file.write(text)


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Replace a JSON lines file, atomically."""
    lines = (json.dumps(to_plain(row), ensure_ascii=False) + "\n" for row in rows)
    write_atomic(path, "".join(lines))


def read_jsonl(path: Path) -> list[Any]:
    """Read JSON lines; a torn last line (a kill during the write) is ignored. Missing file: []."""
    if not path.exists():
        return []
    rows = []
    # Only a line feed ends a row; splitlines would also cut at U+2028 and U+0085 inside a text.
    lines = path.read_bytes().decode("utf-8", errors="replace").removesuffix("\n").split("\n")
    if lines == [""]:
        return []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            message = f"{path}:{number}: not valid JSON; was the file changed by hand?"
            raise RunError(message) from error
    return rows
