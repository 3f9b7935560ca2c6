"""Keys, hosts, origins and sizes."""

import asyncio
import http.client
import json
import subprocess
import sys

import pytest

from tunewright.access import KeyRing
from tunewright.api.guard import Guard, check_binding
from tunewright.errors import UserError


async def plain(scope, receive, send):
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("body cut")
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


def ask(guard, headers=(), path="/v1/models", method="GET", chunks=(b"",)):
    sent, left = [], list(chunks)

    async def receive():
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in headers]
    scope = {"type": "http", "path": path, "method": method, "headers": pairs}
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"]


HERE = ("host", "127.0.0.1:8000")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT", "OPTIONS"])
@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "", "169.254.169.254",
     "127.0.0.1@evil.example", "[::1].evil.example", "10.0.0.5", "0.0.0.0", "LOCALHOST.", "a b"],
)  # fmt: skip
def test_foreign_hosts_are_refused(host, method):
    assert ask(Guard(plain), [("host", host)], method=method) == 421


@pytest.mark.parametrize("host", ["localhost", "LocalHost:1", "127.0.0.1", "[::1]:8000"])
def test_own_hosts_are_served(host):
    assert ask(Guard(plain), [("host", host)]) == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://localhost:3000", 200), ("https://evil.example", 403), ("null", 403), ("", 403),
     ("http://localhost.evil.example", 403), ("file://localhost", 403)],
)  # fmt: skip
def test_pages_of_other_sites_are_refused(origin, status):
    assert ask(Guard(plain), [HERE, ("origin", origin)]) == status


@pytest.mark.parametrize(
    ("header", "status"),
    [("Bearer secret", 200), ("bearer secret", 200), ("Bearer other", 401), ("secret", 401),
     ("Basic secret", 401), ("Bearer ", 401), ("", 401), ("Bearer secretsecret", 401)],
)  # fmt: skip
def test_keys(header, status):
    guard = Guard(plain, keys=["secret"])
    assert ask(guard, [HERE, ("authorization", header)]) == status
    assert ask(guard, [HERE], path="/healthz") == 200
    assert ask(guard, [HERE], path="/metrics") == 401


def test_large_bodies_are_refused_whether_or_not_they_say_so():
    guard = Guard(plain, max_body_bytes=10)
    assert ask(guard, [HERE, ("content-length", "11")]) == 413
    assert ask(guard, [HERE, ("content-length", "-1")]) == 400
    with pytest.raises(ConnectionError):
        ask(guard, [HERE], chunks=(b"x" * 6, b"x" * 6))
    assert ask(guard, [HERE], chunks=(b"x" * 5, b"x" * 5)) == 200


def test_beyond_loopback_only_with_a_key():
    with pytest.raises(UserError, match="TUNEWRIGHT_API_KEY"):
        check_binding("0.0.0.0", KeyRing())
    check_binding("0.0.0.0", KeyRing(["k"]))
    check_binding("127.0.0.1", KeyRing())


def test_routes_that_are_not_there(live):
    where = live.url.removeprefix("http://")
    connection = http.client.HTTPConnection(where, timeout=30)
    for method, path, status in [
        ("GET", "/v1/none", 404), ("PATCH", "/v1/models", 405), ("GET", "/healthz", 200),
        ("GET", "/readyz", 200), ("GET", "/metrics", 200), ("GET", "/openapi.json", 200),
    ]:  # fmt: skip
        connection.request(method, path)
        reply = connection.getresponse()
        body = reply.read()
        assert reply.status == status, path
        if status >= 400:
            assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    for body in (b"", b"{", b"[]", b'{"model": 3}', b"\xff\xfe", b"null", b'{"model":"one"}'):
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", body, headers)
        reply = connection.getresponse()
        reply.read()
        assert reply.status == 400


def test_command_ends_in_one_line_for_mistakes(tmp_path):
    code = "from tunewright.cli.main import main; main()"
    for more, says in [
        (["none-such-folder-here/x/y"], "none-such-folder-here"),
        (["--host", "0.0.0.0"], "TUNEWRIGHT_API_KEY"),
    ]:
        done = subprocess.run(
            [sys.executable, "-c", code, "serve", *more],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert says in done.stderr and len(done.stderr.strip().splitlines()) == 1
