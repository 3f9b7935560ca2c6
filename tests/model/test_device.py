"""Device, precision, threads, memory: honest about containers."""

import os

import psutil
import pytest
import torch

from tunewright.errors import RecipeError
from tunewright.model import device as d

CPU = torch.device("cpu")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A /proc and a /sys/fs/cgroup of our own: machine("proc/cpuinfo", text) writes a file."""
    monkeypatch.setattr(d, "PROC", tmp_path / "proc")
    monkeypatch.setattr(d, "CGROUP", tmp_path / "cgroup")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("fpu avx512f avx512_bf16", torch.bfloat16),
        ("fpu amx_bf16 amx_tile", torch.bfloat16),
        ("fpu avx2 avx512f", torch.float32),
    ],
)
def test_bf16_where_the_processor_has_it(machine, flags, dtype):
    machine("proc/cpuinfo", f"processor : 0\nmodel name : Test CPU\nflags\t\t: {flags}\n")
    found, reason = d.choose_precision("auto", CPU)
    assert found is dtype
    assert ("in hardware" in reason) and (("no bf16" in reason) == (dtype is torch.float32))
    assert d.choose_precision("fp32", CPU) == (torch.float32, "asked for")
    assert d.choose_precision("bf16", CPU)[0] is torch.bfloat16
    assert d.device_name(CPU) == "Test CPU"


def test_unknown_words_are_refused():
    with pytest.raises(RecipeError, match=r"training.precision: 'fp8' unknown"):
        d.choose_precision("fp8", CPU)
    with pytest.raises(RecipeError, match=r"training.device: 'gpu' is not a device"):
        d.pick_device("gpu")
    with pytest.raises(RecipeError, match="not on this machine"):
        d.pick_device("cuda:99")
    assert d.pick_device("cpu") == CPU
    assert d.pick_device().type in ("cpu", "cuda", "mps")


def test_threads_keep_a_cgroup_v2_quota_of_any_level(machine):
    machine("proc/self/cgroup", "0::/user/job\n")
    machine("cgroup/user/job/cpu.max", "max 100000\n")
    machine("cgroup/user/cpu.max", "100000 100000\n")
    assert d._cgroup_processors() == 1.0
    threads, reason = d.choose_threads()
    assert threads == 1
    assert "container limit" in reason or len(os.sched_getaffinity(0)) == 1


def test_threads_keep_a_cgroup_v1_quota(machine):
    machine("proc/self/cgroup", "4:cpu,cpuacct:/box\n3:memory:/box\n")
    machine("cgroup/cpu/box/cpu.cfs_quota_us", "50000\n")
    machine("cgroup/cpu/box/cpu.cfs_period_us", "100000\n")
    assert d._cgroup_processors() == 0.5
    assert d.choose_threads()[0] == 1


def test_threads_asked_for_win(machine, monkeypatch):
    assert d.choose_threads(7) == (7, "asked for")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert d.choose_threads() == (3, "OMP_NUM_THREADS")


def test_memory_keeps_a_cgroup_v2_limit_but_not_its_file_cache(machine):
    machine("proc/self/cgroup", "0::/job\n")
    machine("cgroup/job/memory.max", "1000000\n")
    machine("cgroup/job/memory.current", "700000\n")
    machine("cgroup/job/memory.stat", "anon 100000\ninactive_file 600000\n")
    assert d.available_memory(CPU) == 900_000
    assert d.total_memory(CPU) == 1_000_000


def test_memory_keeps_a_cgroup_v1_limit(machine):
    machine("proc/self/cgroup", "3:memory:/box\n")
    machine("cgroup/memory/box/memory.limit_in_bytes", "2000000\n")
    machine("cgroup/memory/box/memory.usage_in_bytes", "500000\n")
    machine("cgroup/memory/memory.limit_in_bytes", str((1 << 63) - 4096))
    assert d.available_memory(CPU) == 1_500_000


def test_memory_without_limits_is_the_machine_s(machine):
    assert d.total_memory(CPU) == psutil.virtual_memory().total
    assert 0 < d.available_memory(CPU) <= d.total_memory(CPU)


def test_peak_memory_is_at_least_what_is_held_now():
    held = torch.ones(1 << 24)
    resident = psutil.Process().memory_info().rss
    assert held.numel() * 4 < resident <= d.peak_memory(CPU) * 1.01
    assert d._peak_from_rusage() == pytest.approx(d.peak_memory(CPU), rel=0.05)


def test_out_of_memory_is_recognised_by_what_torch_really_raises():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert d.is_out_of_memory(caught.value)
    assert d.is_out_of_memory(MemoryError())
    assert d.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    with pytest.raises(RuntimeError) as other:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not d.is_out_of_memory(other.value)
    assert not d.is_out_of_memory(ValueError("out of memory"))


def test_kernel_caches_are_capped_unless_the_caller_says_otherwise(monkeypatch):
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "500")
    d.cap_kernel_caches()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64"
    assert os.environ["LRU_CACHE_CAPACITY"] == "500"
    os.environ.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY")


def test_energy_is_the_sum_of_the_packages_or_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(d, "POWERCAP", tmp_path)
    assert d.read_energy_j() is None
    for name, value in (("intel-rapl:0", 5_000_000), ("intel-rapl:1", 2_000_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(str(value))
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of package 0, counted there already
    (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("1000000")
    assert d.read_energy_j() == 7.0
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert d.read_energy_j() is None
