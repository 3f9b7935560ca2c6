"""The cache: whole entries only, the least recently used go first, nothing is needed from it."""

import os
import time
from pathlib import Path

import pytest

from tunewright.cache import Entry, cache_folder, digest, digest_files, limit_bytes, prune


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))


def fill(name, size=1000, used_s_ago=0.0):
    entry = Entry("rows", name)
    (entry.begin() / "data").write_bytes(b"x" * size)
    path = entry.finish()
    stamp = time.time() - used_s_ago
    os.utime(path / "entry.json", (stamp, stamp))
    return path


def test_an_entry_is_whole_only_when_finished():
    entry = Entry("rows", "a")
    assert not entry.is_whole()
    (entry.begin() / "half").write_text("1")
    assert not Entry("rows", "a").is_whole()
    assert (Entry("rows", "a").begin() / "half").read_text() == "1"  # an attempt goes on
    entry.finish()
    assert Entry("rows", "a").is_whole() and not entry.partial.exists()
    entry.drop()
    assert not entry.is_whole()


def test_the_least_recently_used_go_first(monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE_GB", "0.0000025")
    old, used = fill("old", used_s_ago=50), fill("used", used_s_ago=100)
    assert Entry("rows", "used").is_whole()  # looking at it is using it
    new = fill("new")
    assert not old.exists() and used.exists() and new.exists()
    monkeypatch.setenv("TUNEWRIGHT_CACHE_GB", "0.0000001")
    assert set(prune(keep=new)) == {used} and new.exists()


def test_attempts_that_nobody_took_up_are_cleared():
    entry = Entry("rows", "left")
    entry.begin()
    assert prune() == []
    stamp = time.time() - 30 * 24 * 3600
    os.utime(entry.partial, (stamp, stamp))
    assert prune() == [entry.partial] and not entry.partial.exists()


def test_two_that_finish_the_same_entry_both_succeed(tmp_path):
    first = fill("same")
    again = Entry("rows", "same")
    again.begin()
    assert again.finish() == first and (first / "data").exists()


def test_digests_and_settings(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    files = [tmp_path / "a", tmp_path / "b"]
    assert digest_files(files) != digest_files(files[::-1])
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1}) != digest({"a": 1, "b": 2})
    monkeypatch.setenv("TUNEWRIGHT_CACHE_GB", "none of your business")
    assert limit_bytes() == 10_000_000_000
    monkeypatch.delenv("TUNEWRIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/tunewright") or os.name == "nt"
