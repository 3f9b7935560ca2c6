"""Checks on model files before any library reads them. Plain Python; nothing is executed.

Refused: configs that would run foreign code or name a module to import (CVE-2026-4372 class),
weights in pickle formats, and safetensors files that are truncated or name a tensor twice, which
the reading library accepts.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunewright.errors import ModelError, TunewrightError
from tunewright.store import write_atomic

MAX_HEADER_BYTES = 100_000_000
MAX_CONFIG_BYTES = 10_000_000
# Smaller files are hashed anew each time: that is faster than remembering.
REMEMBERED_BYTES = 4_000_000
CONFIG_FILES = ("config.json", "tokenizer_config.json", "processor_config.json")
PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")
INDEX_FILE = "model.safetensors.index.json"
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8,
    "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip


def read_model_json(path: Path) -> dict[str, Any]:
    """Read one JSON table of a model folder. Raises ModelError when missing, broken or no table."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ModelError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes; is this a config?")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: missing; give a folder in Hugging Face layout") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON ({error}); download the model again") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path}: holds {type(values).__name__}, not a table; download again")
    return values


def check_configs(folder: Path, *, trust_remote_code: bool) -> None:
    """Refuse configs that lead to foreign code, unless the user trusts it. Raises ModelError."""
    for name in CONFIG_FILES:
        path = folder / name
        if not path.exists():
            continue
        values = read_model_json(path)
        found = next(_code_keys(values), None)
        if found and not trust_remote_code:
            raise ModelError(
                f"{path}: key {found} can run code from the model's author; delete the key in a "
                "copy of the folder, or set trust_remote_code: true if you trust the author"
            )


def check_adapter_config(folder: Path) -> dict[str, Any]:
    """The adapter's config, after refusing keys that import modules. Raises ModelError."""
    path = folder / "adapter_config.json"
    values = read_model_json(path)
    if values.get("megatron_config"):
        raise ModelError(f"{path}: key megatron_config imports a module by name; remove the key")
    if not isinstance(values.get("base_model_name_or_path"), str):
        raise ModelError(f"{path}: base_model_name_or_path is missing; name the base model there")
    return values


def find_weights(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a model or adapter folder, checked. Raises ModelError."""
    for name in ("adapter_model.safetensors", "model.safetensors"):
        if (folder / name).exists() and (
            name[0] == "m" or (folder / "adapter_config.json").exists()
        ):
            return (_checked(folder / name),)
    if (folder / INDEX_FILE).exists():
        return _shards(folder)
    pickles = sorted({path.name for pattern in PICKLE_PATTERNS for path in folder.glob(pattern)})
    pickles = [name for name in pickles if not name.startswith("training_args")]
    if pickles:
        raise ModelError(
            f"{folder}: weights only as {pickles[0]}, which can run code when loaded; "
            "convert to safetensors"
        )
    raise ModelError(f"{folder}: no model.safetensors; give a folder with weights")


def read_header(path: Path) -> dict[str, Any]:
    """Tensor name -> {dtype, shape, data_offsets} of a safetensors file, checked against its size.

    Raises ModelError naming the file and the bytes when it is truncated, has a hole, too much, or
    a tensor twice.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise ModelError(
                f"{path}: {size} bytes, but its header alone claims {length}; truncated or no "
                "safetensors file, download it again"
            )
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_no_duplicates)
    except _DuplicateError as error:
        raise ModelError(f"{path}: tensor {error} is named twice; do not trust this file") from None
    except (ValueError, RecursionError):
        raise ModelError(f"{path}: header is not valid JSON; download it again") from None
    if not isinstance(header, dict):
        raise ModelError(f"{path}: header is not a table; download it again")
    header.pop("__metadata__", None)
    _check_extent(path, header, size - 8 - length)
    return header


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, remembered by path, size and time so that big files are read once."""
    stat = path.stat()
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    memory = cache_folder() / "sha256.json"
    known = _read_memory(memory)
    if key in known:
        return known[key]
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if stat.st_size < REMEMBERED_BYTES:
        return digest
    others = {k: v for k, v in known.items() if not k.startswith(f"{path.resolve()}|")}
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(memory, json.dumps({**others, key: digest}, indent=0))
    except (OSError, TunewrightError):
        pass  # an unwritable cache costs time, nothing else
    return digest


def weights_sha256(files: tuple[Path, ...]) -> str:
    """One SHA-256 for a model: of its file, or of the list of its shards' names and hashes."""
    if len(files) == 1:
        return file_sha256(files[0])
    lines = "".join(f"{path.name}:{file_sha256(path)}\n" for path in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def cache_folder() -> Path:
    """Where small remembered facts lie: $TUNEWRIGHT_CACHE, else the platform's cache folder."""
    if asked := os.environ.get("TUNEWRIGHT_CACHE"):
        return Path(asked)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "tunewright"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home()))) / "tunewright"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunewright"


def first_line(error: BaseException) -> str:
    """The first line of a library's message, short enough for ours; the type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].strip()[:200] if lines else type(error).__name__


class _DuplicateError(Exception):
    """A JSON object names a key twice."""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        raise _DuplicateError(next(name for name in names if names.count(name) > 1))
    return table


def _code_keys(values: Any, path: str = "") -> Iterator[str]:
    """Dotted names of keys that lead a loading library to foreign code."""
    if isinstance(values, list):
        for item in values:
            yield from _code_keys(item, path)
    if not isinstance(values, dict):
        return
    for key, value in values.items():
        name = f"{path}{key}"
        # Older exports carry `_attn_implementation_autoset: true`; a yes or no runs nothing.
        harmless = value is None or isinstance(value, bool)
        attention = key.startswith("_attn_implementation") or key.endswith("_internal")
        if (key in ("auto_map", "trust_remote_code") and value) or (attention and not harmless):
            yield name
        yield from _code_keys(value, f"{name}.")


def _checked(path: Path) -> Path:
    try:
        read_header(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    return path


def _shards(folder: Path) -> tuple[Path, ...]:
    names = read_model_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelError(f"{folder / INDEX_FILE}: no weight_map; download the model again")
    files = []
    for name in sorted({str(value) for value in names.values()}):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{folder / INDEX_FILE}: names {name!r}, not a safetensors file here")
        if not (folder / name).exists():
            raise ModelError(f"{folder / name}: missing; download the model again")
        files.append(_checked(folder / name))
    return tuple(files)


def _check_extent(path: Path, header: dict[str, Any], data_bytes: int) -> None:
    """Every tensor has the bytes that its shape needs, and together they fill the file exactly."""
    spans = []
    for name, tensor in header.items():
        try:
            begin, end = (int(value) for value in tensor["data_offsets"])
            bits = _BITS.get(tensor["dtype"])
            wanted = None if bits is None else math.prod(tensor["shape"]) * bits // 8
        except (TypeError, KeyError, ValueError):
            raise ModelError(f"{path}: tensor {name} has a broken entry; download again") from None
        if wanted is not None and end - begin != wanted:
            raise ModelError(
                f"{path}: tensor {name} needs {wanted} bytes, its entry has {end - begin}; "
                "download it again"
            )
        spans.append((begin, end))
    last = max((end for _, end in spans), default=0)
    if last != data_bytes:
        what = "truncated" if data_bytes < last else "too long"
        raise ModelError(
            f"{path}: {what}, {data_bytes} bytes of tensors where the header promises {last}; "
            "download it again"
        )
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise ModelError(f"{path}: hole or overlap at byte {position}; do not trust this file")
        position = end


def _read_memory(path: Path) -> dict[str, str]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
