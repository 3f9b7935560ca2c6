"""Traffic is kept without waiting, redacted, sampled, and deleted in time; `watch` reads it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tunewright.monitor.traffic import read_traffic
from tunewright.records import Request
from tunewright.serve.capture import Capture, CaptureSettings, client_name, read_rows


def request(number: int, text: str = "where is my card") -> Request:
    return Request(f"r{number}", 1000.0 + number, text, "card", 0.9, (0.1, 0.9), client="c")


def test_what_is_kept_comes_back_with_its_feedback(tmp_path):
    capture = Capture(tmp_path)
    for number in range(20):
        assert capture.put(request(number))
    assert capture.feedback("r3", label="account", by="person")
    assert capture.feedback("r4", rating=-1.0)
    capture.close()
    assert (capture.kept, capture.dropped, capture.failed) == (22, 0, 0)
    (path,) = tmp_path.glob("traffic-*.jsonl")
    found = {item.id: item for item in read_traffic(path)}
    assert len(found) == 20
    assert (found["r3"].label, found["r3"].label_by) == ("account", "person")
    assert found["r4"].rating == -1.0
    assert found["r5"].probabilities == (0.1, 0.9)
    assert found["r5"].label is None


def test_personal_data_never_reaches_the_disk(tmp_path):
    capture = Capture(tmp_path)
    capture.put(request(1, "write to anna.schmidt@example.com about card 4111 1111 1111 1111"))
    capture.close()
    text = next(tmp_path.glob("*.jsonl")).read_text()
    assert "anna.schmidt" not in text
    assert "4111" not in text
    assert "<EMAIL_1>" in text


def test_a_full_queue_drops_and_counts_and_nobody_waits(tmp_path):
    capture = Capture(tmp_path, CaptureSettings(queue_rows=5))
    begun = time.perf_counter()
    taken = sum(capture.put(request(n, "my mail is a@b.example " * 200)) for n in range(2000))
    assert time.perf_counter() - begun < 2
    capture.close()
    assert capture.dropped == 2000 - taken > 0
    assert capture.kept == taken


def test_a_full_disk_is_waited_for_and_leaves_no_half_line(tmp_path, monkeypatch):
    from tunewright.serve import capture as module

    full = True
    plain = module._append_whole

    def append(path, data):
        if full:  # half of it reaches the disk, then there is no space
            with open(path, "ab", buffering=0) as file:
                before = file.tell()
                file.write(data[: len(data) // 2])
                file.truncate(before)
            raise OSError(28, "No space left on device")
        plain(path, data)

    monkeypatch.setattr(module, "_append_whole", append)
    keeping = Capture(tmp_path, CaptureSettings(queue_rows=30))
    for number in range(20):
        keeping.put(request(number))
    time.sleep(0.6)
    assert keeping.kept == 0
    full = False
    for number in range(20, 25):
        keeping.put(request(number))
    keeping.close()
    assert [row["id"] for row in read_rows(tmp_path)] == [f"r{n}" for n in range(25)]
    assert (keeping.kept, keeping.failed) == (25, 0)


def test_a_disk_that_takes_half_a_line_takes_none(tmp_path):
    import resource
    import signal

    from tunewright.serve.capture import _append_whole

    path = tmp_path / "log"
    _append_whole(path, b'{"a": 1}\n')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12, limits[1]))
    try:
        with pytest.raises(OSError, match="large"):
            _append_whole(path, b'{"b": 2}\n')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_bytes() == b'{"a": 1}\n'


def test_a_sample_is_a_share_and_always_the_same(tmp_path):
    capture = Capture(tmp_path, CaptureSettings(share=0.25))
    first = [capture.put(request(n)) for n in range(1000)]
    assert 200 < sum(first) < 300
    assert [capture.put(request(n)) for n in range(1000)] == first
    capture.close()


def test_old_days_are_deleted(tmp_path):
    (tmp_path / "traffic-2020-01-01.jsonl").write_text("{}\n")
    (tmp_path / "notes.jsonl").write_text("{}\n")
    capture = Capture(tmp_path, CaptureSettings(retention_days=30))
    capture.put(request(1))
    capture.close()
    assert not (tmp_path / "traffic-2020-01-01.jsonl").exists()
    assert (tmp_path / "notes.jsonl").exists()
    assert len(read_rows(tmp_path)) == 1


def test_keeping_a_request_takes_less_than_a_millisecond(tmp_path):
    capture = Capture(tmp_path)
    took = []
    for number in range(2000):
        begun = time.perf_counter()
        capture.put(request(number))
        took.append(time.perf_counter() - begun)
    capture.close()
    assert np.quantile(took, 0.5) < 1e-3


@pytest.mark.parametrize(("key", "name"), [(None, None), ("", None)])
def test_no_key_no_client(key, name):
    assert client_name(key) is name


def test_a_client_is_told_apart_and_not_named():
    assert client_name("sk-secret") != client_name("sk-other")
    assert "secret" not in str(client_name("sk-secret"))
