"""Graders, the sandbox, the policy loss against its formula and TRL's, and whole runs that resume."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tests.model_zoo import make_tiny

from tunewright.aims import GraderSection
from tunewright.config import make_recipe
from tunewright.data.batch import make_batch
from tunewright.data.render import Row
from tunewright.errors import RecipeError
from tunewright.evaluate.graders import GRADERS
from tunewright.evaluate.sandbox import grade_by_code
from tunewright.grading import make_graded
from tunewright.journal import silence
from tunewright.pipeline import train
from tunewright.records import Example
from tunewright.train.grpo import advantages, grpo
from tunewright.train.objectives import target_losses

CPU = torch.device("cpu")
FIGURES = Path(__file__).parents[2] / "bench" / "results" / "grpo_trl.json"
ROW = Example("a", "rows.jsonl:1", "what?", "Yes it is")


def grade(answer, **how):
    section = GraderSection(**how)
    return GRADERS[section.type](section)([ROW], [answer])[0]


def test_text_graders():
    assert grade("Yes it is ", type="string_check") == 1.0
    assert grade("yes it is", type="string_check") == 0.0
    assert grade("yes it is", type="string_check", ignore_case=True) == 1.0
    assert grade("so: Yes it is!", type="string_check", operation="contains") == 1.0
    assert grade("12 apples", type="string_check", operation="matches", reference=r"^\d+") == 1.0
    assert grade("Yes it is", type="text_similarity") == 1.0
    assert 0 < grade("Yes it was", type="text_similarity", measure="chrf") < 1
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    for answer, wanted in (('{"a": 1}', 1.0), ('{"a": "x"}', 0.5), ("{a: 1}", 0.0)):
        assert grade(answer, type="json_schema", json_schema=schema) == wanted


def test_code_is_run_with_limits():
    code = "def grade(answer, row):\n    return len(answer) / 10 + (row['output'] == 'Yes it is')"
    assert grade("abcde", type="python", code=code) == 1.5
    items = [(text, {}) for text in ("ok", "slow", "die", "raise", "ok", "net", "big", "file")]
    code = """
import os, socket, time
def grade(answer, row):
    if answer == "slow":
        time.sleep(60)
    if answer == "die":
        os._exit(9)
    if answer == "raise":
        raise ValueError(answer)
    if answer == "net":
        try:
            socket.create_connection(("127.0.0.1", %d), timeout=2)
            return 0.75
        except OSError:
            return 0.25
    if answer == "big":
        return len(bytearray(1 << 31))
    if answer == "file":
        return float(os.listdir(".") == [] and "HOME" not in os.environ)
    return 1.0
"""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        made = code % server.getsockname()[1]
        scores = grade_by_code(made, items, timeout_s=0.5, memory_mb=512)
    assert scores[:5] == [1.0, 0.0, 0.0, 0.0, 1.0] and scores[6:] == [0.0, 1.0]
    assert scores[5] in (0.25, 0.75)  # whether a process may leave the network is the system's say


def test_what_graders_cannot_use_is_told():
    for how, told in (
        ({"type": "string_check", "operation": "matches", "reference": "("}, "regular expression"),
        ({"type": "json_schema", "json_schema": {"type": "nothing"}}, "is not valid"),
        ({"type": "json_schema", "json_schema": "none.json"}, "cannot be read"),
        ({"type": "python", "code": "def grade(:\n pass"}, "SyntaxError"),
        ({"type": "python", "code": "grader.py"}, "cannot be read"),
    ):
        with pytest.raises(RecipeError, match=told):
            grade("x", **how)
    with pytest.raises(RecipeError, match="has none"):
        GRADERS["string_check"](GraderSection(type="string_check"))(
            [replace(ROW, output=None)], [""]
        )
    with pytest.raises(RecipeError, match="needs graders"):
        make_recipe({"objective": "grpo"})
    with pytest.raises(RecipeError, match="needs code"):
        make_recipe({"objective": "grpo", "graders": [{"type": "python"}]})
    with pytest.raises(RecipeError, match="two are called"):
        make_graded([GraderSection(type="string_check")] * 2, None)


def make_model(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0,
        )  # fmt: skip
        return transformers.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("packed", [False, True])
def test_the_loss_is_the_formula(packed):
    model, dice = make_model(), np.random.default_rng(5)
    rows, wanted = [], 0.0
    for n, gain in enumerate((1.5, -0.5, -1.0)):
        ids = dice.integers(1, 64, 6 + n).astype(np.int32)
        weights = (np.arange(ids.size) > 3).astype(np.float32)
        bare = Row(str(n), ids, weights)
        now = -target_losses(model, make_batch([bare], pad_id=0, device=CPU)).detach().numpy()
        before = (now + dice.normal(0, 0.3, now.size)).astype(np.float32)
        start = (now + dice.normal(0, 0.3, now.size)).astype(np.float32)
        rows.append(replace(bare, advantage=gain, before=before, start=start))
        for a, b, c in zip(now, before, start, strict=True):
            ratio = math.exp(a - b)
            kept = min(ratio * gain, min(max(ratio, 0.8), 1.2) * gain)
            wanted += -kept + 0.1 * (math.exp(c - a) - (c - a) - 1)
    batch = make_batch(rows, pad_id=0, device=CPU, packed=packed)
    found = grpo(model, batch, clip=0.2, beta=0.1)
    assert math.isclose(float(found.detach()), wanted, rel_tol=1e-3)


def test_advantages_compare_with_the_group():
    found = advantages(torch.tensor([[1.0, 0.0], [2.0, 2.0]]))
    assert torch.allclose(found, torch.tensor([[0.7070, -0.7070], [0.0, 0.0]]), atol=1e-3)


def test_losses_equal_trls_on_the_same_answers():
    known = json.loads(FIGURES.read_text())
    for case in known["cases"]:
        model, rows = make_model(), []
        for number, answer in enumerate(case["answers"]):
            ids = np.array([*answer["prompt"], *answer["completion"]], dtype=np.int32)
            weights = np.zeros(ids.size, dtype=np.float32)
            share = 1.0 if case["loss_type"] == "bnpo" else 1.0 / len(answer["completion"])
            weights[len(answer["prompt"]) :] = share
            row = Row(str(number), ids, weights, advantage=answer["advantage"])
            row = replace(row, before=np.array(answer["old"], dtype=np.float32))
            rows.append(replace(row, start=np.array(answer["ref"], dtype=np.float32)))
        total = sum(row.target_weight for row in rows)
        batch = make_batch(rows, pad_id=0, device=CPU)
        loss = grpo(model, batch, clip=case["epsilon"], beta=case["beta"]) / total
        assert abs(float(loss.detach()) - case["loss"]) < 1e-4, case["loss_type"]


CODE = """
def grade(answer, row):
    return answer.count("e") / max(1, len(answer))
