"""What this machine offers: device, precision, threads, memory. Never changes its settings.

Memory and processor counts honour container limits (cgroup v1 and v2): inside a container the
machine's own figures promise what the kernel will not give.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import time
from pathlib import Path

import psutil
import torch

from tunewright.errors import RecipeError

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")
POWERCAP = Path("/sys/class/powercap")
# A cgroup v1 without a limit reports a number near 2**63.
_NO_LIMIT_BYTES = 1 << 60
# CUDA has bf16 matrix units from this compute capability (Ampere) on.
_BF16_CUDA_CAPABILITY = (8, 0)
# Numbers of two settings in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_BF16_CPU_FLAGS = ("amx_bf16", "avx512_bf16")
_OUT_OF_MEMORY_TEXTS = (
    "defaultcpuallocator: can't allocate memory",
    "defaultcpuallocator: not enough memory",
    "not enough memory: you tried to allocate",
    "cuda out of memory",
    "cuda error: out of memory",
    "hip out of memory",
    "mps backend out of memory",
    "cublas_status_alloc_failed",
    "std::bad_alloc",
)


def pick_device(wish: str = "auto") -> torch.device:
    """The device to compute on: `wish` itself, or for "auto" the best of cuda, mps and cpu.

    Raises RecipeError when the wished device does not exist here.
    """
    if wish == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wish)
    except RuntimeError:
        raise RecipeError(
            f"training.device: {wish!r} is not a device; use auto, cpu, cuda, cuda:0 or mps"
        ) from None
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise RecipeError(f"training.device: {wish} is not on this machine; use auto or cpu")
    return device


def choose_precision(wish: str, device: torch.device) -> tuple[torch.dtype, str]:
    """(dtype, reason). "auto" means bf16 where the hardware multiplies it itself, else fp32.

    wish: auto, fp32 or bf16. Raises RecipeError for other words.
    """
    if wish == "fp32":
        return torch.float32, "asked for"
    if wish == "bf16":
        return torch.bfloat16, "asked for"
    if wish != "auto":
        raise RecipeError(f"training.precision: {wish!r} unknown; use auto, fp32 or bf16")
    unit = _bf16_unit(device)
    if unit:
        return torch.bfloat16, f"bf16 in hardware ({unit})"
    return torch.float32, f"no bf16 in hardware on {device.type}"


def choose_threads(wish: int | str = "auto") -> tuple[int, str]:
    """(number of processor threads, reason); "auto" is what this process may use."""
    if isinstance(wish, int):
        return max(1, wish), "asked for"
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked), "OMP_NUM_THREADS"
    usable, quota = usable_processors(), _cgroup_processors()
    if quota is not None and quota < usable:
        return max(1, math.floor(quota)), f"container limit of {quota:g} processors"
    cores = psutil.cpu_count(logical=False) or usable
    if usable == (os.cpu_count() or usable) and cores < usable:
        return cores, f"{cores} cores (of {usable} hardware threads)"
    return usable, f"{usable} processors usable by this process"


def available_memory(device: torch.device) -> int:
    """Bytes that this process could still take on the device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    free_bytes = psutil.virtual_memory().available
    for limit, used in _cgroup_memory():
        free_bytes = min(free_bytes, max(0, limit - used))
    return int(free_bytes)


def total_memory(device: torch.device) -> int:
    """Bytes of memory on the device, or the container's limit where that is lower."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(min([psutil.virtual_memory().total, *(limit for limit, _ in _cgroup_memory())]))


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: by torch on CUDA (since the last reset), else by this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        for line in (PROC / "self" / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return _peak_from_rusage()


def matmul_flops_per_s(device: torch.device, dtype: torch.dtype, size: int = 768) -> float:
    """Measured rate of a plain matrix product; takes a few milliseconds."""
    a = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def resident_memory(device: torch.device) -> int:
    """Bytes held now: by torch on CUDA, else by this process (its resident set)."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def reset_peak_memory(device: torch.device) -> None:
    """Start counting CUDA's peak anew; a process's own peak cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def check_workers(num_workers: int) -> None:
    """Raise RecipeError where batches cannot be prepared in other processes (no fork: Windows)."""
    if num_workers and not hasattr(os, "fork"):
        raise RecipeError(
            f"training.num_workers is {num_workers}; this system has no fork: set it to 0"
        )


def keep_freed_memory() -> None:
    """Tell glibc to keep freed pages instead of handing them back; a no-op elsewhere.

    Training frees and takes the same large blocks at every step; returning them to the kernel and
    clearing them again costs up to a third of the time on processors. Undone with the process.
    """
    if platform.system() != "Linux":
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    except (OSError, AttributeError):  # another C library
        return


def read_energy_j() -> float | None:
    """Joules that the processor packages have drawn so far (RAPL); None where nobody may read it.

    Counts everything that runs on the machine, not this process alone.
    """
    counters = sorted(POWERCAP.glob("*-rapl:[0-9]*"))
    packages = [c for c in counters if c.name.count(":") == 1]
    values = [_read_number(counter / "energy_uj") for counter in packages]
    known = [value for value in values if value is not None]
    return sum(known) / 1e6 if known and len(known) == len(values) else None


def cap_kernel_caches() -> None:
    """Keep oneDNN from holding a kernel for every length it ever saw; before its first product.

    Each length of a batch brings kernels of its own, and 1,024 of them are kept: 140 MB after
    twelve bf16 steps of a model with one million parameters, for lengths that seldom come again.
    A caller's own settings stay.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "32")


