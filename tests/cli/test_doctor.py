"""`doctor` looks at this machine and survives what it finds."""

import http.server
import threading
from collections import namedtuple

import pytest

from tunewright.cli import doctor


def test_the_whole_examination(tunewright):
    ended = tunewright("doctor", "--json")
    checks = {check["name"]: check for check in ended.document["checks"]}
    assert ended.status == (0 if ended.document["ok"] else 1)
    for name in ("python", "torch", "processor", "memory", "disk here", "embedded:minilm"):
        assert checks[name]["state"] in ("ok", "warn"), checks[name]
    assert "TFLOP/s" in checks["matmul bfloat16"]["found"]
    assert all(check["remedy"] for check in checks.values() if check["state"] != "ok")


def test_a_full_disk_is_a_warning_with_a_remedy(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(100, 100, 0))
    checks = doctor.run_checks([doctor.check_disk])
    assert {check.state for check in checks} == {"warn"}
    assert all("free some" in check.remedy for check in checks)


def test_an_old_package_is_a_problem(monkeypatch, tunewright):
    monkeypatch.setitem(doctor.FLOORS, "torch", (99, 0))
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_packages,))
    ended = tunewright("doctor")
    assert ended.status == 1
    assert "pip install 'torch>=99.0'" in ended.out


def test_a_check_that_breaks_is_a_finding():
    def check_something():
        raise OSError("gone")
        yield

    (found,) = doctor.run_checks([check_something])
    assert (found.name, found.state) == ("something", "problem")
    assert "gone" in found.found


@pytest.mark.parametrize("text", ["2.13.0+cpu", "2.13.0", "2.13.0a0+git1", "2.13"])
def test_versions_are_read(text):
    assert doctor._version_numbers(text) == (2, 13)


class Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass


def test_the_hub_is_asked_only_on_demand(monkeypatch):
    server = http.server.HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    (found,) = doctor.run_checks(doctor.NETWORK_CHECKS)
    assert (found.state, "answers (200)" in found.found) == ("ok", True)
    server.shutdown()
    server.server_close()
    (found,) = doctor.run_checks(doctor.NETWORK_CHECKS)
    assert found.state == "warn"
    assert "does not answer" in found.found
    assert doctor.check_hub not in doctor.CHECKS
