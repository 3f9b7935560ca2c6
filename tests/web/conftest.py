"""A server with runs, releases and a browser in front of it."""

import json
import shutil

import pytest
from tests.api.conftest import Live, make_tiny, tune

from postgres_server import settle
from tunewright.api.app import make_app
from tunewright.hosting import Hosting, bases_of, find_served
from tunewright.jobs.home import open_home
from tunewright.releases.board import add_release, move_release
from tunewright.releases.gate import read_lineage

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ATTACK = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """Finished runs: two classifiers and an adapter."""
    folder = tmp_path_factory.mktemp("shop") / "runs"
    folder.mkdir()
    bert, llama = (
        make_tiny("bert", folder.parent / "bert"),
        make_tiny("llama", folder.parent / "llama"),
    )
    tune(folder, "topics-1", bert, "classify", "full")
    tune(folder, "topics-2", bert, "classify", "full", seed=5)
    tune(folder, "replies", llama, "chat", "lora")
    return folder


class Site:
    """A server, its database and runs."""

    def __init__(self, runs, folder, **more):
        self.runs = runs
        self.home = open_home(settle(folder / "server"), {"tiny": str(runs.parent / "llama")})
        self.database = self.home.database
        found = find_served([str(runs / name) for name in ("topics-1", "replies")])
        hosting = Hosting([*found, *bases_of(found)])
        self.live = Live(
            make_app(hosting, database=self.database, runs=[runs], home=self.home, **more)
        )
        self.url = self.live.url

    def stop(self):
        self.live.stop()
        self.database.close()


def write_story(site):
    """A release with an alarm, a tuning, moves and the scores of an update."""
    run = site.runs / "topics-1"
    release = add_release(site.database, "support", str(run), read_lineage(run), who="me")
    move_release(site.database, "support", release.version, "production", who="me", why="test")
    (run / "watch").mkdir(exist_ok=True)
    alarm = {"batch": 3, "time_s": 1e9, "sentence": f"confidence fell {ATTACK}", "cost_usd": 12.5,
             "clusters": [{"name": "new_kind", "count": 7, "examples": [ATTACK]}]}  # fmt: skip
    with (run / "watch" / "alerts.jsonl").open("a") as file:
        file.write(json.dumps(alarm) + "\n")
    (run / "lineage.json").write_text(json.dumps({
        "parent": "/somewhere/topics-0", "strategy": "continue", "because": [ATTACK],
        "names": ["first", "update 1"], "matrix": [[0.9, 0.1], [0.88, 0.75]],
        "learning": {"acc": 0.815, "bwt": -0.02, "fwt": None}, "left_out": {"text repeated": 3},
        "probe": {"says": "61.0 % of 600 unrelated texts lie by their own kind, before 62.0 %"},
    }))  # fmt: skip
    folder = site.home.folder.auto("support")
    folder.mkdir(parents=True)
    line = {"at": 2e9, "event": "tuning", "says": ["errors have cost $30", "60 rows"],
            "release": "support@1"}  # fmt: skip
    (folder / "story.jsonl").write_text(json.dumps(line) + "\n{half")


@pytest.fixture
def site(shop, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(shop, runs)
    shutil.copytree(shop.parent / "llama", tmp_path / "llama")
    opened = Site(runs, tmp_path)
    yield opened
    opened.stop()


@pytest.fixture(scope="session")
def browser():
    path = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()