"""


def live(tmp_path, name="run", steps=4, resume=False, **more):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"where is my card number {n}"} for n in range(30)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    base = tmp_path / "base"
    if not base.exists():
        make_tiny("llama", base, scale=1.0)
    recipe = make_recipe({
        "objective": "grpo", "task": "generate", "base_model": str(base),
        "data": {"train": str(path), "validation": 0.2, "test": 0.4},
        "graders": [{"type": "python", "code": CODE}],
        "adapter": more.pop("adapter", {"method": "lora"}),
        "grpo": {"num_completions": 8, **more.pop("grpo", {})},
        "training": {"num_threads": 1, "precision": "fp32", "max_steps": steps, "batch_size": 4,
                     "learning_rate": 1e-2, "save_steps": 2, "num_epochs": 40, "eval_steps": 10,
                     **more.pop("training", {})},
        "evaluation": {"baselines": ["base"], "max_new_tokens": 8}, **more,
    })  # fmt: skip
    return train(recipe, tmp_path / name, silence(), resume=resume), tmp_path / name


@pytest.mark.slow
def test_a_run_is_judged_by_its_reward_and_resumes_to_the_same_bits(tmp_path):
    report, whole = live(tmp_path, grpo={"updates": 2})
    assert report.primary_metric == "reward"
    assert {r.system for r in report.results} == {"tuned", "base"}
    lines = [json.loads(x) for x in (whole / "rollouts.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"reward", "python", "deviation", "answer_tokens"} <= lines[0].keys()
    _, again = live(tmp_path, "again", grpo={"updates": 2})
    for path in ("report.json", "report.html", "report.md", "predictions.jsonl"):
        (again / path).unlink()
    newest = again / "checkpoints" / "step-00000004"
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    live(tmp_path, "again", grpo={"updates": 2}, resume=True)
    for name, tensor in load_file(whole / "model" / "adapter_model.safetensors").items():
        found = load_file(again / "model" / "adapter_model.safetensors")[name]
        assert torch.equal(found, tensor)
    assert (again / "rollouts.jsonl").read_text() == (whole / "rollouts.jsonl").read_text()


def test_it_is_held_to_where_it_began_on_four_bits_too(tmp_path):
    """At the first step nothing was learned, so the divergence is nothing: the same model twice."""
    pytest.importorskip("bitsandbytes")
    losses = []
    for beta in (0.0, 5.0):
        _, run = live(tmp_path, f"run-{beta}", steps=1, grpo={"beta": beta},
                      adapter={"method": "qlora", "new_tokens": ["<ticket>"]})  # fmt: skip
        losses.append(json.loads((run / "steps.jsonl").read_text().splitlines()[0])["loss"])
    assert abs(losses[1] - losses[0]) < 1e-4


@pytest.mark.slow
def test_a_verifiable_task_is_learned(tmp_path):
    report, _ = live(tmp_path, steps=60, grpo={"beta": 0.0}, adapter={"method": "full"})
    against = next(c for c in report.comparisons if c.b == "base")
    assert against.verdict == "better"
