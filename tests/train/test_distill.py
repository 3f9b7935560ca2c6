"""Distillation against its formula, packed and padded, and whole runs with local and served teachers."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
import transformers
from tests.model_zoo import make_tiny

from tunewright.config import make_recipe
from tunewright.data.batch import make_batch
from tunewright.data.render import Row
from tunewright.errors import ModelError, RecipeError
from tunewright.journal import silence
from tunewright.pipeline import train
from tunewright.train.distill import distilled

CPU = torch.device("cpu")


def make_model(seed, extra=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(
            vocab_size=64 + extra, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0,
        )  # fmt: skip
        return transformers.LlamaForCausalLM(config).eval()


def make_rows(count=4):
    dice = np.random.default_rng(4)
    rows = []
    for n in range(count):
        ids = dice.integers(1, 64, int(dice.integers(5, 9))).astype(np.int32)
        rows.append(Row(str(n), ids, (np.arange(ids.size) > 2).astype(np.float32)))
    return rows


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("extra", [0, 8])
def test_the_loss_is_the_formula(packed, extra):
    student, teacher = make_model(0), make_model(1, extra)
    total = 0.0
    for row in make_rows():
        ids = torch.tensor(row.input_ids[None].astype(np.int64))
        mine = student(ids).logits[0].detach() / 2.0
        wished = teacher(ids).logits[0].detach()[:, :64] / 2.0
        for at in range(2, row.input_ids.size - 1):
            p, q = wished[at].softmax(0), mine[at].softmax(0)
            hard = -(mine[at] * 2.0).log_softmax(0)[row.input_ids[at + 1]]
            total += float(0.3 * hard + 0.7 * 4.0 * (p * (p.log() - q.log())).sum())
    batch = make_batch(make_rows(), pad_id=0, device=CPU, packed=packed)
    found = distilled(student, batch, teacher=teacher, temperature=2.0, weight=0.7)
    assert abs(float(found.detach()) - total) < 1e-3 * total


def prompts(count=40, answered=True):
    rows = [{"prompt": f"where is my card number {n}"} for n in range(count)]
    return [{**row, "completion": "yes it is here"} for row in rows] if answered else rows


def live(tmp_path, teacher, rows, name="run", **distill):
    path = tmp_path / f"{name}.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    base = tmp_path / "student"
    if not base.exists():
        make_tiny("llama", base, scale=1.0)
    recipe = make_recipe({
        "objective": "distill", "task": "generate", "base_model": str(base),
        "data": {"train": str(path), "validation": 0.2, "test": 0.2},
        "distill": {"teacher": teacher, "max_new_tokens": 6, **distill},
        "adapter": {"method": "lora"},
        "training": {"num_threads": 1, "precision": "fp32", "max_steps": 6, "batch_size": 8},
        "evaluation": {"baselines": ["base"], "max_new_tokens": 6},
    })  # fmt: skip
    return train(recipe, tmp_path / name, silence()), tmp_path / name


def test_logits_of_a_local_teacher_are_learned(tmp_path):
    teacher = str(make_tiny("llama", tmp_path / "teacher", seed=3))
    report, run = live(tmp_path, teacher, prompts())
    assert {r.system for r in report.results} == {"tuned", "base", "teacher"}
    steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert not any("teacher" in reason and "better" in reason for reason in report.because[:1])


def test_a_teacher_of_other_tokens_teaches_by_its_answers(tmp_path):
    teacher = str(make_tiny("gpt2", tmp_path / "teacher", seed=3))
    _, run = live(tmp_path, teacher, prompts(answered=False))
    said = [json.loads(line) for line in (run / "teacher.jsonl").read_text().splitlines()]
    assert len(said) == 40 and all(line["answer"] for line in said)
    with pytest.raises(ModelError, match="distill.learn: answers"):
        live(tmp_path, teacher, prompts(), name="other", learn="logits")


class Hosted(BaseHTTPRequestHandler):
    """A server of one answer, busy at the first question."""

    asked: list = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        if len(self.asked) == 1:
            self.send_response(429)
            self.end_headers()
            return
        known = body["model"] == "big"
        reply = {"choices": [{"message": {"content": " the card is here "}}]}
        text = json.dumps(reply if known else {"error": {"message": "no such model"}}).encode()
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass


def test_a_served_teacher_is_asked_once_for_each_row(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hosted)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        Hosted.asked.clear()
        report, run = live(tmp_path, url, prompts(12, answered=False), model="big")
        assert len(Hosted.asked) == 13  # one was turned away
        assert Hosted.asked[0]["messages"][0]["role"] == "user"
        rows = [json.loads(x) for x in (run / "predictions.jsonl").read_text().splitlines()]
        theirs = [r for r in rows if r["system"] == "teacher"]
        assert theirs and all(r["prediction"] == "the card is here" for r in theirs)
        assert report.results
        with pytest.raises(ModelError, match="no such model"):
            live(tmp_path, url, prompts(12, answered=False), name="other", model="small")
    finally:
        server.shutdown()


def test_what_is_missing_is_told():
    for values, told in (
        ({"objective": "distill"}, "distill.teacher"),
        ({"objective": "distill", "distill": {"teacher": "http://h/v1"}}, "distill.model"),
        ({"objective": "distill", "distill": {"teacher": "http://h/v1", "model": "m",
                                              "learn": "logits"}}, "not logits"),
        ({"objective": "distill", "distill": {"teachr": "x"}}, "did you mean"),
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=told):
            make_recipe(values)
