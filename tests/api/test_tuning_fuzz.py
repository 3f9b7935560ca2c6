"""Broken requests to every route: never a 5xx, always an error that clients can read."""

import http.client
import json
import random

import pytest
from tests.api.conftest import Live
from tests.api.fuzzing import make
from tests.jobs.tuning_place import Place, chat_rows, jsonl

from tunewright.api.app import make_app
from tunewright.hosting import Hosting
from tunewright.jobs.home import Home

CASES = 500


@pytest.mark.timeout(120)
def test_broken_requests_are_refused_in_words(tmp_path):
    place = Place(tmp_path / "server", tmp_path / "base")
    file = place.upload(jsonl(chat_rows()))
    known = [file, place.submit(file), place.submit(file)]
    home = Home(place.database, place.folder, place.settings)
    server = Live(make_app(Hosting([]), database=place.database, home=home))
    dice, statuses = random.Random(11), {}
    try:
        for _ in range(CASES):
            line = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=20)
            method, path, headers, body = make(dice, known)
            line.request(method, path, body, headers)
            reply = line.getresponse()
            data = reply.read()
            statuses[reply.status] = statuses.get(reply.status, 0) + 1
            assert reply.status < 500, (method, path, body[:300], data[:300])
            if reply.status >= 400:
                error = json.loads(data)["error"]
                assert set(error) == {"message", "type", "param", "code"}
            line.close()
        assert statuses[200] > 20 and statuses[400] > 100, statuses
    finally:
        server.stop()