def is_out_of_memory(error: BaseException) -> bool:
    """True when the error says that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return any(sign in text for sign in _OUT_OF_MEMORY_TEXTS)


def device_name(device: torch.device) -> str:
    """The hardware's own name, for reports: "NVIDIA H100 80GB HBM3", "AMD EPYC 9654"."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type == "mps":
        return f"Apple {platform.machine()} GPU"
    return _cpu_name()


def _bf16_unit(device: torch.device) -> str | None:
    """What multiplies bf16 on this device, or None."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        enough = capability >= _BF16_CUDA_CAPABILITY
        return f"CUDA compute capability {capability[0]}.{capability[1]}" if enough else None
    if device.type != "cpu":
        return None
    flags = _cpu_flags()
    return next((flag.replace("_", "-") for flag in _BF16_CPU_FLAGS if flag in flags), None)


def has_avx512_bf16() -> bool:
    """True on processors that multiply bf16 in 512-bit registers; kernels.c is for them."""
    return "avx512_bf16" in _cpu_flags()


def _cpu_flags() -> frozenset[str]:
    try:
        for line in (PROC / "cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return _cpu_flags_from_torch()


def _cpu_flags_from_torch() -> frozenset[str]:
    """For systems without /proc/cpuinfo; torch asks the processor itself."""
    asks = {"amx_bf16": "_is_amx_tile_supported", "avx512_bf16": "_is_avx512_bf16_supported"}
    found = set()
    for flag, name in asks.items():
        ask = getattr(torch.cpu, name, None)
        if ask is not None and ask():
            found.add(flag)
    return frozenset(found)


def _cpu_name() -> str:
    try:
        for line in (PROC / "cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown processor"


def usable_processors() -> int:
    """Processors that this process may run on, 1 or more; quotas play no part."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def _cgroup_folders(controller: str) -> list[Path]:
    """This process's cgroup folders from the leaf up; limits of every level apply."""
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    folders = []
    for line in lines:
        _, names, inner = (line.split(":", 2) + ["", ""])[:3]
        if names and controller not in names.split(","):
            continue
        root = CGROUP / controller if names else CGROUP
        leaf = root / inner.lstrip("/")
        folders += [folder for folder in (leaf, *leaf.parents) if folder.is_relative_to(root)]
    return list(dict.fromkeys([*folders, CGROUP, CGROUP / controller]))


def _read_number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.lstrip("-").isdigit() else None


def _cgroup_processors() -> float | None:
    """The tightest processor quota of all levels, in processors, or None."""
    quotas = []
    for folder in _cgroup_folders("cpu"):
        try:
            quota, period = (folder / "cpu.max").read_text().split()[:2]
            if quota != "max":
                quotas.append(int(quota) / int(period))
        except (OSError, ValueError):
            pass
        allowed = _read_number(folder / "cpu.cfs_quota_us")
        slice_us = _read_number(folder / "cpu.cfs_period_us")
        if allowed and slice_us and allowed > 0:
            quotas.append(allowed / slice_us)
    return min(quotas, default=None)


def _cgroup_memory() -> list[tuple[int, int]]:
    """(limit, used) bytes of every level that has a limit; file cache that can go is not used."""
    names = (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    )
    found = []
    for folder in _cgroup_folders("memory"):
        for limit_name, used_name, cache_name in names:
            limit = _read_number(folder / limit_name)
            if limit is None or limit >= _NO_LIMIT_BYTES:
                continue
            used = _read_number(folder / used_name) or 0
            found.append((limit, max(0, used - _stat(folder / "memory.stat", cache_name))))
    return found


def _stat(path: Path, name: str) -> int:
    try:
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    except (OSError, ValueError):
        pass
    return 0


def _peak_from_rusage() -> int:
    """Peak of this process where /proc is missing; macOS counts bytes, others kibibytes."""
    try:
        import resource
    except ImportError:  # Windows
        info = psutil.Process().memory_info()
        return int(getattr(info, "peak_wset", info.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if platform.system() == "Darwin" else peak * 1024)
