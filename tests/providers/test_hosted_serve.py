"""Recipe to report against our own `serve`: trained by its worker, judged by its chat; killed and
started again midway; and an account that lies there moves home.
"""

import json
import os
import subprocess
import sys
import time

import pytest
from tests.api.tuning_server import TuningServer, write_settings
from tests.jobs.tuning_place import RECIPE
from tests.model_zoo import make_tiny
from tests.providers.conftest import write_chats

from tunewright.config import dump_recipe, make_recipe
from tunewright.hosted import train_hosted
from tunewright.journal import Journal, silence
from tunewright.migrating import migrate_openai
from tunewright.providers.openai import open_openai

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MODEL = "gpt-4o-mini-2024-07-18"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = tmp_path_factory.mktemp("ours")
    base = make_tiny("llama", place / "llama")
    write_settings(place / "server", base, {"recipe": RECIPE, "lease_s": 6.0, "grace_s": 3.0})
    started = TuningServer(place / "server")
    yield started
    started.stop()


def recipe_for(server, data):
    return make_recipe(
        {
            "provider": server.url, "base_model": MODEL, "task": "chat",
            "data": {"train": str(data), "validation": 0.15, "test": 0.25},
            "training": {"num_epochs": 2, "batch_size": 8, "seed": 3},
            "evaluation": {"max_new_tokens": 8, "num_few_shot": 0},
            "hosted": {"poll_s": 0.2, "patience_s": 60},
        }
    )  # fmt: skip


def figures(report):
    return {r.system: {n: s.value for n, s in r.metrics.items()} for r in report.results}


def test_killed_midway_and_started_again(server, tmp_path):
    data = write_chats(tmp_path, count=48)
    recipe = recipe_for(server, data)
    whole = train_hosted(recipe, tmp_path / "whole", Journal(), consent=lambda told, usd: True)
    assert {"tuned", "base", "nearest_neighbour"} <= figures(whole).keys()
    assert (tmp_path / "whole" / "steps.jsonl").read_text().count("loss") > 2

    client = server.client()
    before = len(list(client.fine_tuning.jobs.list()))
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    process = subprocess.Popen(
        [sys.executable, "-c", "from tunewright.cli.main import main; main()", "train",
         str(tmp_path / "recipe.yaml"), "--run-dir", str(tmp_path / "killed")],
        env=dict(os.environ), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 300
    while len(list(client.fine_tuning.jobs.list())) == before:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "report.json").exists()
    again = train_hosted(
        recipe, tmp_path / "killed", Journal(), resume=True, consent=lambda told, usd: False
    )
    assert len(list(client.fine_tuning.jobs.list())) == before + 1
    assert figures(again) == figures(whole)
    job = json.loads((tmp_path / "killed" / "job.json").read_text())
    assert job["phase"] == "succeeded" and job["trained_tokens"] > 0


def test_what_lies_there_moves_home(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    moved, inventory = migrate_openai(
        open_openai(None, patience_s=60), tmp_path / "m", silence(),
        consent=lambda told, usd: True,
    )  # fmt: skip
    assert moved and all(m.recipe and m.recorded for m in moved)
    assert inventory["tuned_models"] and list((tmp_path / "m" / "results").iterdir())
