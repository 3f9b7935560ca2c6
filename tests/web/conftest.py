"""A server with runs, releases and a browser in front of it."""

import shutil

import pytest
from tests.api.conftest import Live, make_tiny, tune

from postgres_server import settle
from tunewright.api.app import make_app
from tunewright.hosting import Hosting, bases_of, find_served
from tunewright.jobs.home import open_home

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
