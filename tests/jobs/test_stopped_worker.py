"""A worker that is stopped past its lease and goes on: what it does then counts for nothing."""

import os
import signal
import subprocess
import sys
import time

import pytest
from tests.jobs.tuning_place import RECIPE, Place, chat_rows, jsonl
from tests.model_zoo import make_tiny

from tunewright.jobs import board
from tunewright.jobs.models import list_models
from tunewright.jobs.worker import Worker

LEASE = {"lease_s": 4.0, "recipe": {**RECIPE, "training.save_steps": 2}}


def work(place, until, seconds=200):
    worker = Worker(place.database, place.folder, place.settings)
    ends = time.monotonic() + seconds
    worker.run(lambda: until() or time.monotonic() > ends)
    assert until()


def status(place, job):
    return board.get_job(place.database, job)["status"]


@pytest.mark.slow
def test_a_worker_that_was_stopped_past_its_lease_changes_nothing(tmp_path):
    place = Place(tmp_path / "server", make_tiny("llama", tmp_path / "llama"), **LEASE)
    settings = place.settings.model_dump_json(include={"models", "jobs"})
    place.folder.settings.write_text(settings)
    file = place.upload(jsonl(chat_rows()))
    calm = place.submit(file)
    work(place, lambda: status(place, calm) == "succeeded")

    job = place.submit(file)
    command = [sys.executable, "-m", "tunewright.jobs.work", str(place.folder.path)]
    other = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 150
        while board.get_job(place.database, job)["last_step"] < 2 and time.monotonic() < until:
            time.sleep(0.1)
        fence = board.get_job(place.database, job)["fence"]
        os.kill(other.pid, signal.SIGSTOP)

        def taken_over():
            return board.get_job(place.database, job)["fence"] > fence

        resumed = []

        def over():
            if taken_over() and not resumed:
                resumed.append(True)
                os.kill(other.pid, signal.SIGCONT)
            return status(place, job) == "succeeded"

        work(place, over)
        assert resumed
    finally:
        os.kill(other.pid, signal.SIGCONT)
        other.terminate()
        said = other.communicate(timeout=60)[1]
    assert "cancelled, paused or taken over" in said
    assert place.weights(job) == place.weights(calm)
    finals = [m for m in list_models(place.database) if m["job_id"] == job and m["step"] is None]
    assert len(finals) == 1
    steps = [e["data"]["step"] for e in board.list_events(place.database, job, limit=500).rows
             if e["type"] == "metrics" and "total_steps" in e["data"]]  # fmt: skip
    assert sorted(steps) == sorted(set(steps))  # no step is told twice


def test_a_worker_whose_server_died_before_it_had_begun_ends(tmp_path):
    """The server is killed while its worker still imports: there is nobody to ask for any more."""
    place = Place(tmp_path / "server", tmp_path / "base")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    command = [sys.executable, "-m", "tunewright.jobs.work", str(place.folder.path)]
    worker = subprocess.Popen([*command, "--standby", str(gone.pid)], stderr=subprocess.DEVNULL)
    try:
        assert worker.wait(60) == 0
    finally:
        worker.kill()
