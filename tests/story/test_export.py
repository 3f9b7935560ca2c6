"""Tuned models in every form that other programs serve, and the gate that checks them."""

import base64
import http.server
import json
import os
import random
import subprocess
import sys
import threading
from typing import ClassVar

import numpy as np
import pytest
import torch
import transformers
from tests.model_zoo import make_tiny

from tunewright.config import make_recipe
from tunewright.errors import ModelError, Refusal, RunError, UserError
from tunewright.exporting import EXPORTERS, export_run
from tunewright.journal import silence
from tunewright.model.export import gguf as gguf_file
from tunewright.model_card import find_licence
from tunewright.pipeline import train

QUESTIONS = {
    "delivery": "where is my parcel",
    "card": "the card was refused",
    "account": "please close my account",
}


def rows_of(kind):
    rng = random.Random(3)
    words = ["please", "now", "today", "again", "really", "thanks", "my", "your", "the", "order"]
    for _ in range(60):
        label = rng.choice(list(QUESTIONS))
        text = f"{QUESTIONS[label]} {' '.join(rng.sample(words, 4))}"
        if kind == "classify":
            yield {"text": text, "label": label}
        elif kind == "embed":
            yield {"anchor": text, "positive": f"this is about the {label}"}
        elif kind == "chat":
            yield {
                "messages": [
                    {"role": "user", "content": text},
                    {"role": "assistant", "content": f"this is about the {label}"},
                ]
            }
        else:
            yield {"prompt": text, "completion": f"this is about the {label}"}


def adapter_of(method):
    name, _, held = method.partition("-")
    return {"method": name, **({"r": 4} if "lora" in name else {}),
            **({"quantization": held} if held else {})}  # fmt: skip


@pytest.fixture(scope="session")
def tuned(tmp_path_factory):
    """Run folder of a tiny tuned model by (kind of base, task, method), trained once."""
    made = {}

    def run(base, task="generate", method="lora"):
        key = (base, task, method)
        if key not in made:
            folder = tmp_path_factory.mktemp("tuned")
            data = folder / "rows.jsonl"
            data.write_text("".join(json.dumps(row) + "\n" for row in rows_of(task)))
            recipe = make_recipe(
                {
                    "task": task,
                    "base_model": str(make_tiny(base, folder / "base")),
                    "data": {"train": str(data), "validation": 0.2, "test": 0.3},
                    "adapter": adapter_of(method),
                    "training": {
                        "max_steps": 6, "num_threads": 1, "precision": "fp32", "batch_size": 8,
                        "learning_rate": 0.02 if "lora" in method else 0.002, "max_length": 96,
                    },
                    "evaluation": {"baselines": [], "max_new_tokens": 12},
                }
            )  # fmt: skip
            train(recipe, folder / "run", silence())
            made[key] = folder / "run"
        return made[key]

    return run


@pytest.mark.parametrize(
    ("base", "task", "method", "to"),
    [
        ("llama", "chat", "lora", "adapter"),
        ("llama", "chat", "lora", "merged"),
        ("qwen3", "chat", "full", "merged"),
        ("bert", "classify", "lora", "merged"),
        ("llama", "chat", "lora", "vllm"),
        ("qwen3", "chat", "full", "vllm"),
        ("llama", "chat", "qlora", "adapter"),
        ("llama", "chat", "qlora", "merged"),
        ("bert", "classify", "qlora", "merged"),
        ("llama", "classify", "lora", "merged"),
        ("t5", "generate", "lora", "merged"),
    ],
)
def test_forms_for_transformers(tuned, tmp_path, base, task, method, to):
    run = tuned(base, task, method)
    exported = export_run(run, to, tmp_path / "out", silence())
    assert all(parity.passed for parity in exported.parity)
    assert max(parity.max_logit_difference for parity in exported.parity) < 1e-3
    assert (tmp_path / "out" / "README.md").read_text().startswith("---\n")
    assert json.loads((tmp_path / "out" / "parity.json").read_text())[0]["same_tokens"] is True
    assert not list(tmp_path.glob(".out*"))
    config = tmp_path / "out" / "config.json"  # of weights that are spelled out
    assert not config.exists() or "quantization" not in config.read_text()


