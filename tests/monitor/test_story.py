"""The document, the page and the terminal of a watch, without a model."""

from __future__ import annotations

import http.server
import json
import threading
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from monitor_fixture import CLASSES, UNKNOWN, lens, rows, unlabelled
from tunewright.config import make_recipe
from tunewright.errors import UserError
from tunewright.monitor.alerts import make_alert
from tunewright.monitor.limits import make_ground, set_limits
from tunewright.monitor.sinks import check_webhook, post_to_webhook
from tunewright.monitor.watcher import Watcher
from tunewright.report.watch import make_watch_page, print_watch
from tunewright.store import RunFolder
from tunewright.watching import Eye, Watch, watch_document


@pytest.fixture(scope="module")
def document():
    ground = make_ground(lens(), batch_size=25)
    recipe = make_recipe({"watch": {"batch_size": 25}, "business": {"cost_per_error_usd": 2}})
    eye = Eye(RunFolder(Path("run")), recipe, None, ground, set_limits(ground, num_streams=6))
    known, known_states = rows(250, 78)
    new, new_states = rows(150, 79, range(CLASSES, CLASSES + UNKNOWN))
    requests = unlabelled([*known, *new])
    facts = lens().look(requests, np.concatenate([known_states, new_states]))
    watcher, seen = Watcher(ground, eye.limits), Watch(num_requests=400, num_batches=16)
    for batch in range(16):
        index = np.arange(25 * batch, 25 * batch + 25)
        signals = watcher.observe([requests[i] for i in index], facts.take(index))
        seen.levels.append(watcher.levels)
        if signals:
            seen.alerts.append(make_alert(signals, watcher.recent, lens(), error_usd=eye.error_usd))
    return watch_document(eye, seen, Path("log.jsonl"))


def test_page_and_terminal_tell_the_same(document):
    page = make_watch_page(document)
    out = StringIO()
    print_watch(document, Console(file=out, width=120))
    for text in (page, out.getvalue()):
        assert "ALARM" in text
        assert "retune" in text
        assert "errors more than usual" in text
    assert "<script>alert" not in page
    assert document["alerts"][0]["batch"] in range(10, 14)
    assert document["alerts"][0]["cost_usd"] > 0


def test_webhook_receives_the_alert_and_a_dead_one_is_told(document):
    heard = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.handle_request, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/alert"
    assert post_to_webhook(url, document["alerts"][0]) is None
    server.server_close()
    assert "Do: " in heard[0]["text"]
    assert heard[0]["rows"]
    assert url in post_to_webhook(url, document["alerts"][0])
    with pytest.raises(UserError, match="not a webhook"):
        check_webhook("file:///etc/passwd")
