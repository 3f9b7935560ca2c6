"""Hostile requests against a whole server: hosts, origins, paths, bodies; and the census of routes.

The holes that RELIABILITY numbers S1 to S18 have a test each in tests/test_holes.py.
"""

import http.client
import json
import socket
import sys
import time

import pytest
from tests.api.conftest import Live

from postgres_server import settle
from tunewright.access import create_key
from tunewright.api.app import make_app
from tunewright.api.census import CENSUS
from tunewright.hosting import Hosting, find_served
from tunewright.jobs.home import open_home

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
HOSTS = (
    "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "", "169.254.169.254",
    "127.0.0.1@evil.example", "[::1].evil.example", "10.0.0.5", "0.0.0.0", "LOCALHOST.", "a b",
    "127.1", "2130706433", "0x7f000001", "127.0.0.1:80:80", "[::ffff:127.0.0.1]", "localhost%00",
    "evil.example#localhost", "http://localhost", "localhost/..", "*", "metadata.google.internal",
)  # fmt: skip
ORIGINS = (
    "https://evil.example", "null", "", "http://localhost.evil.example", "file://localhost",
    "http://127.0.0.1.evil.example", "http://evil.example/localhost", "chrome-extension://abc",
    "http://user@evil.example", "http://localhost@evil.example", "javascript:alert(1)", "localhost",
)  # fmt: skip
CLIMBS = (
    "..", "../..", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e", "%252e%252e%252f", "/etc/passwd",
    "//etc/passwd", "....//....//etc/passwd", "..\\..\\windows", "C:\\windows\\win.ini", "\\\\host\\share",
    "file:///etc/passwd", "%00", "a%00.jsonl", "..;/", "%c0%ae%c0%ae/", "%uff0e%uff0e/", "~root",
    "$(touch canary)", "`touch canary`", ";touch canary", "|touch canary", "--help", "-rf", "%0d%0aX: y",
    "a" * 4096, "．．/．．", "‥/", "con", "nul", ".git/config", "server.sqlite", "settings.yaml",
    "file-../../x", "ftjob-%2e%2e", "ft:x:y:z/../../w", "{{7*7}}", "${7*7}", "%n%n%n", "'\"><script>",
)  # fmt: skip
DEEP = "[" * 5000 + "]" * 5000
BODIES = (
    b"", b"{", b"[]", b"null", b"0", b'"x"', b"\xff\xfe", b"\x00", b"{}" * 1000, DEEP.encode(),
    b'{"model":NaN}', b'{"model":Infinity,"messages":[]}', b'{"model":"one","messages":' + DEEP.encode() + b"}",
    b'{"a":' * 3000 + b"1" + b"}" * 3000, b'{"model":"' + b"x" * 100000 + b'"}', b"--x\r\n",
    b'{"model":"one","messages":[{"role":"user","content":"' + b"{{" * 2000 + b'"}],"max_tokens":1}',
    b'{"model":"one","model":"two"}', b'{"model":1e999}', b'{"model":"one","prompt":[-1]}',
    b'{"model":"one","prompt":[[1,2],"x"]}', b'{"model":"one","prompt":"x","max_tokens":-1}',
    b'{"model":"one","prompt":"x","logit_bias":{"a":1}}', b'{"model":"one","prompt":"x","n":1000000}',
    b'{"model":"one","prompt":"x","logit_bias":{"999999999":1},"max_tokens":1}',
    b'{"model":"labels","input":[]}', b'{"model":"labels","input":[1]}', b'{"model":"labels","input":{"a":1}}',
    b'{"model":"../../etc/passwd","input":"x"}', b'{"model":"one","messages":[{"role":"root","content":"x"}]}',
)  # fmt: skip
OPENED: list[str] = []
CONNECTED: list[object] = []
WATCHING = [False]


def hear(event, arguments):
    if WATCHING[0] and event == "open" and isinstance(arguments[0], str):
        OPENED.append(arguments[0])
    if WATCHING[0] and event == "socket.connect":
        CONNECTED.append(arguments[1])


