"""Loading from the hub, against a local server that answers as the hub does."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import pytest

from tunewright.data.hub import HubSource, parse_hub_source
from tunewright.errors import DataError

COMMIT = "a" * 40
FILES = {
    "README.md": b"# tickets",
    "data/train.csv": b"text,label\nmy card is lost,card\nwhere is the app,app\n",
    "data/test.csv": b"text,label\nheld out,card\n",
    "extra/rows.jsonl": b'{"text": "one more", "label": "app"}\n',
}


class Hub(http.server.BaseHTTPRequestHandler):
    """Enough of the hub's protocol: data set info, and files with ETag and commit headers."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        self.server.seen.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0]
        if path in ("/api/datasets/acme/tickets", f"/api/datasets/acme/tickets/revision/{COMMIT}"):
            info = {
                "id": "acme/tickets",
                "sha": COMMIT,
                "private": False,
                "gated": False,
                "siblings": [{"rfilename": name} for name in FILES],
            }
            self.send(200, json.dumps(info).encode(), {"Content-Type": "application/json"}, body)
            return
        if path == "/api/datasets/acme/gated":
            self.send(403, b"{}", {"X-Error-Code": "GatedRepo"}, body)
            return
        if path.startswith("/api/datasets/acme/tickets/revision/"):
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
            return
        path = path.replace("/resolve/main/", f"/resolve/{COMMIT}/")
        prefix = f"/datasets/acme/tickets/resolve/{COMMIT}/"
        content = FILES.get(path.removeprefix(prefix)) if path.startswith(prefix) else None
        if content is None:
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
            return
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self.send(200, content, headers, body)

    def send(self, status, content, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


SCRIPT = """
import json, sys
from tunewright.data.formats import named_splits, read_rows
from tunewright.errors import DataError
for source in sys.argv[1:]:
    try:
        rows = list(read_rows(source))
        print(json.dumps({"rows": rows, "splits": sorted(named_splits(source))}))
    except DataError as error:
        print(json.dumps({"error": str(error)}))
"""


def ask(tmp_path, endpoint, *sources, **environment):
    """Answers for each source, from a fresh process that has this endpoint as its hub."""
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    env |= {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        **environment,
    }
    env.pop("HF_HUB_OFFLINE", None) if "HF_HUB_OFFLINE" not in environment else None
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *sources],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_data_set_is_listed_downloaded_and_read(hub, tmp_path):
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    answers = ask(
        tmp_path,
        endpoint,
        "acme/tickets",
        "acme/tickets:test",
        f"acme/tickets@{COMMIT}:train",
        "hf://datasets/acme/tickets/extra/rows.jsonl",
        "hf://datasets/acme/tickets/extra",
        "acme/tickets:validation",
        "acme/tickets@other",
        "acme/nothing",
        "acme/gated",
        "hf://datasets/acme/tickets/nowhere",
    )
    train = [
        ["acme/tickets/data/train.csv:2", {"text": "my card is lost", "label": "card"}],
        ["acme/tickets/data/train.csv:3", {"text": "where is the app", "label": "app"}],
    ]
    assert answers[0] == {"rows": train, "splits": ["test", "train"]}
    assert [row["text"] for _, row in answers[1]["rows"]] == ["held out"]
    assert answers[2]["rows"] == train
    assert answers[3]["rows"][0][1]["text"] == answers[4]["rows"][0][1]["text"] == "one more"
    assert "no split 'validation'; splits here: test, train" in answers[5]["error"]
    assert "no such revision" in answers[6]["error"]
    assert "acme/nothing: no such file or folder here, and no such data set" in answers[7]["error"]
    assert "access must be granted" in answers[8]["error"]
    assert "no such file in the data set" in answers[9]["error"]
    assert "HEAD /datasets/acme/tickets/resolve/main/data/train.csv" in hub.seen

    cached = ask(tmp_path, "http://127.0.0.1:9", "acme/tickets", HF_HUB_OFFLINE="1")
    assert cached[0].get("rows") == train, cached


def test_a_hub_that_cannot_be_reached_is_named(tmp_path):
    (answer,) = ask(tmp_path, "http://127.0.0.1:9", "acme/tickets")
    assert (
        "acme/tickets: no such file or folder here, and the hub does not answer" in answer["error"]
    )
    assert "\n" not in answer["error"]
    (answer,) = ask(tmp_path, "http://127.0.0.1:9", "acme/tickets", HF_HUB_OFFLINE="1")
    assert "acme/tickets: no such file or folder here" in answer["error"]


def test_hub_names():
    assert parse_hub_source("a/b") == HubSource("a/b")
    assert parse_hub_source("a/b@v1:test") == HubSource("a/b", "v1", "test")
    assert parse_hub_source("hf://datasets/a/b@v1/x/y.csv") == HubSource(
        "a/b", "v1", None, "x/y.csv"
    )
    assert parse_hub_source("just-a-name") is None
    assert parse_hub_source("a/b/c.csv") is None
    with pytest.raises(DataError, match="not a hub address"):
        parse_hub_source("hf://datasets/a")
