"""One worker for a job at a time, whatever happens to workers."""

import random
import threading
import time

import pytest

from tunewright.jobs import board, leases
from tunewright.jobs.leases import LeaseLostError


def first(rows):
    return (rows[0] if rows else None), {}


def take(database, owner="w", lease_s=30.0, now=None):
    return leases.claim(database, owner, lease_s, first, now=now)


def prepare(database, lease):
    leases.note_prepared(database, lease, hyperparameters={}, forecast={}, memory_bytes=1,
                         total_steps=10, warnings=["row 3 is a copy"])  # fmt: skip


def test_a_job_goes_to_one_worker(database, add):
    job = add()
    row, lease = take(database)
    assert row["id"] == job and lease.fence == 1
    assert take(database, "other") is None
    prepare(database, lease)
    assert board.get_job(database, job)["status"] == "queued"
    warned = [e for e in board.list_events(database, job).rows if e["level"] == "warn"]
    assert warned[0]["message"] == "row 3 is a copy"
    assert take(database, "other")[1].fence == 2


def test_the_urgent_go_first_then_the_oldest(database, add):
    low, first_one, second, high = add(priority=-1), add(), add(), add(priority=5)
    order = [take(database)[0]["id"] for _ in range(4)]
    assert order == [high, first_one, second, low]


def test_a_silent_worker_loses_the_job_and_writes_no_more(database, add):
    job, now = add(), time.time()
    _, old = take(database, "old", now=now)
    leases.heartbeat(database, old, 30.0, now=now)
    assert take(database, "new", now=now + 29) is None
    _, new = take(database, "new", now=now + 31)
    assert new.fence > old.fence
    stale = [
        lambda: leases.heartbeat(database, old, 30.0),
        lambda: prepare(database, old),
        lambda: leases.note_started(database, old, resumed=False, seconds=None),
        lambda: leases.note_progress(database, old, events=[("x", None)], last_step=9, tokens=1, finish=None),
        lambda: leases.note_failed(database, old, code="x", message="x"),
        lambda: leases.give_back(database, old, why="x"),
        lambda: leases.note_succeeded(
            database, old, board.get_job(database, job), folder="x", checkpoints=[], trained_tokens=1,
            outcome={}, result_file={"id": "file-x", "filename": "x", "purpose": "fine-tune-results",
                                     "bytes": 1, "sha256": "x", "created_at": 1, "status": "processed"}),
    ]  # fmt: skip
    before = board.get_job(database, job), board.list_events(database, job).rows
    for write in stale:
        with pytest.raises(LeaseLostError):
            write()
    assert (board.get_job(database, job), board.list_events(database, job).rows) == before
    leases.heartbeat(database, new, 30.0)


@pytest.mark.parametrize("change", [board.cancel_job, board.pause_job])
def test_cancel_and_pause_take_the_job_away(database, add, change):
    job = add()
    _, lease = take(database)
    change(database, job)
    with pytest.raises(LeaseLostError):
        leases.heartbeat(database, lease, 30.0)
    assert take(database) is None


def test_waiting_says_why_once(database, add):
    job = add()
    for _ in range(3):
        assert leases.claim(database, "w", 30, lambda rows: (None, {job: "no memory"})) is None
    waits = [e for e in board.list_events(database, job).rows if "no memory" in e["message"]]
    assert len(waits) == 1 and board.get_job(database, job)["waits_for"] == "no memory"


def test_a_job_that_was_given_back_waits_its_time(database, add):
    add()
    _, lease = take(database)
    leases.give_back(database, lease, why="crashed", crashed=True, wait_s=100)
    assert take(database) is None
    row, _ = take(database, now=time.time() + 101)
    assert row["crashes"] == 1 and row["attempts"] == 2


def test_many_workers_many_jobs_each_done_once(database, add):
    """Workers that fall silent at random: every job ends once, in the hands of one of them."""
    jobs, done, lock = [add() for _ in range(12)], [], threading.Lock()

    def work(number):
        dice = random.Random(number)
        while len(done) < len(jobs):
            taken = take(database, f"w{number}", lease_s=0.15)
            if taken is None:
                time.sleep(0.01)
                continue
            row, lease = taken
            if dice.random() < 0.4:
                continue  # as if it was killed
            if dice.random() < 0.3:
                time.sleep(0.25)  # as if it was stopped
            try:
                leases.note_failed(database, lease, code="done", message=f"by {number}")
            except LeaseLostError:
                continue
            with lock:
                done.append(row["id"])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    assert sorted(done) == sorted(jobs)
    for job in jobs:
        ends = [e for e in board.list_events(database, job).rows if e["level"] == "error"]
        assert len(ends) == 1