@pytest.mark.parametrize(("base", "precision"), [("llama", "f16"), ("qwen3", "q8_0")])
def test_gguf_answers_as_trained(tuned, tmp_path, base, precision):
    """Read by transformers' own GGUF reader: greedy text, logits and tokenizer."""
    exported = export_run(
        tuned(base, "chat", "lora" if base == "llama" else "full"),
        "gguf",
        tmp_path / "out",
        silence(),
        precision=precision,
    )
    parity = exported.parity[0]
    assert parity.passed and parity.same_tokens
    if precision == "f16":
        assert parity.same_text == 1.0


@pytest.mark.slow
def test_vllm_gets_an_adapter_only_where_it_takes_one(tuned, tmp_path):
    notes = {}
    for method in ("lora", "ia3", "dora"):
        exported = export_run(tuned("llama", "chat", method), "vllm", tmp_path / method, silence())
        notes[method] = exported.notes[0]
        assert (tmp_path / method / "model.safetensors").exists() == (method != "lora")
    assert "--enable-lora" in notes["lora"] and notes["ia3"] == notes["dora"] == "vllm serve ."


@pytest.mark.slow
def test_eight_bits_may_tip_a_close_choice(tuned, tmp_path):
    run = tuned("llama", "chat", "lora-int8")
    assert export_run(run, "adapter", tmp_path / "a", silence()).parity[0].max_logit_difference == 0
    exported = export_run(run, "merged", tmp_path / "m", silence())
    assert exported.parity[0].least_same_top == 0.95 and "int8" in exported.notes[0]


def test_vectors_before_the_input_answer_in_peft_as_they_are_served(tuned, tmp_path):
    for method in ("prompt_tuning", "prefix_tuning"):
        exported = export_run(
            tuned("llama", "chat", method), "adapter", tmp_path / method, silence()
        )
        assert exported.parity[0].same_text == 1.0


def test_gguf_of_a_model_tuned_on_four_bits(tuned, tmp_path):
    exported = export_run(tuned("llama", "chat", "qlora"), "gguf", tmp_path / "out", silence())
    assert exported.parity[0].passed and exported.parity[0].same_text == 1.0


def test_a_wrong_gguf_is_refused_and_nothing_left(tuned, tmp_path, monkeypatch):
    """Without the reordering of queries and keys the file loads and writes nonsense."""
    run = tuned("llama", "chat")
    monkeypatch.setattr(gguf_file, "interleave", lambda tensor, heads: tensor)
    with pytest.raises(Refusal, match="does not answer as trained"):
        export_run(run, "gguf", tmp_path / "out", silence())
    assert list(tmp_path.iterdir()) == []


def test_llama3_scaling_of_the_rotary_frequencies():
    """The same frequencies as transformers computes."""
    rope = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    }  # fmt: skip
    config = transformers.LlamaConfig(
        hidden_size=64, num_attention_heads=2, max_position_embeddings=256, rope_parameters=rope
    )
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500000.0 ** -(torch.arange(0, 32, 2, dtype=torch.float64) / 32)
    ours = plain / gguf_file.llama3_factors(32, 500000.0, rope).double()
    np.testing.assert_allclose(ours.numpy(), theirs.double().numpy(), rtol=1e-5)


def test_onnx_labels_and_probabilities(tuned, tmp_path):
    exported = export_run(tuned("bert", "classify", "full"), "onnx", tmp_path / "out", silence())
    parity = exported.parity[0]
    assert parity.checked_by == "onnxruntime" and parity.same_top == 1.0
    assert parity.max_logit_difference < 1e-3
    ours, theirs = parity.metrics["accuracy"]
    assert ours == theirs


