"""Webhooks: told once per address, signed as clients check it, never to private networks unasked."""

import http.server
import json
import threading

import openai
import pytest
from sqlalchemy import select, update

from tunewright.database.tables import DELIVERIES
from tunewright.jobs import board
from tunewright.jobs.webhooks import RefusedAddressError, checked_address, deliver_due
from tunewright.settings import ServerSettings

SECRET = "whsec_" + "c2VjcmV0IHNlY3JldCBzZWNyZXQ="


class Receiver:
    """An address that answers with the next of `statuses`, and keeps what it was sent."""

    def __init__(self, *statuses):
        self.got, left = [], list(statuses)
        keep = self.got

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                keep.append((dict(self.headers), body))
                self.send_response(left.pop(0) if left else 200)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?a=1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def settings(*urls, networks=("127.0.0.0/8",), events=None):
    hooks = [
        {"url": url, "secret": SECRET, **({"events": events} if events else {})} for url in urls
    ]
    return ServerSettings.model_validate({"webhooks": hooks, "allowed_networks": networks})


def make_due(database):
    with database.writing() as connection:
        connection.execute(update(DELIVERIES).values(next_at=0.0))


def states(database):
    with database.reading() as connection:
        rows = connection.execute(select(DELIVERIES).order_by(DELIVERIES.c.number)).mappings().all()
    return [(row["status"], row["attempts"]) for row in rows if row["url"]]


def test_a_cancelled_job_is_told_and_the_client_believes_it(database, add):
    one, two = Receiver(), Receiver()
    job = add()
    board.cancel_job(database, job)
    assert deliver_due(database, settings(one.url, two.url)) == 2
    assert deliver_due(database, settings(one.url, two.url)) == 0
    for receiver in (one, two):
        ((headers, body),) = receiver.got
        client = openai.OpenAI(api_key="x", webhook_secret=SECRET)
        event = client.webhooks.unwrap(body.decode(), headers)
        assert event.type == "fine_tuning.job.cancelled" and event.data.id == job
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.unwrap(body.decode() + " ", headers)
    assert states(database) == [("delivered", 1)] * 2


def test_failures_are_tried_again_later_and_redirects_are_not_followed(database, add):
    receiver = Receiver(500, 302, 200)
    board.cancel_job(database, add())
    for expected in [("due", 1), ("due", 2), ("delivered", 3)]:
        deliver_due(database, settings(receiver.url))
        assert states(database) == [expected]
        assert deliver_due(database, settings(receiver.url)) == 0  # not before its time
        make_due(database)
    assert len({json.loads(body)["id"] for _, body in receiver.got}) == 1


def test_an_address_that_never_answers_is_given_up(database, add):
    board.cancel_job(database, add())
    for _ in range(12):
        deliver_due(database, settings("http://127.0.0.1:9/"))
        make_due(database)
    assert states(database) == [("failed", 9)]


def test_private_addresses_are_refused_unless_allowed(database, add):
    receiver = Receiver()
    board.cancel_job(database, add())
    deliver_due(database, settings(receiver.url, networks=()))
    assert receiver.got == [] and states(database) == [("failed", 1)]


def test_only_the_wanted_events_are_told(database, add):
    receiver = Receiver()
    board.cancel_job(database, add())
    deliver_due(database, settings(receiver.url, events=["fine_tuning.job.succeeded"]))
    assert receiver.got == [] and states(database) == []


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1",
     "fd00::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "2002:7f00:1::", "100.64.0.1", "224.0.0.1",
     "::"],
)  # fmt: skip
def test_what_a_name_may_lead_to(address):
    def resolve(host, port, **_):
        return [(2, 1, 6, "", ("93.184.215.14", port)), (2, 1, 6, "", (address, port))]

    with pytest.raises(RefusedAddressError, match="not a public address"):
        checked_address("rebound.example", 80, (), resolve)


def test_public_addresses_are_reached():
    found = checked_address("a", 80, (), lambda h, p, **_: [(2, 1, 6, "", ("93.184.215.14", p))])
    assert found == "93.184.215.14"
