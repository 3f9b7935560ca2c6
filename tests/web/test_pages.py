"""Pages over HTTP: what they show, what they refuse, what they escape."""

import json
import re
import shutil

import httpx2 as httpx
import pytest
from tests.jobs.conftest import wish
from tests.web.conftest import ATTACK, Site, write_story

from tunewright.access import create_key
from tunewright.cleaning import read_decisions
from tunewright.jobs.board import add_job
from tunewright.releases.board import list_releases
from tunewright.web.shell import POLICY

PAGES = ("/", "/runs", "/runs/topics-1", "/runs/topics-1/review", "/compare?a=topics-1&b=topics-2",
         "/playground", "/releases", "/story", "/traffic", "/monitoring", "/tune", "/login")  # fmt: skip


@pytest.fixture
def client(site):
    with httpx.Client(base_url=site.url, timeout=60) as opened:
        yield opened


def token_of(client, path="/releases"):
    return re.search(r'name="page-token" content="(\w+)"', client.get(path).text)[1]


def test_every_page_has_the_policy_and_nothing_from_outside(client):
    for path in PAGES:
        reply = client.get(path)
        assert reply.status_code == 200, path
        assert reply.headers["content-security-policy"] == POLICY
        assert not re.search(r"<script(?! src=\"/static/)|<style|\sstyle=|\son\w+=|//[a-z]+\.", reply.text
                             .replace(f"{client.base_url}", "")), path  # fmt: skip
        assert re.findall(r"<h1", reply.text), path


def test_runs_that_are_not_there_are_404_and_never_a_path(client):
    for name in ("none", "..%2f..%2fetc", "topics-1%00", "/etc/passwd", "a" * 4096):
        for end in ("", "/report", "/review", "/events"):
            assert client.get(f"/runs/{name}{end}").status_code in (404, 307, 400), name


def test_text_of_the_data_is_escaped_everywhere(site, client):
    path = site.runs / "topics-1" / "card.json"
    card = json.loads(path.read_text())
    card["findings"] = [
        {"kind": "label_error", "severity": "warn", "message": ATTACK, "count": 1, "rows": ["r1"],
         "places": [f"{ATTACK}.jsonl:1"], "dropped": False, "suggestions": [card["labels"][0]]}
    ]  # fmt: skip
    path.write_text(json.dumps(card))
    (site.runs / "topics-1" / "log.txt").write_text(ATTACK)
    (site.runs / "topics-1").rename(site.runs / "a<b>'\"&")
    for page in ("/", "/runs", "/runs/a%3Cb%3E'%22&", "/runs/a%3Cb%3E'%22&/review",
                 "/compare?a=" + ATTACK):  # fmt: skip
        text = client.get(page).text
        assert "<img src=x" not in text and "<script>alert" not in text and "<b>'" not in text


def test_runs_of_jobs_are_runs_like_others(site, client):
    """A page with a job in the database once failed, whatever page it was."""
    wanted = wish(base_model=str(site.runs.parent / "llama"))
    with site.database.writing() as connection:
        begun, waiting = (add_job(connection, wanted) for _ in range(2))
    assert f'href="/runs/{begun}"' not in client.get("/tune").text
    shutil.copytree(site.runs / "replies", site.home.folder.job(begun) / "run")
    for page in (
        *PAGES,
        f"/runs/{begun}",
        f"/runs/{begun}/report",
        f"/compare?a={begun}&b=replies",
    ):
        assert client.get(page).status_code == 200, page
    for page in ("/", "/runs", "/tune"):
        text = client.get(page).text
        assert f'href="/runs/{begun}"' in text and f'href="/runs/{waiting}"' not in text, page


