"""Checkpoints: written whole or not at all, checked to the last bit before use.

The guarantee. A folder named `step-NNNNNNNN` appears by one rename, after every file in it, and the
folder itself, reached the disk; so after a kill at any moment, or a power cut on a file system that
keeps fsync's promise, what bears such a name is complete. Later damage (a flipped bit, a cut, lost,
foreign or swapped file, an edited manifest) is found by the SHA-256 manifest before a single number
is used, and the checkpoint before it is taken. A disk that fills costs the new checkpoint only.

The scope. One run per folder at a time; `load_newest` is for that run alone, because it clears
leftovers. The manifest finds accidents; it is no signature against someone who rewrites it on
purpose. No file here can run code: tensors are safetensors, the rest is JSON.

    step-00000120/   tensors.safetensors (or numbered parts), state.json, MANIFEST.json;
                     rank-00000-of-00002.safetensors and so on from ranks that share the weights
    .tmp-.../        being written or deleted; removed by the next save or load
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunewright.errors import RunError
from tunewright.journal import Journal
from tunewright.store import naming_disk_errors, sync_folder
from tunewright.train.tensor_file import tensor_chunks, tensors_in

FORMAT = 1
MANIFEST, STATE = "MANIFEST.json", "state.json"
SHARD = "rank-"
"""Begins the names of files that hold one rank's rows of every tensor."""
PART_BYTES = 2_000_000_000
"""Most bytes of tensors in one file; a single larger tensor gets a file of its own."""
CHUNK_BYTES = 1 << 24

_STEP_FOLDER = re.compile(r"step-(\d{8,})")
_VERIFIED: dict[Path, tuple[Any, ...]] = {}
"""What this process wrote or verified, by the stat of its files, so that `prune` need not read it
again."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint. state is JSON; tensors lie on the CPU in the dtype they had."""

    path: Path
    step: int
    state: dict[str, Any]
    tensors: dict[str, Tensor]


class _DamagedError(Exception):
    """Why a directory is not a checkpoint; never leaves this file."""


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    world_size: int = 1,
) -> Path:
    """Write one checkpoint below `folder` and return its path, once it is safe on disk.

    Whatever goes wrong, checkpoints that were there before stay as they were. An intact one of the
    same step with the same tensors is kept; any other of that name is replaced. state must be JSON;
    NaN and infinities in it survive. world_size: of the run, noted in the manifest. Raises
    DiskFull, or RunError where writing is not possible.
    """
    with making_aside(folder, step) as temporary:
        _write_contents(temporary, step, tensors, state, world_size)
        return publish(temporary, folder, step)


@contextmanager
def making_aside(folder: Path, step: int) -> Iterator[Path]:
    """A new directory below `folder` for a checkpoint's files; gone again where an error comes."""
    temporary = folder / f".tmp-{step}-{uuid.uuid4().hex}"
    with naming_disk_errors(folder):
        if not folder.is_dir():
            os.makedirs(folder, exist_ok=True)
            sync_folder(folder.parent)
        _remove_leftovers(folder)
        try:
            os.mkdir(temporary)
            yield temporary
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def publish(temporary: Path, folder: Path, step: int) -> Path:
    """Give a complete directory, manifest and all, the name of its step; returns its path."""
    final = folder / f"step-{step:08d}"
    manifest = json.loads((temporary / MANIFEST).read_bytes())
    sync_folder(temporary)
    _publish(temporary, final, manifest)
    _VERIFIED[final] = _signature(final)
    return final


Ranges = Mapping[str, tuple[int, int]]
"""By parameter, the rows (start, stop) of it that a rank holds."""


def load_newest(folder: Path, journal: Journal, ranges: Ranges | None = None) -> Checkpoint | None:
    """The newest checkpoint that verifies completely; None when there is none at all.

    ranges: the part of each parameter's tensors that is wanted; without it, all.

    Each damaged one is named in a warning with its reason, and the one before it is tried. Raises
    RunError when there are checkpoints and none of them is intact.
    """
    _remove_leftovers(folder)
    paths = _newest_first(folder)
    reasons = []
    for path in paths:
        try:
            return _read(path, ranges)
        except _DamagedError as damage:
            reasons.append(f"{path.name}: {damage}")
            journal.warn(f"{path}: damaged ({damage}); trying the checkpoint before it")
    if paths:
        raise RunError(
            f"{folder}: no intact checkpoint ({'; '.join(reasons[:3])}); "
            "restore one from a backup, or start a new run in another --run-dir"
        )
    return None


def load_checkpoint(path: Path, ranges: Ranges | None = None) -> Checkpoint:
    """One checkpoint, verified. Raises RunError with the file and the reason when it is damaged."""
    try:
        return _read(path, ranges)
    except _DamagedError as damage:
        raise RunError(
            f"{path}: damaged checkpoint ({damage}); restore it from a backup, "
            "or start a new run in another --run-dir"
        ) from None


