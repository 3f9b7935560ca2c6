"""OpenAI's Node client, unmodified, on the main path: upload, tune, follow, ask, delete."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.api.tuning_server import TuningServer, write_settings
from tests.jobs.tuning_place import RECIPE, chat_rows, jsonl
from tests.model_zoo import make_tiny

SCRIPT = Path(__file__).with_name("node_client.mjs")
FOLDER = "TUNEWRIGHT_NODE_MODULES"


@pytest.fixture(scope="module")
def modules():
    """The node_modules that holds `openai`."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    place = Path(os.environ.get(FOLDER) or Path(__file__).parents[2] / "node_modules")
    if not (place / "openai" / "package.json").exists():
        pytest.skip(
            f"no openai package for node: npm install openai, and {FOLDER}=its node_modules"
        )
    return place


@pytest.mark.timeout(600)
def test_the_main_path(modules, tmp_path):
    jobs = {"recipe": RECIPE, "lease_s": 6.0, "grace_s": 3.0}
    write_settings(tmp_path / "server", make_tiny("llama", tmp_path / "llama"), jobs)
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(jsonl(chat_rows()))
    server = TuningServer(tmp_path / "server")
    try:
        done = subprocess.run(
            ["node", str(SCRIPT), str(modules), server.url, str(rows)],
            capture_output=True, text=True, timeout=500, check=False,
        )  # fmt: skip
    finally:
        log = server.stop()
    assert done.returncode == 0, done.stderr + log
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["processed"] == "processed" and seen["created"] == "validating_files"
    assert seen["status"] == "succeeded", seen
    assert seen["model"].startswith("ft:gpt-4o-mini:local:node:") and seen["events"] > 5
    assert len(seen["steps"]) == 2 and seen["steps"] == sorted(seen["steps"], reverse=True)
    assert seen["said"] and seen["streamed"] == seen["said"] and seen["checkpointSaid"]
    assert seen["results"].startswith("step,") and seen["listed"]
    assert seen["deleted"] and seen["fileDeleted"]
    assert seen["refused"] == ["BadRequestError", 400, "training_file"]
    assert "Traceback" not in log