sys.addaudithook(hear)


@pytest.fixture(scope="module")
def world(tuned, tmp_path_factory):
    """A whole server with keys of every kind; files and jobs too."""
    folder = tmp_path_factory.mktemp("guarded")
    home = open_home(settle(folder / "server"))
    keys = {
        scope: create_key(home.database, scope, [scope])[0]
        for scope in ("read", "infer", "tune", "admin")
    }
    keys["other"] = create_key(
        home.database, "other", ["read", "infer", "tune"], owner="elsewhere"
    )[0]
    hosting = Hosting(find_served([tuned["one"], tuned["labels"]]))
    live = Live(make_app(hosting, database=home.database, home=home, runs=[folder / "runs"]))
    yield live, keys, folder
    live.stop()


@pytest.fixture(scope="module")
def routes(world):
    """(method, path) of every route that there is."""
    from tunewright.api.app import ROUTERS

    found = set()
    for router in ROUTERS:
        for route in router.routes:
            found |= {(method, route.path) for method in route.methods if method != "HEAD"}
    return sorted(found)


def send(live, method, path, *, headers=(), body=None):
    """(status, body) of a request whose target goes out as it stands."""
    connection = http.client.HTTPConnection(live.url.removeprefix("http://"), timeout=30)
    connection.putrequest(method, "/", skip_host=True, skip_accept_encoding=True)
    connection._buffer[0] = f"{method} {path} HTTP/1.1".encode("utf-8", "surrogateescape")
    names = {name.lower() for name, _ in headers}
    if "host" not in names:
        connection.putheader("Host", "127.0.0.1")
    for name, value in headers:
        connection.putheader(name, value)
    if body is not None:
        if "content-type" not in names:
            connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    reply = connection.getresponse()
    status, text = reply.status, reply.read(200_000)
    connection.close()
    return status, text


def bearer(key):
    return ("Authorization", f"Bearer {key}")


def filled(path):
    return (
        path.replace("{name:path}", "none")
        .replace("{kind}", "css")
        .replace("{", "")
        .replace("}", "")
    )


def test_the_census_names_every_route_and_no_other(routes):
    assert set(routes) == set(CENSUS)


def test_no_route_answers_without_its_kind_of_key(world, routes):
    """No key and a wrong key: 401. A key for something else: 403. The admin's: neither."""
    live, keys, _ = world
    for method, path in routes:
        need, target = CENSUS[method, path], filled(path)
        body = b"{}" if method in ("POST", "PUT", "PATCH") else None
        if need == "open":
            continue
        assert send(live, method, target, body=body)[0] == 401, path
        for wrong in ("tw-wrong", "", keys["admin"][:-1]):
            assert send(live, method, target, headers=[bearer(wrong)], body=body)[0] == 401, path
        for kind in ("read", "infer", "tune"):
            status, _ = send(live, method, target, headers=[bearer(keys[kind])], body=body)
            assert (status == 403) == (kind != need), (method, path, kind, status)
        if not path.startswith("/releases/"):  # which want their form's token besides
            status, _ = send(live, method, target, headers=[bearer(keys["admin"])], body=body)
            assert status not in (401, 403) and status < 500, (method, path, status)


def test_another_project_sees_nothing(world):
    live, keys, _ = world
    rows = "".join(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"q{n}"},
                    {"role": "assistant", "content": "a"},
                ]
            }
        )
        + "\n"
        for n in range(12)
    )
    form = (b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b\r\n'
            b'Content-Disposition: form-data; name="file"; filename="../../x.jsonl"\r\n\r\n'
            + rows.encode() + b"\r\n--b--\r\n")  # fmt: skip
    mine = [bearer(keys["tune"]), ("Content-Type", "multipart/form-data; boundary=b")]
    status, text = send(live, "POST", "/v1/files", headers=mine, body=form)
    assert status == 200, text
    file_id = json.loads(text)["id"]
    read = [bearer(keys["read"])]
    assert send(live, "GET", f"/v1/files/{file_id}", headers=read)[0] == 200
    other = [bearer(keys["other"])]
    for method, path in [("GET", f"/v1/files/{file_id}"), ("GET", f"/v1/files/{file_id}/content"),
                         ("DELETE", f"/v1/files/{file_id}")]:  # fmt: skip
        assert send(live, method, path, headers=other)[0] == 404, path
    assert file_id not in send(live, "GET", "/v1/files", headers=other)[1].decode()


