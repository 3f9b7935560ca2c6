"""The reward model against its formula, TRL's numbers, and whole runs on encoder and decoder."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tests.model_zoo import make_tiny

from tunewright.asking import evaluate
from tunewright.config import make_recipe
from tunewright.data.batch import make_batch
from tunewright.data.render import Row
from tunewright.errors import ModelError, RecipeError
from tunewright.hosting import find_served
from tunewright.journal import silence
from tunewright.pipeline import train
from tunewright.train.reward import reward_model

CPU = torch.device("cpu")
FIGURES = Path(__file__).parents[2] / "bench" / "results" / "rewards_trl.json"


def make_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_labels=1,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0,
        )  # fmt: skip
        return transformers.LlamaForSequenceClassification(config).eval()


def make_rows(batch):
    """Rows of a batch whose first half holds the better answers."""
    ids = [np.array(row, dtype=np.int32) for row in batch]
    half = len(ids) // 2
    return [
        Row(str(n), a, target=0, other=Row(f"{n}-worse", b, target=0))
        for n, (a, b) in enumerate(zip(ids[:half], ids[half:], strict=True))
    ]


def test_the_loss_is_the_formula():
    dice = np.random.default_rng(2)
    batch = [dice.integers(1, 64, int(dice.integers(3, 8))) for _ in range(8)]
    model = make_model()
    rewards = [float(model(torch.tensor(r[None])).logits[0, 0].detach()) for r in batch]
    plain = centred = 0.0
    for better, worse in zip(rewards[:4], rewards[4:], strict=True):
        plain += math.log1p(math.exp(worse - better))
        centred += math.log1p(math.exp(worse - better)) + 0.1 * (better + worse) ** 2
    rows = make_batch(make_rows(batch), pad_id=0, device=CPU)
    assert math.isclose(float(reward_model(model, rows).detach()), plain, rel_tol=1e-5)
    assert math.isclose(
        float(reward_model(model, rows, center=0.1).detach()), centred, rel_tol=1e-5
    )


@pytest.mark.parametrize("name", ["plain", "centred"])
def test_losses_equal_trls_step_by_step(name):
    known = json.loads(FIGURES.read_text())[name]
    model = make_model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=known["rate"])
    for wanted, batch in zip(known["losses"], known["batches"], strict=True):
        rows = make_batch(make_rows(batch), pad_id=0, device=CPU)
        loss = reward_model(model, rows, center=known["center"]) / (len(batch) // 2)
        assert abs(float(loss.detach()) - wanted) < 1e-4
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def pairs(count=60):
    dice = random.Random(3)
    rows = []
    for n in range(count):
        thing = dice.choice(["card", "parcel", "story", "dog"])
        rows.append({"prompt": f"where is my {thing} number {n}",
                     "chosen": f"the {thing} is here yes {dice.randrange(10)}",
                     "rejected": f"no no {thing} maybe {dice.randrange(10)}"})  # fmt: skip
    return rows


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_run_learns_and_is_judged_on_pairs(kind, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, pairs())), encoding="utf-8")
    base = make_tiny(kind, tmp_path / kind, scale=1.0)
    recipe = make_recipe({
        "objective": "reward", "task": "generate", "base_model": str(base),
        "data": {"train": str(path), "validation": 0.2, "test": 0.3},
        "training": {"num_threads": 1, "precision": "fp32", "max_steps": 25, "batch_size": 8,
                     "learning_rate": 3e-3},
    })  # fmt: skip
    report = train(recipe, tmp_path / "run", silence())
    systems = {r.system: r.metrics["accuracy"].value for r in report.results}
    assert set(systems) == {"tuned", "shorter", "longer", *(["base"] if kind == "llama" else [])}
    assert systems["tuned"] > 0.9
    again = evaluate(str(tmp_path / "run"), str(path), silence())
    assert again.results[0].metrics["accuracy"].value > 0.9
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "run" / "model"
    )
    assert loaded.config.num_labels == 1 and loaded.config.id2label == {0: "reward"}
    with pytest.raises(ModelError, match="not served"):
        find_served([str(tmp_path / "run")])


def test_options_of_other_objectives_are_refused():
    with pytest.raises(RecipeError, match=r"preference.center is for objective reward"):
        make_recipe({"objective": "dpo", "preference": {"center": 0.1}})
    with pytest.raises(RecipeError, match=r"preference.beta is for objective dpo"):
        make_recipe({"objective": "reward", "preference": {"beta": 0.1}})
