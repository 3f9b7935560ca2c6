"""Reads that go together: each gets its own answer, and sees what was written before it came."""

import asyncio
import threading

import pytest
import requests
from sqlalchemy.exc import OperationalError
from tests.api.conftest import Live
from tests.jobs.tuning_place import Place, chat_rows, jsonl

from tunewright.api import reads as module
from tunewright.api.app import make_app
from tunewright.api.reads import Reads
from tunewright.hosting import Hosting
from tunewright.jobs.board import cancel_job, get_job
from tunewright.jobs.home import Home


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "server", tmp_path / "base")


def test_everybody_gets_their_own_and_faults_stay_with_their_call(place):
    file = place.upload(jsonl(chat_rows()))
    jobs = [place.submit(file, seed=n) for n in range(150)]
    reads, rounds = Reads(place.database), []
    real = reads._run
    reads._run = lambda calls: rounds.append(len(calls)) or real(calls)

    async def ask():
        calls = [lambda job=job: get_job(place.database, job) for job in (*jobs, "none")]
        return await asyncio.gather(*map(reads.read, calls), return_exceptions=True)

    *found, fault = asyncio.run(ask())
    assert [row["id"] for row in found] == jobs and isinstance(fault, KeyError)
    assert sum(rounds) == 151 and len(rounds) <= 4 and max(rounds) <= module.MOST


def test_a_read_sees_what_was_written_before_it_came(place):
    job = place.submit(place.upload(jsonl(chat_rows())))
    reads = Reads(place.database)

    async def ask():
        first = asyncio.create_task(reads.read(lambda: get_job(place.database, job)["status"]))
        await asyncio.sleep(0)  # its round is under way
        await asyncio.to_thread(cancel_job, place.database, job)
        return await reads.read(lambda: get_job(place.database, job)["status"]), await first

    assert asyncio.run(ask())[0] == "cancelled"


def test_a_call_that_breaks_the_connection_harms_no_other(place):
    job = place.submit(place.upload(jsonl(chat_rows())))
    reads = Reads(place.database)

    def broken():
        with place.database.reading() as connection:
            connection.exec_driver_sql("SELECT * FROM no_such_table")

    async def ask():
        good = lambda: get_job(place.database, job)["id"]  # noqa: E731
        calls = [good, broken, good]
        return await asyncio.gather(*map(reads.read, calls), return_exceptions=True)

    first, fault, last = asyncio.run(ask())
    assert first == last == job and "no_such_table" in str(fault)


def test_clients_that_leave_hold_nobody_up(place):
    job = place.submit(place.upload(jsonl(chat_rows())))
    reads, go = Reads(place.database), threading.Event()

    async def ask():
        leaving = asyncio.create_task(reads.read(lambda: go.wait(10)))
        await asyncio.sleep(0.05)
        leaving.cancel()
        asyncio.get_running_loop().call_later(0.05, go.set)
        return await reads.read(lambda: get_job(place.database, job)["id"])

    assert asyncio.run(ask()) == job


def test_ready_means_that_the_database_answers(place, monkeypatch):
    home = Home(place.database, place.folder, place.settings)
    live = Live(make_app(Hosting([]), database=place.database, home=home))
    assert requests.get(f"{live.url}/readyz", timeout=30).json()["status"] == "ok"

    def gone(self):
        raise OperationalError("x", None, Exception("away"))

    monkeypatch.setattr(module.Database, "sharing", gone)
    reply = requests.get(f"{live.url}/readyz", timeout=30)
    assert reply.status_code == 503 and reply.json()["fault"] == "OperationalError"
    assert requests.get(f"{live.url}/healthz", timeout=30).status_code == 200
    reply = requests.get(f"{live.url}/v1/fine_tuning/jobs/ftjob-x", timeout=30)
    assert reply.status_code == 503 and reply.json()["error"]["code"] == "no_database"
    monkeypatch.undo()
    live.stop()