@pytest.mark.parametrize("method", METHODS)
def test_hostile_hosts_and_origins_on_every_method(world, method):
    live, keys, _ = world
    known = bearer(keys["admin"])
    for host in HOSTS:
        status, _ = send(live, method, "/v1/models", headers=[known, ("Host", host)])
        assert status in (400, 421), host
    for origin in ORIGINS:
        status, _ = send(live, method, "/v1/models", headers=[known, ("Origin", origin)])
        assert status == 403, origin
    twice = [known, ("Host", "127.0.0.1"), ("Host", "evil.example")]
    assert send(live, method, "/v1/models", headers=twice)[0] in (400, 421)
    if method not in ("GET", "HEAD", "OPTIONS"):
        cross = [known, ("Sec-Fetch-Site", "cross-site")]
        assert send(live, method, "/v1/models", headers=cross)[0] == 403
    assert len(HOSTS) + len(ORIGINS) >= 30


def test_hostile_paths_open_nothing_outside_and_connect_nowhere(world):
    """Every path with a name in it, with every payload, on reads and deletes."""
    live, keys, folder = world
    known = [bearer(keys["admin"])]
    places = ("/runs/{}", "/runs/{}/report", "/v1/models/{}", "/v1/files/{}", "/v1/files/{}/content",
              "/v1/fine_tuning/jobs/{}", "/v1/fine_tuning/jobs/{}/events", "/static/pages.{}")  # fmt: skip
    OPENED.clear(), CONNECTED.clear()
    WATCHING[0] = True
    try:
        for payload in CLIMBS:
            quoted = payload.replace(" ", "%20")
            for place in places:
                status, text = send(live, "GET", place.format(quoted), headers=known)
                assert status in (200, 303, 307, 400, 404, 405, 422), (place, payload, status)
                assert b"root:" not in text and b"Traceback" not in text
            for place in ("/v1/files/{}", "/v1/models/{}"):
                status, _ = send(live, "DELETE", place.format(quoted), headers=known)
                assert status in (307, 400, 404, 405, 409, 422), (place, payload, status)
    finally:
        WATCHING[0] = False
    outside = [path for path in OPENED if path.startswith("/etc/") or "/.ssh" in path or "passwd" in path
               or path.endswith(("win.ini", "canary", ".git/config", "settings.yaml"))]  # fmt: skip
    assert outside == []
    assert all(
        address[0] in ("127.0.0.1", "::1") for address in CONNECTED if isinstance(address, tuple)
    )
    assert (folder / "server" / "server.sqlite").exists()
    assert not list(folder.rglob("canary"))


def test_hostile_bodies_are_refused_quickly_and_in_the_envelope(world):
    live, keys, _ = world
    known = [bearer(keys["admin"])]
    sent = 0
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/classify", "/v1/embeddings",
                 "/v1/fine_tuning/jobs", "/v1/uploads"):  # fmt: skip
        for body in BODIES:
            started = time.perf_counter()
            status, text = send(live, "POST", path, headers=known, body=body)
            assert time.perf_counter() - started < 20
            sent += 1
            if status == 200:  # a body that is odd and yet right, such as a key given twice
                continue
            assert 400 <= status < 500, (path, body[:80], status)
            assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}
            assert b"Traceback" not in text and b'File "' not in text
    for path in ("/v1/files", "/v1/uploads/upload_x/parts", "/login", "/releases/promote"):
        for body in BODIES[:12]:
            for kind in ("multipart/form-data", "multipart/form-data; boundary=", "text/plain",
                         "application/x-www-form-urlencoded"):  # fmt: skip
                head = [*known, ("Content-Type", kind)]
                status, text = send(live, "POST", path, headers=head, body=body)
                sent += 1
                assert 400 <= status < 500, (path, kind, body[:40], status)
                assert b"Traceback" not in text
    assert sent + len(CLIMBS) * 10 >= 150
    assert send(live, "GET", "/healthz")[0] == 200