def test_monitoring_shows_alarms_and_the_page_of_the_watch(site, client):
    assert "No run is watched yet" in client.get("/monitoring").text
    watch = site.runs / "topics-1" / "watch"
    watch.mkdir()
    assert client.get("/runs/topics-1/watch").status_code == 404
    lines = [
        {"time_s": 1_700_000_000 + n, "sentence": f"alarm {n} {ATTACK}", "action": ATTACK,
         "signals": [{"rule": "novelty"}, {"rule": "novelty"}, {"rule": ATTACK}], "cost_usd": 2.0}
        for n in range(30)
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (watch / "alerts.jsonl").write_text(text + '{"half')
    (watch / "watch.html").write_text("<h1>seen</h1>")
    page = client.get("/monitoring").text
    assert "alarm 29" in page and "alarm 9 " not in page  # the newest twenty
    assert page.index("alarm 29") < page.index("alarm 28") and "$2.00" in page
    assert "<img src=x" not in page and "<script>alert" not in page
    assert client.get("/runs/topics-1/watch").text == "<h1>seen</h1>"


def test_a_review_is_written_down_once(site, client):
    path = site.runs / "topics-1" / "card.json"
    card = json.loads(path.read_text())
    card["findings"] = [
        {"kind": "label_error", "severity": "warn", "message": "two rows", "count": 2,
         "rows": ["r1", "r2"], "places": ["classify.jsonl:3", "classify.jsonl:4"],
         "dropped": False, "suggestions": [card["labels"][0], ""]}
    ]  # fmt: skip
    path.write_text(json.dumps(card))
    page = client.get("/runs/topics-1/review").text
    assert "question 2 about my account" in page and page.count("<li data-place=") == 2
    body = {"place": "classify.jsonl:3", "id": "r1", "kind": "label_error", "decision": "relabel",
            "label": card["labels"][0]}  # fmt: skip
    head = {"x-page-token": token_of(client)}
    where = "/runs/topics-1/review"
    assert client.post(where, json=body).status_code == 403  # without the token of a page
    wrong = [{"label": "nonsense"}, {"decision": "explode"}, {"place": "/etc/passwd"}, {"id": "r2"}]
    for change in wrong:
        assert client.post(where, json=body | change, headers=head).status_code == 400, change
    assert client.post(where, json=body, headers=head).status_code == 200
    assert client.post(where, json=body, headers=head).status_code == 400
    (decided,) = read_decisions(site.runs / "topics-1" / "review.jsonl")
    assert (decided.decision, decided.label) == ("relabel", card["labels"][0])
    assert client.get(where).text.count("<li data-place=") == 1


def test_promote_and_roll_back(site, client):
    def post(path, **fields):
        return client.post(path, data={"token": token_of(client), **fields})

    first = post("/releases/promote", run="topics-1", name="topics", stage="production")
    assert first.status_code == 303
    assert post("/releases/promote", run="topics-2", name="topics", stage="canary", share="20 %"
                ).status_code == 303  # fmt: skip
    assert {r.id: (r.stage, r.share) for r in list_releases(site.database)} == {
        "topics@1": ("production", None), "topics@2": ("canary", 0.2)}  # fmt: skip
    reply = client.post("/v1/classify", json={"model": "topics", "input": "my card"})
    assert reply.headers["x-tunewright-release"].startswith("topics@")
    assert post("/releases/promote", what="topics@2", stage="production").status_code == 303
    assert post("/releases/rollback", name="topics").status_code == 303
    assert [r.stage for r in list_releases(site.database)] == ["archived", "production"]
    assert post("/releases/rollback", name="topics").status_code == 409
    assert post("/releases/promote", what="topics@9", stage="production").status_code == 409
    assert post("/releases/promote", run="..", stage="production").status_code == 404
    for path in ("/releases/promote", "/releases/rollback"):
        assert client.post(path, data={"name": "topics"}).status_code == 403
    page = client.get("/releases").text
    assert "passed the gate" in page and "rolled back from topics@2" in page


def test_pages_behind_a_key(shop, tmp_path):
    site = Site(shop, tmp_path)
    keys = {s: create_key(site.database, s, [s])[0] for s in ("read", "admin")}
    site.stop()
    site = Site(shop, tmp_path)
    html = {"accept": "text/html"}
    with httpx.Client(base_url=site.url, timeout=60) as client:
        assert client.get("/", headers=html).headers["location"] == "/login"
        assert client.get("/").status_code == 401
        assert client.post("/login", data={"key": keys["read"]}).status_code == 403
        wrong = client.post("/login", data={"key": "tw-x", "token": token_of(client, "/login")})
        assert wrong.status_code == 401
        reply = client.post(
            "/login", data={"key": keys["read"], "token": token_of(client, "/login")}
        )
        cookie = reply.headers["set-cookie"]
        assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
        assert keys["read"] not in cookie
        page = client.get("/releases")
        assert page.status_code == 200 and "Enter and move" not in page.text
        data = {"token": token_of(client), "name": "topics"}
        assert client.post("/releases/rollback", data=data).status_code == 403
        assert client.post("/logout", data=data).status_code == 303
        assert client.get("/releases").status_code == 401
    site.stop()


def test_a_live_run_streams_its_state(site, client):
    """A run that goes on in another process: events come as its files grow, and an end."""
    import os
    import socket
    import threading
    import time

    folder = site.runs / "topics-2"
    report = (folder / "report.json").read_text()
    steps = (folder / "steps.jsonl").read_text().splitlines(keepends=True)
    (folder / "report.json").unlink()
    (folder / "steps.jsonl").write_text(steps[0])
    state = {"stage": "training", "pid": os.getpid(), "host": socket.gethostname()}
    (folder / "state.json").write_text(json.dumps(state))

    def go_on():
        time.sleep(1.5)
        with (folder / "steps.jsonl").open("a") as file:
            file.writelines(steps[1:])
        time.sleep(1.5)
        (folder / "report.json").write_text(report)

    threading.Thread(target=go_on).start()
    events = []
    with client.stream("GET", "/runs/topics-2/events") as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        for line in reply.iter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line[6:]))
            if line == "event: end":
                break
    assert [event["state"] for event in events][0] == "running"
    assert events[-1]["state"] == "finished"
    assert "svg" in events[-1]["curves"] and events[0]["tiles"] != events[-1]["tiles"]
    assert 0 < events[0]["share"] < events[-1]["share"] <= 1


def test_the_story_of_a_release_is_told_in_order(site, client):
    """Moves, alarms, tunings and the scores of every task; text from outside is escaped."""
    write_story(site)
    page = client.get("/story/support").text
    assert client.get("/story").text.count("errors have cost $30") == 1
    for part in ("tuning again", "confidence fell", "$12.50", "new_kind", "topics-0", "75.0",
                 "-2.0", "production"):  # fmt: skip
        assert part in page, part
    assert "<img src=x" not in page
    assert page.index("tuning again") < page.index("confidence fell")
    assert client.get("/story/none").status_code == 404