@pytest.mark.parametrize("to", ["merged", "onnx"])
def test_a_model_that_embeds_keeps_its_pooling(tuned, tmp_path, to):
    exported = export_run(tuned("bert", "embed", "full"), to, tmp_path / "out", silence())
    assert exported.parity[0].passed and exported.parity[0].max_logit_difference < 1e-3
    pooling = json.loads((tmp_path / "out" / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"] is True
    assert (tmp_path / "out" / "modules.json").exists()


def test_ollama_folder(tuned, tmp_path):
    export_run(tuned("llama", "chat"), "ollama", tmp_path / "out", silence())
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert text.startswith("FROM ./model-f16.gguf\n")
    assert 'PARAMETER stop "<|eot_id|>"' in text
    assert "{{ .Content }}" in text and "<|begin_of_text|>" not in text


@pytest.mark.parametrize(
    ("base", "task", "method", "to", "says"),
    [
        ("bert", "classify", "full", "gguf", "not written here"),
        ("llama", "chat", "lora", "onnx", "is not an encoder"),
        ("qwen3", "chat", "full", "adapter", "there is no adapter; --to merged"),
        ("bert", "classify", "full", "vllm", "serves models that write text"),
        ("mistral", "generate", "lora", "gguf", "no sliding window of 12"),
        ("llama", "chat", "lora", "tape", "use one of adapter, merged"),
    ],
)
def test_forms_that_do_not_fit_are_refused(tuned, tmp_path, base, task, method, to, says):
    with pytest.raises((UserError, ModelError), match=says):
        export_run(tuned(base, task, method), to, tmp_path / "out", silence())
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tuned, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(RunError, match="exists already"):
        export_run(tuned("llama", "chat"), "merged", tmp_path / "out", silence())
    with pytest.raises(UserError, match="--precision q4"):
        export_run(tuned("llama", "chat"), "gguf", tmp_path / "new", silence(), precision="q4")


def test_the_card_tells_scores_data_licence_and_limits(tuned, tmp_path):
    run = tuned("bert", "classify")
    export_run(run, "adapter", tmp_path / "out", silence())
    text = (tmp_path / "out" / "README.md").read_text()
    report = json.loads((run / "report.json").read_text())
    low, high = report["results"][0]["metrics"]["accuracy"]["ci95"]
    assert f"| {low:.4f} to {high:.4f} |" in text
    assert "Rows: 3" in text and "Labels (3): account, card, delivery." in text
    assert "not stated in its files" in text and "## Limits" in text
    assert report["because"][0] in text
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A base\n")
    assert find_licence(tmp_path) == "apache-2.0"
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    assert find_licence(tmp_path) is None


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a model hub's HTTP as an upload needs; keeps what was committed."""

    files: ClassVar[dict] = {}
    created: ClassVar[list] = []

    def do_POST(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline().strip(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.split("?")[0]
        here = f"http://127.0.0.1:{self.server.server_port}"
        if path == "/api/repos/create":
            values = json.loads(body)
            self.created.append(values)
            self.reply({"url": f"{here}/me/tuned", "name": "me/tuned"})
        elif path.endswith("/preupload/main"):
            names = [item["path"] for item in json.loads(body)["files"]]
            modes = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            self.reply({"files": modes})
        elif path.endswith("/commit/main"):
            for line in body.decode().splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    value = item["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            commit = f"{here}/me/tuned/commit/{'a' * 40}"
            self.reply({"commitUrl": commit, "commitOid": "a" * 40, "success": True})
        else:
            self.reply({}, 200)

    def do_GET(self):
        self.reply({"sha": "a" * 40, "siblings": [], "id": "me/tuned"})

    def reply(self, value, status=200):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


def test_upload_to_a_hub(tuned, tmp_path):
    """The unmodified client against a local server; the files arrive whole."""
    run = tuned("bert", "classify")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = "from tunewright.cli.main import main; main()"
    command = [sys.executable, "-c", code, "export", str(run), "--to", "hub", "--repo", "me/tuned"]
    environment = {
        **os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": "hf_x",
        "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), "--json"],
        env=environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    server.shutdown()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["url"].endswith("a" * 40)
    assert Hub.created[0].get("visibility") == "private" or Hub.created[0].get("private") is True
    sent = Hub.files["adapter_model.safetensors"]
    assert sent == (run / "model" / "adapter_model.safetensors").read_bytes()
    assert Hub.files["README.md"].startswith(b"---\nbase_model")


def test_every_form_is_documented():
    assert set(EXPORTERS) == {"adapter", "merged", "gguf", "onnx", "ollama", "vllm", "hub"}