def verify(path: Path) -> str | None:
    """None when a checkpoint is intact, else the reason why it is not. Reads every byte."""
    try:
        manifest = _read_manifest(path)
        for entry in manifest["files"]:
            _check_file(path / entry["name"], entry, keep=False)
    except _DamagedError as damage:
        return str(damage)
    return None


def prune(folder: Path, keep_steps: Collection[int], newest: int = 2) -> None:
    """Delete all checkpoints but the `newest` intact ones (at least two) and those of keep_steps.

    A damaged one does not count as kept. What goes is renamed first, so a kill while deleting
    leaves no half checkpoint. Raises DiskFull or RunError where the folder cannot be changed.
    """
    kept = 0
    doomed = []
    for path in _newest_first(folder):
        if kept < max(2, newest):
            kept += _is_intact(path)
        elif _step_of(path) not in keep_steps:
            doomed.append(path)
    with naming_disk_errors(folder):
        _delete(folder, doomed)


def checkpoint_bytes(tensors: Mapping[str, Tensor]) -> int:
    """About how many bytes a checkpoint of these tensors takes on disk, a little generously."""
    return sum(t.nbytes + 2 * len(name) + 512 for name, t in tensors.items()) + 65_536


def _write_contents(
    temporary: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    world_size: int = 1,
) -> None:
    write_manifest(temporary, step, write_tensors(temporary, tensors), state, world_size)


def write_tensors(
    folder: Path, tensors: Mapping[str, Tensor], stem: str = "tensors"
) -> list[dict[str, Any]]:
    """Write tensors to STEM.safetensors, or to numbered parts; the manifest's entries of them."""
    files = []
    parts = _parts(tensors)
    for number, names in enumerate(parts, 1):
        middle = f"-{number:05d}-of-{len(parts):05d}" if len(parts) > 1 else ""
        path = folder / f"{stem}{middle}.safetensors"
        files.append(_write_file(path, tensor_chunks({n: tensors[n] for n in names})))
    return files


def write_manifest(
    temporary: Path,
    step: int,
    files: Sequence[Mapping[str, Any]],
    state: Mapping[str, Any],
    world_size: int,
) -> None:
    """Write the state beside the tensors, and the manifest over all of it."""
    text = json.dumps(dict(state), sort_keys=True, indent=1)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "step": step,
        "files": [*files, _write_file(temporary / STATE, [text.encode()])],
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "world_size": world_size,
    }
    manifest["sha256"] = _manifest_digest(manifest)
    _write_file(temporary / MANIFEST, [_manifest_bytes(manifest)])


