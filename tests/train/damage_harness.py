"""Ways to hurt a checkpoint, and a disk that fails at call k. Used by the tests and by bench/."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from tunewright.errors import RunError
from tunewright.journal import silence
from tunewright.train import resume

Save = Callable[[Path, int, dict[str, Tensor], dict[str, object]], Path]


def some_tensors(step: int) -> dict[str, Tensor]:
    """A small training state that differs from step to step, in several dtypes."""
    stream = torch.Generator().manual_seed(step)
    return {
        "master.weight": torch.randn(6, 5, generator=stream),
        "exp_avg.weight": torch.randn(6, 5, generator=stream),
        "half": torch.randn(7, generator=stream).to(torch.bfloat16),
        "step.weight": torch.tensor(float(step)),
        "flags": torch.tensor([True, False, True]),
        "nothing": torch.zeros(0, 3),
    }


def some_state(step: int) -> dict[str, object]:
    return {"progress": {"step": step, "best_value": 0.1 * step}, "scope": {"data": "x" * 40}}


def make_checkpoints(folder: Path, steps: tuple[int, ...] = (1, 2)) -> None:
    for step in steps:
        resume.save_checkpoint(folder, step, some_tensors(step), some_state(step))


def is_right(checkpoint: resume.Checkpoint | None, step: int) -> bool:
    """Whether a loaded checkpoint is that of `step`, to the last bit."""
    wanted = some_tensors(step)
    return (
        checkpoint is not None
        and checkpoint.step == step
        and checkpoint.state == some_state(step)
        and sorted(checkpoint.tensors) == sorted(wanted)
        and all(
            t.dtype == wanted[name].dtype and torch.equal(t, wanted[name])
            for name, t in checkpoint.tensors.items()
        )
    )


def flip_bit(path: Path, other: Path, dice: random.Random) -> None:
    target = dice.choice(sorted(path.iterdir()))
    data = bytearray(target.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    target.write_bytes(data)


def truncate(path: Path, other: Path, dice: random.Random) -> None:
    target = dice.choice(sorted(path.iterdir()))
    os.truncate(target, dice.randrange(1, target.stat().st_size))


def empty_a_file(path: Path, other: Path, dice: random.Random) -> None:
    os.truncate(dice.choice(sorted(path.iterdir())), 0)


def lose_a_file(path: Path, other: Path, dice: random.Random) -> None:
    dice.choice(sorted(path.iterdir())).unlink()


def swap_a_file(path: Path, other: Path, dice: random.Random) -> None:
    """A file of the older checkpoint lies in the newer one; the older one stays as it is."""
    target = dice.choice(sorted(path.iterdir()))
    shutil.copyfile(other / target.name, target)


def swap_all_files(path: Path, other: Path, dice: random.Random) -> None:
    """The whole older checkpoint lies under the newer one's name."""
    shutil.rmtree(path)
    shutil.copytree(other, path)


def add_a_file(path: Path, other: Path, dice: random.Random) -> None:
    name = dice.choice(["notes.txt", ".hidden", "tensors-00002-of-00002.safetensors", "extra"])
    if name == "extra":
        (path / name).mkdir()
    else:
        (path / name).write_bytes(dice.randbytes(dice.randrange(30)))


def append_bytes(path: Path, other: Path, dice: random.Random) -> None:
    target = dice.choice(sorted(path.iterdir()))
    with open(target, "ab") as file:
        file.write(dice.randbytes(dice.randrange(1, 9)))


def overwrite_a_stretch(path: Path, other: Path, dice: random.Random) -> None:
    """A block of zeros inside a file, as a lost disk page leaves it."""
    target = dice.choice(sorted(path.iterdir()))
    data = bytearray(target.read_bytes())
    start = dice.randrange(len(data))
    stretch = min(len(data) - start, dice.randrange(1, 64))
    if not any(data[start : start + stretch]):
        data[start] = 1
    else:
        data[start : start + stretch] = bytes(stretch)
    target.write_bytes(data)


def edit_manifest(path: Path, other: Path, dice: random.Random) -> None:
    """A hand edit of the manifest that keeps it valid JSON."""
    target = path / "MANIFEST.json"
    manifest = json.loads(target.read_text())
    edit = dice.randrange(6)
    if edit == 0:
        manifest["step"] += 1
    elif edit == 1:
        manifest["files"].pop(dice.randrange(2))
    elif edit == 2:
        manifest["files"][dice.randrange(2)]["bytes"] += 1
    elif edit == 3:
        manifest["files"][dice.randrange(2)]["sha256"] = "0" * 64
    elif edit == 4:
        manifest["threads"] += 1
    else:
        manifest["note"] = "harmless"
    target.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def edit_and_forget_a_file(path: Path, other: Path, dice: random.Random) -> None:
    """A file is gone and the manifest was edited to agree, its own checksum left as it was."""
    target = path / "MANIFEST.json"
    manifest = json.loads(target.read_text())
    gone = manifest["files"].pop(dice.randrange(2))
    (path / gone["name"]).unlink()
    target.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def rename_a_file(path: Path, other: Path, dice: random.Random) -> None:
    target = dice.choice(sorted(path.iterdir()))
    target.rename(target.with_name(target.name + ".old"))