SHELLS = ("$(touch canary)", "`touch canary`", "; touch canary", "x\ntouch canary", "a\0b", "--help",
          "-rf /", "| touch canary", "&& touch canary", "'; touch canary; '")  # fmt: skip


def test_S7_no_field_of_a_job_becomes_a_command_or_an_option(world, monkeypatch, tmp_path):
    """Refused by field, or kept as data: nothing runs, nothing is named by it."""
    live, keys, folder = world
    monkeypatch.chdir(tmp_path)
    known = [bearer(keys["admin"])]
    plain = {"model": "embedded:minilm", "training_file": "file-none"}
    for text in SHELLS:
        for change in (
            {"suffix": text}, {"model": text}, {"training_file": text}, {"validation_file": text},
            {"metadata": {text: text}}, {"integrations": [{"type": "wandb", "wandb": {
                "project": text, "name": text, "entity": text, "tags": [text]}}]},
            {"seed": text}, {"hyperparameters": {"n_epochs": text}}, {"method": {"type": text}},
        ):  # fmt: skip
            body = json.dumps({**plain, **change}).encode()
            status, answer = send(live, "POST", "/v1/fine_tuning/jobs", headers=known, body=body)
            assert status == 400, (change, answer)
    for root in (tmp_path, folder):
        assert not list(root.rglob("canary")) and not list(root.rglob("*touch*"))


@pytest.mark.parametrize(
    "ranges",
    ["bytes=" + ",".join(f"{n}-{n}" for n in range(0, 20_000, 2)), "bytes=" + "0-," * 12_000,
     "bytes=-" + "9" * 4000, "bytes=0-" + "9" * 4000, "bytes=a-b", "bytes=5-1", "items=0-1"],
)  # fmt: skip
def test_S15_a_range_header_never_takes_long(world, ranges):
    live, keys, _ = world
    form = (b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--b\r\n'
            b'Content-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
            + b"x" * 50_000 + b"\r\n--b--\r\n")  # fmt: skip
    mine = [bearer(keys["tune"]), ("Content-Type", "multipart/form-data; boundary=b")]
    file_id = json.loads(send(live, "POST", "/v1/files", headers=mine, body=form)[1])["id"]
    started = time.perf_counter()
    head = [bearer(keys["read"]), ("Range", ranges)]
    status, _ = send(live, "GET", f"/v1/files/{file_id}/content", headers=head)
    assert time.perf_counter() - started < 5 and status in (200, 206, 400, 416, 431)


RAW = (
    b"GET http://evil.example/v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET //v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /healthz/../v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /healthz/%2e%2e/v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /login?/v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-Host: 127.0.0.1\r\nX-Original-URL: /healthz\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\n\r\n",
    b"GET /v1/models HTTP/1.0\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: tunewright_session=x\r\n\r\n",
    b"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/models HTTP/1.1\r\n\r\n",
    b"GET /v1/models HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
    b"TRACE /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
)


def test_raw_requests_reach_nothing_without_a_key(world):
    """Absolute forms, forwarded hosts, smuggled requests: whatever the path says, 4xx."""
    live, _, _ = world
    port = int(live.url.rpartition(":")[2])
    for raw in RAW:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw_socket:
            raw_socket.sendall(raw)
            raw_socket.settimeout(3)
            answer = b""
            try:
                while part := raw_socket.recv(65536):
                    answer += part
            except TimeoutError:
                pass
        assert b'"object"' not in answer, raw
        first = answer.split(b"\r\n", 1)[0]
        assert first == b"" or first.split()[1][:1] == b"4", (raw, first)
