"""Objectives on compared answers: their formulas, their independence of cutting, their rows."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tunewright.data.batch import make_batch
from tunewright.data.render import Row
from tunewright.train.objectives import target_losses
from tunewright.train.preferences import (
    NEED_REFERENCE,
    PREFERENCES,
    add_references,
    answer_logps,
    make_preference,
)

CPU = torch.device("cpu")
FIGURES = Path(__file__).parents[2] / "bench" / "results" / "preferences_trl.json"


def make_model(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0,
        )  # fmt: skip
        return transformers.LlamaForCausalLM(config)


def answer_row(name, prompt, answer, weight=1.0):
    ids = np.array([*prompt, *answer], dtype=np.int32)
    weights = np.array([0] * len(prompt) + [1] * len(answer), dtype=np.float32)
    return Row(name, ids, weights, weight=weight)


def make_pairs(count=8, seed=3, single=False):
    """Prompts of 4 tokens, answers of 3 to 6; pairs, or single answers."""
    dice = np.random.default_rng(seed)
    rows, answers = [], []
    for _ in range(count):
        prompt = dice.integers(1, 64, 4).tolist()
        better, worse = (dice.integers(1, 64, int(dice.integers(3, 7))).tolist() for _ in "ab")
        answers.append((prompt, better, worse))
    for number, (prompt, better, worse) in enumerate(answers):
        if single:
            other = answers[number - 1][1]
            row = answer_row(f"r{number}", prompt, better)
            rows.append(replace(row, liked=number % 2 == 0, other=answer_row("x", prompt, other)))
        else:
            row = answer_row(f"r{number}", prompt, better)
            rows.append(replace(row, other=answer_row("x", prompt, worse)))
    return rows


def batch_of(rows, **keys):
    return make_batch(rows, pad_id=0, device=CPU, **keys)


def test_log_probabilities_belong_to_their_answers():
    model, rows = make_model(), make_pairs(3)
    logps, counts = answer_logps(model, batch_of(rows))
    flat = [replace(r, other=None) for r in rows] + [r.other for r in rows]
    for number, row in enumerate(flat):
        alone = -target_losses(model, batch_of([row])).sum()
        assert math.isclose(float(logps[number]), float(alone), rel_tol=1e-5)
        assert counts[number] == row.target_weights.sum()


@pytest.mark.parametrize("name", PREFERENCES)
def test_packed_rows_give_the_same_loss_and_weights_count(name):
    model = make_model()
    rows = make_pairs(single=name == "kto")
    rows = add_references(model, rows, 0, CPU)
    objective = make_preference(name, {})
    plain = objective(model, batch_of(rows))
    assert torch.isfinite(plain)
    torch.testing.assert_close(objective(model, batch_of(rows, packed=True)), plain)
    if name not in ("orpo", "kto"):  # their means are over the micro-batch
        parts = sum(objective(model, batch_of(rows[i : i + 3])) for i in range(0, 8, 3))
        torch.testing.assert_close(parts, plain)
    doubled = objective(model, batch_of([replace(r, weight=2.0) for r in rows]))
    torch.testing.assert_close(doubled, 2 * plain)
    assert rows[0].target_weight == 1.0


def test_where_nothing_was_learned_the_losses_are_known():
    model = make_model()
    rows = add_references(model, make_pairs(), 0, CPU)
    batch = batch_of(rows)
    assert math.isclose(float(PREFERENCES["dpo"](model, batch)), 8 * math.log(2), rel_tol=1e-5)
    wanted = 8 * (1 / (2 * 0.1)) ** 2
    assert math.isclose(float(PREFERENCES["ipo"](model, batch)), wanted, rel_tol=1e-4)
    singles = batch_of(add_references(model, make_pairs(single=True), 0, CPU))
    assert math.isclose(float(PREFERENCES["kto"](model, singles)), 8 * 0.5, rel_tol=1e-4)


@pytest.mark.parametrize("name", PREFERENCES)
def test_a_step_moves_towards_the_better_answer(name):
    model = make_model()
    rows = make_pairs(single=name == "kto")
    if name == "kto":
        rows = [replace(r, liked=True) for r in rows]
    rows = add_references(model, rows, 0, CPU) if name in NEED_REFERENCE else rows
    objective = make_preference(name, {})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)

    def margin():
        with torch.no_grad():
            first, second = answer_logps(model, batch_of(rows))[0].chunk(2)
        return float((first - (0 if name == "kto" else second)).mean())

    before = margin()
    for _ in range(5):
        optimizer.zero_grad()
        (objective(model, batch_of(rows)) / 8).backward()
        optimizer.step()
    assert margin() > before


@pytest.mark.parametrize("name", ["dpo", "ipo", "orpo", "simpo", "kto"])
def test_fifty_steps_equal_trl(name):
    """TRL's losses on the same batches, recorded by bench/preferences.py."""
    if not FIGURES.exists():
        pytest.skip("no recorded figures")
    theirs = json.loads(FIGURES.read_text())["losses"][name]
    ours = fifty_steps(name)
    assert len(theirs) == 50
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= 1e-4


def fifty_steps(name):
    """Losses of 50 SGD steps over the batches that TRL made of the rows."""
    model = make_model()
    known = json.loads(FIGURES.read_text())
    batches = [rows_of(name, part) for part in known["batches"][name]]
    if name in NEED_REFERENCE:
        batches = [add_references(model, rows, 0, CPU) for rows in batches]
    objective = make_preference(name, {"beta": 0.1})
    optimizer = torch.optim.SGD(model.parameters(), lr=known["rates"][name])
    losses = []
    for step in range(50):
        rows = batches[step % len(batches)]
        loss = objective(model, batch_of(rows)) / len(rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def rows_of(name, batch):
    """TRL's tensors as our rows."""

    def row(ids, mask, answer):
        kept = np.array(mask, dtype=bool)
        ids = np.array(ids, dtype=np.int32)[kept]
        return Row("x", ids, np.array(answer, dtype=np.float32)[kept])

    if name in ("orpo", "simpo"):
        better, worse = (
            [
                row(ids, mask, [float(label != -100) for label in labels])
                for ids, mask, labels in zip(
                    batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"],
                    batch[f"{side}_labels"], strict=True,
                )
            ]
            for side in ("chosen", "rejected")
        )  # fmt: skip
        if name == "simpo":
            return [replace(a, other=b) for a, b in zip(better, worse, strict=True)]
        halves = [np.where(r.target_weights > 0, 1.0, 0.5).astype(np.float32) for r in better]
        better = [replace(r, target_weights=half) for r, half in zip(better, halves, strict=True)]
        return [replace(a, other=b) for a, b in zip(better, worse, strict=True)]
    keys = ("input_ids", "attention_mask", "completion_mask")
    own = [row(*parts) for parts in zip(*(batch[key] for key in keys), strict=True)]
    if name == "kto":
        drift = [row(*p) for p in zip(*(batch[f"KL_{key}"] for key in keys), strict=True)]
        return [
            replace(a, other=b, liked=bool(liked))
            for a, b, liked in zip(own, drift, batch["label"], strict=True)
        ]
    half = len(own) // 2
    return [replace(a, other=b) for a, b in zip(own[:half], own[half:], strict=True)]