DAMAGES: tuple[Callable[[Path, Path, random.Random], None], ...] = (
    flip_bit,
    flip_bit,
    flip_bit,
    truncate,
    empty_a_file,
    lose_a_file,
    swap_a_file,
    swap_all_files,
    add_a_file,
    append_bytes,
    overwrite_a_stretch,
    edit_manifest,
    edit_and_forget_a_file,
    rename_a_file,
)


def damage_many(folder: Path, count: int, seed: int) -> tuple[Counter[str], Counter[str]]:
    """Damage the newer of two checkpoints `count` times, each time from fresh.

    Returns (all, missed) by kind; missed: taken as intact, not warned of with its path, or not
    answered with exactly the older checkpoint.
    """
    dice = random.Random(seed)
    make_checkpoints(folder)
    older, newest = folder / "step-00000001", folder / "step-00000002"
    whole = {path.name: path.read_bytes() for path in newest.iterdir()}
    every, missed = Counter[str](), Counter[str]()
    for _ in range(count):
        damage = dice.choice(DAMAGES)
        damage(newest, older, dice)
        every[damage.__name__] += 1
        if not _is_answered(folder, newest):
            missed[damage.__name__] += 1
        shutil.rmtree(newest)
        newest.mkdir()
        for name, data in whole.items():
            (newest / name).write_bytes(data)
    return every, missed


def _is_answered(folder: Path, damaged: Path) -> bool:
    journal = silence()
    checkpoint = resume.load_newest(folder, journal)
    if not is_right(checkpoint, 1) or resume.verify(damaged) is None:
        return False
    try:
        resume.load_checkpoint(damaged)
    except RunError as error:
        named = str(damaged) in str(error)
    else:
        return False
    return named and len(journal.warnings) == 1 and str(damaged) in journal.warnings[0]


CALLS = ("open", "write", "fsync", "mkdir", "rename", "replace")


@contextmanager
def counting_calls(at_call: Callable[[int, str, tuple[object, ...]], None]) -> Iterator[None]:
    """Call at_call(k, name, arguments) before the k-th os call of CALLS while the block runs.

    An open counts when it makes a file; opening to read or to delete does not.
    """
    originals = {name: getattr(os, name) for name in CALLS}
    count = 0

    def wrap(name: str) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal count
            if name != "open" or arguments[1] & os.O_CREAT:  # type: ignore[operator]
                count += 1
                at_call(count, name, arguments)
            return originals[name](*arguments, **options)

        return call

    for name in CALLS:
        setattr(os, name, wrap(name))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(os, name, function)


def failing_at(k: int, number: int, *, for_good: bool) -> Callable[..., None]:
    """An at_call that raises OSError at the k-th call, or from there on."""

    def at_call(count: int, name: str, arguments: tuple[object, ...]) -> None:
        if count == k or (for_good and count > k):
            # A write that half succeeded comes before most real ENOSPC.
            if name == "write" and count == k and len(memoryview(arguments[1])) > 1:  # type: ignore[arg-type]
                handle, data = arguments
                os.pwrite(handle, bytes(data)[:1], os.lseek(handle, 0, os.SEEK_CUR))  # type: ignore[arg-type, call-overload]
            raise OSError(number, os.strerror(number))

    return at_call


def number_of_calls(work: Callable[[], object]) -> int:
    """How many os calls of CALLS `work` makes."""
    seen: list[str] = []
    with counting_calls(lambda count, name, arguments: seen.append(name)):
        work()
    return len(seen)


def kill_at_every_call(folder: Path, save: Save, *, again: bool = False) -> tuple[int, list[int]]:
    """SIGKILL a process at each os call inside a save of step 3 after steps 1 and 2.

    again: step 3 is there already, and damaged. Returns the number of calls, and the calls after
    which what a reader sees is wrong: a folder under a valid name that does not verify (unless it
    was there before), or a newest checkpoint other than an exact step 2 or 3.
    """

    def fresh() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        make_checkpoints(folder, (1, 2, 3) if again else (1, 2))
        if again:
            os.truncate(folder / "step-00000003" / "tensors.safetensors", 100)

    fresh()
    calls = number_of_calls(lambda: save(folder, 3, some_tensors(3), some_state(3)))
    wrong = []
    for k in range(1, calls + 1):
        fresh()
        _save_in_child(folder, save, k)
        damaged = [p.name for p in folder.glob("step-*") if resume.verify(p) is not None]
        known = ["step-00000003"] if again else []
        newest = resume.load_newest(folder, silence())
        right = newest is not None and newest.step in (2, 3) and is_right(newest, newest.step)
        clean = not list(folder.glob(".tmp-*"))
        if not right or not clean or damaged not in ([], known):
            wrong.append(k)
    return calls, wrong


def _save_in_child(folder: Path, save: Save, k: int) -> None:
    child = os.fork()
    if child == 0:

        def at_call(count: int, name: str, arguments: tuple[object, ...]) -> None:
            if count == k:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            with counting_calls(at_call):
                save(folder, 3, some_tensors(3), some_state(3))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"call {k} was never reached"


def save_in_place(
    folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, object]
) -> Path:
    """The mutant: the same files written straight into their final folder, without a rename."""
    path = folder / f"step-{step:08d}"
    os.makedirs(path, exist_ok=True)
    for old in path.iterdir():
        old.unlink()
    resume._write_contents(path, step, tensors, state)
    return path


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)

if sys.platform == "win32":  # pragma: no cover
    raise ImportError("the harness needs fork and SIGKILL")
