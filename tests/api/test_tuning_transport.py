"""What happens on the wire: sizes, cut connections, lost replies, streams of events. No training."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time

import openai
import pytest
from tests.api.conftest import Live
from tests.api.dropping_proxy import DroppingProxy, lose_replies
from tests.jobs.tuning_place import Place, chat_rows, jsonl

from tunewright.api.app import make_app
from tunewright.hosting import Hosting
from tunewright.jobs import board
from tunewright.jobs.board import add_event
from tunewright.jobs.home import Home
from tunewright.jobs.repeats import Request, find_earlier, note_made

LIMIT = 3 << 20


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wire")
    made = Place(folder / "server", folder / "base")
    settings = made.settings.model_copy(update={"max_file_bytes": LIMIT})
    made.home = Home(made.database, made.folder, settings)
    return made


@pytest.fixture(scope="module")
def server(place):
    live = Live(make_app(Hosting([]), database=place.database, home=place.home))
    yield live
    live.stop()


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0)


def left_over(place):
    return [*place.folder.incoming.iterdir()]


def test_a_file_of_exactly_the_limit_is_taken_and_one_byte_more_is_413(client, place):
    made = client.files.create(file=("a.bin", b"x" * LIMIT), purpose="user_data")
    assert made.bytes == LIMIT and place.folder.file(made.id).stat().st_size == LIMIT
    for size in (LIMIT + 1, LIMIT + 100_000, LIMIT + (20 << 20)):
        with pytest.raises(openai.APIStatusError) as refused:
            client.files.create(file=("a.bin", b"x" * size), purpose="user_data")
        assert refused.value.status_code == 413
    assert left_over(place) == [] and len(list(place.folder.files.iterdir())) == 1


def test_a_body_that_hides_its_length_is_cut_off_too(server, place):
    where = server.url.removeprefix("http://")
    connection = http.client.HTTPConnection(where, timeout=60)
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'

    def pieces():
        yield head
        for _ in range(LIMIT // 65536 + 4):
            yield b"x" * 65536

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    connection.request("POST", "/v1/files", pieces(), headers, encode_chunked=True)
    assert connection.getresponse().status in (400, 413)
    assert left_over(place) == []


def test_a_cut_connection_leaves_nothing(server, place):
    before = sorted(place.folder.files.iterdir())
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as line:
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
        line.sendall(
            b"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2000000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + head + b"x" * 1_500_000
        )
        time.sleep(0.3)
        assert len(left_over(place)) == 1
    until = time.monotonic() + 10
    while left_over(place) and time.monotonic() < until:
        time.sleep(0.05)
    assert left_over(place) == [] and sorted(place.folder.files.iterdir()) == before


@pytest.mark.parametrize(
    "body",
    [b"", b"--b", b"--b\r\n\r\nx", b"--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nx\r\n--b--",
     b"\0" * 100, b"--b--\r\n", b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n'],
)  # fmt: skip
def test_broken_forms_are_400(server, place, body):
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    for kind in ("multipart/form-data; boundary=b", "multipart/form-data", "application/json"):
        connection.request("POST", "/v1/files", body, {"Content-Type": kind})
        reply = connection.getresponse()
        assert reply.status == 400 and set(json.loads(reply.read())) == {"error"}
    assert left_over(place) == []


def test_a_lost_reply_makes_one_job(server, client, place):
    """Two dozen here, side by side; bench/lost_replies.py has 200."""
    file = client.files.create(file=("r.jsonl", jsonl(chat_rows())), purpose="fine-tune")
    proxy = DroppingProxy(server.url)
    told = lose_replies(proxy, file.id, 24)
    proxy.close()
    assert proxy.num_dropped == 24 and len(set(told)) == 24
    for number, job in enumerate(told):
        made = list(client.fine_tuning.jobs.list(metadata={"n": str(number)}))
        assert [item.id for item in made] == [job]


def test_idempotency_keys(client):
    file = client.files.create(file=("r.jsonl", jsonl(chat_rows())), purpose="fine-tune")

    def create(key, **values):
        headers = {"Idempotency-Key": key} if key else {}
        return client.fine_tuning.jobs.create(
            model="gpt-4o-mini", training_file=file.id, extra_headers=headers, **values
        ).id

    assert create("k1") == create("k1") != create("k2")
    assert create(None) != create(None)  # the same job twice is two jobs where nobody says retry
    with pytest.raises(openai.ConflictError):
        create("k1", seed=5)


def test_the_same_retry_from_many_threads_makes_one(place):
    made, request = [], Request("", "POST /x", "sha", key="same")

    def make():
        with place.database.writing() as connection:
            found = find_earlier(place.database, connection, request)
            if found is None:
                found = f"job-{threading.get_ident()}"
                note_made(connection, request, found)
            made.append(found)

    threads = [threading.Thread(target=make) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(set(made)) == 1 and len(made) == 8


def read_stream(server, job, last=None, until=lambda events: False):
    """Events of a stream until it ends or `until` says so."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    headers = {"Last-Event-ID": last} if last else {}
    connection.request("GET", f"/v1/fine_tuning/jobs/{job}/events?stream=true", headers=headers)
    reply, events = connection.getresponse(), []
    while line := reply.readline():
        if line.startswith(b"data: {"):
            events.append(json.loads(line[6:]))
        if line == b"data: [DONE]\n" or until(events):
            break
    connection.close()
    return events


def test_streams_lose_nothing_over_a_reconnect(server, client, place):
    job = place.submit(place.upload(jsonl(chat_rows())))

    def tell():
        for number in range(30):
            with place.database.writing() as connection:
                add_event(connection, job, f"news {number}")
            time.sleep(0.02)
        board.cancel_job(place.database, job)

    teller = threading.Thread(target=tell)
    teller.start()
    seen = read_stream(server, job, until=lambda events: len(events) >= 9)
    seen += read_stream(server, job, last=seen[-1]["id"])
    teller.join()
    assert [event["place"] for event in seen] == list(range(1, 34))
    assert seen[-1]["message"] == "Fine-tuning job cancelled"


def test_pages_of_events_by_the_client(client, place):
    job = place.submit(place.upload(jsonl(chat_rows())))
    with place.database.writing() as connection:
        for number in range(9):
            add_event(connection, job, f"news {number}")
    assert len(list(client.fine_tuning.jobs.list_events(job, limit=4))) == 11
    with pytest.raises(openai.BadRequestError, match="after"):
        client.fine_tuning.jobs.list_events(job, after="ftevent-none")
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.list_events("ftjob-none")
