"""Files behind addresses: fetched from a local server; everything doubtful is refused."""

import http.server
import threading

import pytest

from tunewright.data import web
from tunewright.data.formats import read_rows
from tunewright.errors import DataError

CSV = b"text,label\nmy card,card\nthe app,app\n"


class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append(self.path)
        path = self.path.split("?")[0]
        if path == "/moved":
            self.reply(302, b"", Location="/rows.csv")
        elif path == "/to-private":
            self.reply(302, b"", Location="http://10.0.0.1/rows.csv")
        elif path == "/flaky.csv" and self.server.seen.count(self.path) < 2:
            self.reply(503, b"")
        elif path in ("/rows.csv", "/flaky.csv"):
            self.reply(200, CSV)
        elif path == "/export":
            self.reply(200, CSV, **{"Content-Type": "text/csv; charset=utf-8"})
        elif path == "/endless.csv":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(CSV * 1000)
        elif path == "/short.csv":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(CSV)
        else:
            self.reply(404, b"")

    def reply(self, status, content, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def site(monkeypatch):
    for name in (
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.seen = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    web.fetch_file.cache_clear()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()


def failure(url):
    with pytest.raises(DataError) as caught:
        list(read_rows(url))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", ["/rows.csv?token=1", "/moved", "/export", "/flaky.csv"])
def test_rows_behind_an_address(site, path):
    rows = list(read_rows(site.url + path))
    assert [row["label"] for _, row in rows] == ["card", "app"]
    asked = len(site.seen)
    list(read_rows(site.url + path))
    assert len(site.seen) == asked  # fetched once


def test_what_goes_wrong_is_named_without_secrets(site, monkeypatch):
    assert "/none.csv: the server answered 404" in failure(site.url + "/none.csv?token=secret")
    assert "secret" not in failure(site.url + "/none.csv?token=secret")
    assert "http is not safe; use https" in failure(site.url + "/to-private")
    assert "cannot be fetched" in failure(site.url + "/short.csv")
    monkeypatch.setattr(web, "MAX_DOWNLOAD_BYTES", 100)
    with pytest.raises(DataError, match="more than 100 bytes"):
        web.fetch_file(site.url + "/endless.csv", 100)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("http://example.org/a.csv", "http is not safe; use https"),
        ("ftp://example.org/a.csv", "ftp is not safe; use https"),
        ("http://user:pass@example.org/a.csv", "http://example.org/a.csv: http is not safe"),
        ("https:///a.csv", "no host in this address"),
        ("https://10.1.2.3/a.csv", "10.1.2.3: leads to 10.1.2.3, not a public address"),
        ("https://169.254.169.254/latest", "not a public address"),
        ("https://[::ffff:192.168.0.1]/a.csv", "not a public address"),
        ("https://127.0.0.2/a.csv", "not a public address"),
    ],
)
def test_unsafe_addresses_are_refused(monkeypatch, url, part):
    for name in ("https_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert part in failure(url)


def test_S10_the_address_that_was_checked_is_the_one_connected_to(monkeypatch):
    """A name whose answer changes between the look and the call (DNS rebinding) leads nowhere else."""
    asked, connected = [], []

    def resolve(host, port, *more, **named):
        asked.append(host)
        address = "93.184.215.14" if len(asked) == 1 else "127.0.0.1"
        return [(web.socket.AF_INET, web.socket.SOCK_STREAM, 6, "", (address, port))]

    class Line:
        def __init__(self, *given):
            pass

        def connect(self, address):
            connected.append(address[0])
            raise OSError("no way out of here")

        def settimeout(self, seconds):
            pass

        def close(self):
            pass

    def straight(address, *more, **named):
        connected.append(address[0])
        raise OSError("no way out of here")

    monkeypatch.setattr(web.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(web.socket, "socket", Line)
    monkeypatch.setattr(web.socket, "create_connection", straight)
    with pytest.raises(OSError, match="no way out"):
        web.connect_public("rebinding.example", 443, 1)
    assert len(asked) == 1 and set(connected) == {"93.184.215.14"}
