"""What is known of a base before it is loaded: from a folder, from a local hub, from the list."""

import http.server
import json
import threading

import pytest

from model_zoo import make_tiny
from tunewright.errors import ModelError
from tunewright.model.facts import KNOWN, read_facts, script_of

MODELS = {
    "acme/open": {
        "cardData": {"license": "mit", "language": ["en", "de"]},
        "config": {"architectures": ["BertModel"], "max_position_embeddings": 512},
        "safetensors": {"parameters": {"F32": 1000}, "total": 1000},
        "gated": False,
    },
    "acme/bare": {"cardData": {}, "config": {}, "gated": False},
    "acme/coded": {
        "cardData": {"license": "apache-2.0"},
        "config": {"architectures": ["OddLM"], "auto_map": {"AutoModel": "odd.Odd"}},
        "gated": False,
    },
    "Qwen/Qwen3-0.6B": {
        "cardData": {"license": "apache-2.0"},
        "config": {"tokenizer_config": {"chat_template": "{{ x }}"}},
        "safetensors": {"parameters": {"BF16": 751632384}, "total": 751632384},
        "gated": False,
    },
}


class Hub(http.server.BaseHTTPRequestHandler):
    """Enough of the hub's protocol for facts about a model."""

    def do_GET(self):
        name = self.path.split("?")[0].removeprefix("/api/models/")
        if name == "acme/gated":
            return self.send(403, {}, {"X-Error-Code": "GatedRepo"})
        if name not in MODELS:
            return self.send(404, {}, {"X-Error-Code": "RepoNotFound"})
        return self.send(200, {"id": name, "modelId": name, **MODELS[name]}, {})

    def send(self, status, values, headers):
        content = json.dumps(values).encode()
        self.send_response(status)
        for key, value in {**headers, "Content-Type": "application/json"}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("http_proxy", "HTTP_PROXY", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()


def test_the_hub_answers_for_its_models(hub):
    facts = read_facts("acme/open")
    assert facts.kind == "encoder" and facts.num_parameters == 1000
    assert facts.licence == "mit" and facts.languages == ("en", "de")
    assert facts.context_tokens == 512 and not facts.remote_code
    assert facts.weight_bytes()["fp32"] == 4000 and facts.weight_bytes()["bf16"] == 2000
    assert read_facts("acme/bare").licence is None
    assert read_facts("acme/coded").remote_code


def test_the_hub_wins_over_the_list_and_the_list_fills_its_gaps(hub):
    facts = read_facts("Qwen/Qwen3-0.6B")
    assert facts.num_parameters == 751632384 and facts.source == "the hub, just now"
    assert facts.context_tokens == KNOWN["Qwen/Qwen3-0.6B"].context_tokens
    assert facts.chat_template


def test_models_that_nobody_may_have_are_named(hub):
    with pytest.raises(ModelError, match="gated; accept its terms"):
        read_facts("acme/gated")
    with pytest.raises(ModelError, match="no such folder and no such hub model"):
        read_facts("acme/nothing")


def test_without_a_hub_the_list_answers(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    facts = read_facts("FacebookAI/roberta-base")
    assert facts.licence == "mit" and "built-in list" in facts.source
    with pytest.raises(ModelError, match="the hub does not answer"):
        read_facts("acme/open")
    assert read_facts("FacebookAI/roberta-base", live=False) == facts


def test_a_folder_answers_for_itself(tmp_path):
    folder = make_tiny("llama", tmp_path / "tiny")
    (folder / "README.md").write_text("---\nlicense: mit\nlanguage: fr\n---\n# tiny\n")
    facts = read_facts(str(folder))
    assert facts.kind == "decoder" and facts.local and facts.context_tokens == 256
    assert facts.licence == "mit" and facts.languages == ("fr",) and facts.chat_template
    assert facts.num_parameters and facts.num_parameters > 1000


def test_the_embedded_base_is_known_by_its_hub_name():
    facts = read_facts("embedded:minilm")
    assert facts.licence == "apache-2.0" and facts.local and facts.kind == "encoder"


def test_every_entry_of_the_list_is_whole():
    for name, facts in KNOWN.items():
        assert facts.reference == name and facts.licence and facts.languages
        assert facts.kind in ("encoder", "decoder", "encoder-decoder")
        assert facts.num_parameters > 1e7 and facts.context_tokens >= 512


def test_scripts():
    assert script_of("Straße naïve") == "latin"
    assert script_of("Привет") == "cyrillic"
    assert script_of("日本語です") == "cjk"
    assert script_of("123 !?") == ""