def _parts(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """Names by file. Wide types first within all, so that every tensor starts aligned."""
    parts: list[list[str]] = [[]]
    filled = 0
    for name in sorted(tensors, key=lambda n: (-tensors[n].element_size(), n)):
        if parts[-1] and filled + tensors[name].nbytes > PART_BYTES:
            parts.append([])
            filled = 0
        parts[-1].append(name)
        filled += tensors[name].nbytes
    return parts


def _write_file(path: Path, chunks: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write, hash and fsync one new file; its manifest entry."""
    digest = hashlib.sha256()
    size = 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                written = os.write(handle, view[:CHUNK_BYTES])
                digest.update(view[:written])
                size += written
                view = view[written:]
        os.fsync(handle)
    finally:
        os.close(handle)
    return {"name": path.name, "bytes": size, "sha256": digest.hexdigest()}


def _publish(temporary: Path, final: Path, manifest: Mapping[str, Any]) -> None:
    """Give a complete directory its name and make the name durable."""
    folder = final.parent
    if not os.path.lexists(final):
        os.rename(temporary, final)
        sync_folder(folder)
        return
    if _holds_same_tensors(final, manifest):
        shutil.rmtree(temporary)
        return
    aside = folder / f".tmp-replaced-{uuid.uuid4().hex}"
    os.rename(final, aside)
    try:
        os.rename(temporary, final)
    except BaseException:
        os.rename(aside, final)
        raise
    sync_folder(folder)
    _remove(aside)


def _holds_same_tensors(path: Path, manifest: Mapping[str, Any]) -> bool:
    if verify(path) is not None:
        return False
    there = _read_manifest(path)["files"]
    return _without_state(there) == _without_state(manifest["files"])


def _without_state(files: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [entry for entry in files if entry["name"] != STATE]


def _read(path: Path, ranges: Ranges | None = None) -> Checkpoint:
    """Read and verify in one pass: the bytes that were hashed are the bytes that are used."""
    manifest = _read_manifest(path)
    found = _Pieces(ranges or {})
    state: Any = None
    for entry in manifest["files"]:
        data = _check_file(path / entry["name"], entry, keep=True)
        try:
            if entry["name"] == STATE:
                state = json.loads(data)
            else:
                found.add(tensors_in(data), entry["name"])
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise _DamagedError(f"{entry['name']}: not what its name says ({error})") from None
    if not isinstance(state, dict):
        raise _DamagedError(f"{STATE}: missing")
    return Checkpoint(path, manifest["step"], state, found.joined())


class _Pieces:
    """Tensors from the files of a checkpoint: whole ones, and rows of them that ranks wrote."""

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges
        self.pieces: dict[str, list[Tensor]] = {}
        self.rows: dict[str, int] = {}

    def add(self, tensors: Mapping[str, Tensor], file: str) -> None:
        """Take what is wanted of one file's tensors. Files of ranks come in the ranks' order."""
        is_shard = file.startswith(SHARD)
        for name, tensor in tensors.items():
            if tensor.ndim == 0:
                self.pieces.setdefault(name, [tensor])
                continue
            before = self.rows.get(name, 0) if is_shard else 0
            self.rows[name] = before + tensor.shape[0]
            wish = self.ranges.get(name.partition(".")[2])
            if wish is not None:
                start, stop = (min(max(0, end - before), tensor.shape[0]) for end in wish)
                tensor = tensor[start:stop].clone()  # a view would keep the whole file in memory
            self.pieces.setdefault(name, []).append(tensor)

    def joined(self) -> dict[str, Tensor]:
        """By name, the pieces as one."""
        return {n: p[0] if len(p) == 1 else torch.cat(p) for n, p in self.pieces.items()}


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, once it, the step and the list of files agree with the directory."""
    try:
        raw = (path / MANIFEST).read_bytes()
        with os.scandir(path) as entries:
            plain = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
    except FileNotFoundError:
        raise _DamagedError(f"{MANIFEST}: missing") from None
    except OSError as error:
        raise _DamagedError(f"cannot be read: {error.strerror}") from None
    manifest = _parse_manifest(raw)
    named = _STEP_FOLDER.fullmatch(path.name)
    if named is None or int(named[1]) != manifest["step"]:
        raise _DamagedError(f"{MANIFEST}: is of step {manifest['step']}")
    listed = {entry["name"] for entry in manifest["files"]} | {MANIFEST}
    if missing := sorted(listed - plain.keys()):
        raise _DamagedError(f"{missing[0]}: missing")
    if foreign := sorted(name for name in plain if name not in listed or not plain[name]):
        raise _DamagedError(f"{foreign[0]}: does not belong here")
    return manifest


def _parse_manifest(raw: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(raw)
        # Byte for byte, so that no edit at all goes unseen, not even one of white space.
        if raw != _manifest_bytes(manifest) or manifest["sha256"] != _manifest_digest(manifest):
            raise _DamagedError(f"{MANIFEST}: changed since it was written")
        if manifest["format"] != FORMAT:
            raise _DamagedError(f"{MANIFEST}: format {manifest['format']} is not known here")
        typed = {
            "format": FORMAT,
            "step": int(manifest["step"]),
            "files": [
                {"name": str(f["name"]), "bytes": int(f["bytes"]), "sha256": str(f["sha256"])}
                for f in manifest["files"]
            ],
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _DamagedError(f"{MANIFEST}: not readable") from None
    return {**manifest, **typed}


def _manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(_manifest_bytes(rest)).hexdigest()


def _check_file(path: Path, entry: Mapping[str, Any], *, keep: bool) -> bytearray:
    """Read a file; returns its bytes (or, without `keep`, nothing of use).

    Raises _DamagedError unless size and SHA-256 agree with the manifest's entry.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry["bytes"]:
                raise _DamagedError(f"{path.name}: {size} bytes, should be {entry['bytes']}")
            data = bytearray(size if keep else min(size, CHUNK_BYTES))
            view, at = memoryview(data), 0
            while count := file.readinto(view[at : at + CHUNK_BYTES]):
                digest.update(view[at : at + count])
                at += count if keep else 0
    except OSError as error:
        raise _DamagedError(f"{path.name}: cannot be read: {error.strerror}") from None
    if digest.hexdigest() != entry["sha256"]:
        raise _DamagedError(f"{path.name}: SHA-256 differs from the manifest's")
    return data


def _newest_first(folder: Path) -> list[Path]:
    try:
        named = [path for path in folder.iterdir() if _STEP_FOLDER.fullmatch(path.name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    return sorted(named, key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _is_intact(path: Path) -> bool:
    """Like `verify`, but believes what this process checked before and nobody touched since."""
    signature = _signature(path)
    if _VERIFIED.get(path) == signature:
        return True
    if verify(path) is not None:
        return False
    _VERIFIED[path] = signature
    return True


def _signature(path: Path) -> tuple[Any, ...]:
    try:
        with os.scandir(path) as entries:
            stats = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    except OSError:
        return ()
    return tuple(sorted((n, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for n, s in stats))


def _delete(folder: Path, paths: Iterable[Path]) -> None:
    aside = []
    for path in paths:
        aside.append(folder / f".tmp-deleted-{uuid.uuid4().hex}")
        os.rename(path, aside[-1])
        _VERIFIED.pop(path, None)
    if aside:
        sync_folder(folder)  # before the files go, or a power cut could bring the name back without
    for path in aside:
        _remove(path)


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed save or prune left behind; what resists waits for the next time."""
    if folder.is_dir():
        for path in folder.glob(".tmp-*"):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
