"""Checkpoints: what is written is what is read, and nothing damaged is ever used."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from train.damage_harness import (
    CALLS,
    DISK_ERRORS,
    counting_calls,
    damage_many,
    failing_at,
    is_right,
    kill_at_every_call,
    make_checkpoints,
    number_of_calls,
    save_in_place,
    some_state,
    some_tensors,
)
from tunewright.errors import DiskFull, RunError
from tunewright.journal import silence
from tunewright.store import NO_SPACE
from tunewright.train import resume
from tunewright.train.resume import (
    checkpoint_bytes,
    load_checkpoint,
    load_newest,
    prune,
    save_checkpoint,
    verify,
)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory where there is one: these tests make thousands of fsyncs."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def save(folder: Path, step: int) -> Path:
    return save_checkpoint(folder, step, some_tensors(step), some_state(step))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    every_dtype = {str(d): torch.ones(3, 2).to(d) for d in resume_dtypes()}
    odd = {
        "strided": torch.arange(12.0).reshape(3, 4).t(),
        "nan": torch.tensor([float("nan"), -0.0, float("inf"), 1e-45]),
        'quote"é\n': torch.ones(1),
        "scalar": torch.tensor(7, dtype=torch.int64),
    }
    tensors = {**every_dtype, **odd}
    state = {"value": 0.1 + 0.2, "nan": float("nan"), "big": 2**63, "text": "é\n", "none": None}
    path = save_checkpoint(tmp_path, 12, tensors, state)
    assert path == tmp_path / "step-00000012"
    again = load_newest(tmp_path, silence())
    assert again is not None and again.step == 12 and again.path == path
    assert repr(again.state) == repr(dict(sorted(state.items())))  # NaN is not equal to itself
    assert set(again.tensors) == set(tensors)
    for name, tensor in tensors.items():
        read = again.tensors[name]
        assert read.dtype == tensor.dtype and read.shape == tensor.shape
        assert read.contiguous().flatten().view(torch.uint8).tolist() == (
            tensor.contiguous().flatten().view(torch.uint8).tolist()
        )


def resume_dtypes():
    from tunewright.train.tensor_file import DTYPES

    return DTYPES


def test_the_safetensors_library_reads_our_file(tmp_path):
    path = save(tmp_path, 3)
    for name, tensor in load_file(path / "tensors.safetensors").items():
        assert torch.equal(tensor, some_tensors(3)[name])


def test_large_states_are_cut_into_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "PART_BYTES", 150)
    path = save(tmp_path, 3)
    parts = [name for name in names(path) if name.startswith("tensors")]
    assert len(parts) == 2 and parts[0] == "tensors-00001-of-00002.safetensors"
    assert is_right(load_newest(tmp_path, silence()), 3)
    (path / parts[1]).unlink()
    assert parts[1] in str(verify(path))


def test_an_unknown_dtype_is_refused_and_leaves_nothing(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(TypeError, match="complex64"):
        save_checkpoint(tmp_path, 2, {"x": torch.zeros(2, dtype=torch.complex64)}, {})
    assert names(tmp_path) == ["step-00000001"]


def test_no_checkpoint_is_no_error(tmp_path):
    assert load_newest(tmp_path, silence()) is None
    assert load_newest(tmp_path / "never made", silence()) is None


def test_the_highest_step_is_the_newest_whatever_the_order_and_width(tmp_path):
    make_checkpoints(tmp_path, (99_999_999, 100_000_000, 7))
    assert is_right(load_newest(tmp_path, silence()), 100_000_000)


def test_a_thousand_damages_are_all_found_and_the_one_before_is_taken(tmp_path):
    every, missed = damage_many(tmp_path, 1000, seed=11)
    assert not missed
    assert sum(every.values()) == 1000
    assert len(every) == 12  # every kind of damage took part


def test_every_single_bit_of_the_manifest_counts(tmp_path):
    make_checkpoints(tmp_path)
    manifest = tmp_path / "step-00000002" / "MANIFEST.json"
    whole = manifest.read_bytes()
    for position in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[position] ^= 1 << bit
            with pytest.raises(resume._DamagedError):
                resume._parse_manifest(bytes(data))


def test_none_intact_is_an_error_with_a_remedy(tmp_path):
    make_checkpoints(tmp_path)
    for path in tmp_path.iterdir():
        (path / "state.json").write_text("{}")
    with pytest.raises(RunError, match=r"no intact checkpoint .*state\.json.*another --run-dir"):
        load_newest(tmp_path, silence())


def test_a_single_damaged_checkpoint_names_file_and_reason(tmp_path):
    path = save(tmp_path, 1)
    os.truncate(path / "tensors.safetensors", 10)
    with pytest.raises(RunError, match=r"step-00000001.*tensors\.safetensors: 10 bytes, should be"):
        load_checkpoint(path)


def test_hostile_manifests_end_in_our_error(tmp_path):
    """A manifest with a right checksum and nonsense inside is damage, not a traceback."""
    nonsense = [
        {"format": 1, "step": "two", "files": []},
        {"format": 1, "step": 1, "files": [{"name": "x", "bytes": -5, "sha256": ""}]},
        {"format": 1, "step": 1, "files": [{"name": "../x", "bytes": 1, "sha256": ""}]},
        {"format": 1, "step": 1, "files": 3},
        {"format": 2, "step": 1, "files": []},
        {"format": 1, "step": 1, "files": []},
        {"format": 1},
    ]
    path = tmp_path / "step-00000001"
    path.mkdir()
    for manifest in nonsense:
        manifest["sha256"] = resume._manifest_digest(manifest)
        (path / "MANIFEST.json").write_bytes(resume._manifest_bytes(manifest))
        with pytest.raises(RunError):
            load_checkpoint(path)
    for raw in (b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"a":1}'):
        (path / "MANIFEST.json").write_bytes(raw)
        assert verify(path) is not None


def test_a_link_is_no_checkpoint_file(tmp_path):
    path = save(tmp_path, 1)
    (path / "state.json").rename(tmp_path / "elsewhere.json")
    (path / "state.json").symlink_to(tmp_path / "elsewhere.json")
    assert "state.json" in str(verify(path))


def test_leftovers_go_with_the_next_load_and_the_next_save(tmp_path):
    for act in (lambda: load_newest(tmp_path, silence()), lambda: save(tmp_path, 2)):
        save(tmp_path, 1)
        (tmp_path / ".tmp-9-dead").mkdir()
        (tmp_path / ".tmp-9-dead" / "tensors.safetensors").write_bytes(b"half")
        act()
        assert not list(tmp_path.glob(".tmp-*"))


def test_saving_the_same_step_again_keeps_what_is_intact(tmp_path):
    path = save(tmp_path, 1)
    before = path.stat().st_ino
    save_checkpoint(tmp_path, 1, some_tensors(1), {"other": "seconds"})
    assert path.stat().st_ino == before
    assert is_right(load_newest(tmp_path, silence()), 1)


def test_saving_the_same_step_again_replaces_what_is_damaged_or_different(tmp_path):
    path = save(tmp_path, 1)
    os.truncate(path / "tensors.safetensors", 50)
    save(tmp_path, 1)
    assert is_right(load_newest(tmp_path, silence()), 1)
    save_checkpoint(tmp_path, 1, some_tensors(5), {})  # another run in the same folder
    newest = load_newest(tmp_path, silence())
    assert newest is not None
    assert torch.equal(newest.tensors["master.weight"], some_tensors(5)["master.weight"])
    assert names(tmp_path) == ["step-00000001"]


def test_prune_keeps_the_newest_and_the_named(tmp_path):
    make_checkpoints(tmp_path, (1, 2, 3, 4, 5))
    prune(tmp_path, {2})
    assert names(tmp_path) == ["step-00000002", "step-00000004", "step-00000005"]
    prune(tmp_path, set(), newest=0)
    assert names(tmp_path) == ["step-00000004", "step-00000005"]


def test_prune_never_counts_a_damaged_one_as_kept(tmp_path):
    make_checkpoints(tmp_path, (1, 2, 3, 4))
    (tmp_path / "step-00000004" / "state.json").write_text("{}")
    os.truncate(tmp_path / "step-00000003" / "MANIFEST.json", 0)
    prune(tmp_path, set())
    assert {"step-00000001", "step-00000002"} <= set(names(tmp_path))
    make_checkpoints(tmp_path, (5, 6))
    prune(tmp_path, set())
    assert names(tmp_path) == ["step-00000005", "step-00000006"]


def test_prune_does_not_read_again_what_this_process_wrote(tmp_path, monkeypatch):
    make_checkpoints(tmp_path, (1, 2, 3))
    read = []
    monkeypatch.setattr(resume, "verify", lambda path: read.append(path.name))
    prune(tmp_path, set())
    assert read == []
    os.utime(tmp_path / "step-00000003" / "state.json", ns=(1, 1))
    prune(tmp_path, set())
    assert read == ["step-00000003"]


def test_checkpoint_bytes_covers_what_lands_on_disk(tmp_path):
    for count in (1, 50):
        tensors = {f"layer.{i}.weight": torch.zeros(i, 3) for i in range(count)}
        path = save_checkpoint(tmp_path, count, tensors, some_state(1))
        used = sum(file.stat().st_size for file in path.iterdir())
        assert used <= checkpoint_bytes(tensors) <= used + 100_000


def test_files_then_folder_then_name_then_parent_reach_the_disk_in_this_order(tmp_path):
    """fsync(file) < fsync(folder) < rename < fsync(parent), from the calls themselves."""
    save(tmp_path, 1)
    trace: list[tuple[str, str]] = []

    def record(count: int, name: str, arguments: tuple[object, ...]) -> None:
        if name == "fsync" or name == "write":
            trace.append((name, os.readlink(f"/proc/self/fd/{arguments[0]}")))
        elif name in ("rename", "replace"):
            trace.append((name, str(arguments[1])))

    with counting_calls(record):
        path = save(tmp_path, 2)
    renamed = trace.index(("rename", str(path)))
    synced = [Path(where) for what, where in trace[:renamed] if what == "fsync"]
    assert [p.name for p in synced[:-1]] == ["tensors.safetensors", "state.json", "MANIFEST.json"]
    assert synced[-1] == synced[0].parent and synced[-1].name.startswith(".tmp-2-")
    for file in synced[:-1]:  # nothing is written to a file after its fsync
        at = trace.index(("fsync", str(file)))
        assert ("write", str(file)) in trace[:at] and ("write", str(file)) not in trace[at:]
    assert trace[renamed + 1 :] == [("fsync", str(tmp_path))]


@pytest.mark.parametrize("for_good", [False, True], ids=["one call", "from there on"])
@pytest.mark.parametrize("number", DISK_ERRORS, ids=errno.errorcode.get)
def test_a_disk_that_fails_at_any_call_costs_the_new_checkpoint_only(tmp_path, number, for_good):
    folder = tmp_path / "checkpoints"

    def act() -> None:
        save(folder, 3)
        prune(folder, set())

    make_checkpoints(folder)
    calls = number_of_calls(act)
    assert calls >= 15
    for k in range(1, calls + 1):
        shutil.rmtree(folder)
        make_checkpoints(folder)
        with (
            pytest.raises(DiskFull if number in NO_SPACE else RunError, match=str(folder)),
            counting_calls(failing_at(k, number, for_good=for_good)),
        ):
            act()
        left = names(folder)
        assert all(name.startswith("step-") or "deleted" in name for name in left), left
        assert all(verify(p) is None for p in folder.glob("step-*"))
        newest = load_newest(folder, journal := silence())
        assert newest is not None and newest.step in (2, 3) and is_right(newest, newest.step)
        assert not journal.warnings
        act()  # room again
        assert names(folder) == ["step-00000002", "step-00000003"]


def test_a_first_checkpoint_that_fails_leaves_nothing(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    calls = number_of_calls(lambda: save(folder, 1))
    for k in range(1, calls):  # the last call is the parent's fsync: by then the name stands
        shutil.rmtree(folder.parent, ignore_errors=True)
        with (
            pytest.raises(DiskFull),
            counting_calls(failing_at(k, errno.ENOSPC, for_good=True)),
        ):
            save(folder, 1)
        assert not folder.is_dir() or names(folder) == []
        assert load_newest(folder, silence()) is None


@pytest.mark.parametrize("damaged", ["intact", "damaged"])
def test_replacing_a_checkpoint_survives_a_failure_at_any_call(tmp_path, damaged):
    """Step 3 is there already: intact but of another run, or damaged."""

    def fresh() -> None:
        shutil.rmtree(tmp_path, ignore_errors=True)
        make_checkpoints(tmp_path)
        save_checkpoint(tmp_path, 3, some_tensors(9), some_state(9))
        if damaged == "damaged":
            os.truncate(tmp_path / "step-00000003" / "tensors.safetensors", 60)

    fresh()
    calls = number_of_calls(lambda: save(tmp_path, 3))
    for k in range(1, calls + 1):
        fresh()
        with pytest.raises(RunError), counting_calls(failing_at(k, errno.EIO, for_good=False)):
            save(tmp_path, 3)
        newest = load_newest(tmp_path, silence())
        assert newest is not None
        if newest.step == 3:
            whole = {9: some_tensors(9), 3: some_tensors(3)}
            assert any(
                torch.equal(newest.tensors["master.weight"], t["master.weight"])
                for t in whole.values()
            )
        else:
            assert damaged == "damaged" and is_right(newest, 2)
        save(tmp_path, 3)
        assert is_right(load_newest(tmp_path, silence()), 3)


def test_a_kill_at_any_call_leaves_only_whole_checkpoints(tmp_path):
    calls, wrong = kill_at_every_call(tmp_path / "new", save_checkpoint)
    assert calls >= 12 and wrong == []
    calls, wrong = kill_at_every_call(tmp_path / "again", save_checkpoint, again=True)
    assert calls >= 14 and wrong == []


def test_the_same_harness_catches_a_save_in_place(tmp_path):
    calls, wrong = kill_at_every_call(tmp_path / "new", save_in_place)
    assert len(wrong) >= calls / 2


def test_a_kill_while_pruning_leaves_only_whole_checkpoints(tmp_path):
    def prune_after_saving(folder: Path, step: int, tensors, state) -> Path:
        path = save_checkpoint(folder, step, tensors, state)
        prune(folder, set())
        return path

    calls, wrong = kill_at_every_call(tmp_path, prune_after_saving)
    assert calls >= 15 and wrong == []


def test_the_watched_calls_are_those_that_a_save_makes(tmp_path):
    """If a save used calls that the harness does not watch, the tests above would prove nothing."""
    used = set()
    with counting_calls(lambda count, name, arguments: used.add(name)):
        save(tmp_path, 1)
    assert used == set(CALLS) - {"replace"}


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_really_full_disk_keeps_the_last_good_checkpoint(small_disk):
    folder = small_disk / "checkpoints"
    state = some_state(1)
    tensors = {"w": torch.arange(8000.0)}
    with pytest.raises(DiskFull, match=r"no space left.*--resume"):
        for step in range(1, 20):
            save_checkpoint(folder, step, tensors, state)
    last = len(names(folder))
    assert last >= 3 and not list(folder.glob(".tmp-*"))
    newest = load_newest(folder, silence())
    assert newest is not None and newest.step == last
    assert torch.equal(newest.tensors["w"], tensors["w"])
    shutil.rmtree(folder / "step-00000001")
    assert save_checkpoint(folder, last + 1, tensors, state).is_dir()
