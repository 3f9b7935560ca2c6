"""Every objective, whole runs: resumed to the last bit, read by plain PEFT, merged.

What each one minimises is held against formulas and TRL in tests/train/.
"""

import json
import shutil

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tests.model_zoo import make_tiny

from tunewright.config import make_recipe
from tunewright.journal import silence
from tunewright.model.load import load_base
from tunewright.model.weights import load_tuned, merged_state
from tunewright.pipeline import train
from tunewright.sections import COMPARING

THINGS = ["card", "parcel", "story", "dog", "coffee"]
OBJECTIVES = (
    "supervised", *COMPARING, "distill", "distill-answers", "grpo", "embed", "embed-triplet",
)  # fmt: skip
FAST = ("kto", "reward", "distill", "embed")
"""One of each kind of rows and state; the others run with the slow tests."""
CLASSES = {
    "reward": transformers.AutoModelForSequenceClassification,
    "embed": transformers.AutoModel,
}
FINISHED = ("report.json", "report.html", "report.md", "predictions.jsonl")


def cases():
    marks = {name: () if name in FAST else (pytest.mark.slow,) for name in OBJECTIVES}
    return [pytest.param(name, id=name, marks=marks[name]) for name in OBJECTIVES]


def rows_of(objective):
    for n in range(40):
        thing = THINGS[n % 5]
        ask, right = f"where is my {thing} number {n}", f"the {thing} is here {n}"
        wrong = f"no {thing} and no {THINGS[(n + 2) % 5]}"
        if objective.startswith("embed"):
            yield {"anchor": ask, "positive": right, "negative": wrong}
        elif objective in COMPARING:
            yield {"prompt": ask, "chosen": right, "rejected": wrong}
        else:
            yield {"prompt": ask, "completion": right}


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """(student, teacher): two tiny Llamas of the same tokens."""
    place = tmp_path_factory.mktemp("objectives")
    return [
        str(make_tiny("llama", place / name, seed=seed, scale=1.0))
        for seed, name in enumerate(("student", "teacher"))
    ]


def recipe_of(objective, models, folder):
    """Six steps with dropout in the adapter, a checkpoint after every second one."""
    data = folder / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows_of(objective))), encoding="utf-8")
    name, _, more = objective.partition("-")
    values = {
        "task": "generate", "objective": name, "base_model": models[0],
        "data": {"train": str(data), "validation": 0.2, "test": 0.2},
        "adapter": {"method": "lora", "r": 4, "dropout": 0.1},
        "training": {"num_threads": 1, "precision": "fp32", "max_steps": 6, "batch_size": 8,
                     "num_epochs": 20, "learning_rate": 1e-2, "save_steps": 2, "eval_steps": 3},
        "evaluation": {"baselines": [], "max_new_tokens": 6},
    }  # fmt: skip
    if name == "distill":
        learn = more or "logits"
        values["distill"] = {"teacher": models[1], "learn": learn, "max_new_tokens": 6}
    elif name == "grpo":
        values["graders"] = [{"type": "text_similarity", "measure": "chrf"}]
        values["grpo"] = {"num_completions": 4}
    elif name == "embed":
        values |= {"task": "embed", "objective": "supervised"}
        values["embedding"] = {"loss": more or "in_batch"}
    return make_recipe(values)


def undo_last_steps(run, copy):
    """A copy of a finished run as it was when it died between its last two checkpoints."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "model")
    points = sorted((copy / "checkpoints").glob("step-*"))
    assert [int(p.name[5:]) for p in points][-2:] == [4, 6]
    shutil.rmtree(points[-1])
    for name in FINISHED:
        (copy / name).unlink()
    return copy


def outputs(model, ids):
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return found.logits if "logits" in found else found.last_hidden_state


@pytest.mark.parametrize("objective", cases())
def test_objective(objective, models, tmp_path):
    recipe = recipe_of(objective, models, tmp_path)
    train(recipe, tmp_path / "whole", silence())
    steps = [json.loads(x) for x in (tmp_path / "whole" / "steps.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5, 6]

    again = undo_last_steps(tmp_path / "whole", tmp_path / "again")
    train(recipe, again, silence(), resume=True)
    wanted = load_file(tmp_path / "whole" / "model" / "adapter_model.safetensors")
    found = load_file(again / "model" / "adapter_model.safetensors")
    assert wanted.keys() == found.keys() and any(t.any() for n, t in wanted.items() if "_B" in n)
    for name, tensor in wanted.items():
        assert torch.equal(tensor, found[name]), name
    learned = [[json.loads(x)["loss"] for x in (run / "steps.jsonl").read_text().splitlines()]
               for run in (tmp_path / "whole", again)]  # fmt: skip
    assert learned[0] == learned[1]

    ids = torch.arange(30, 60).view(3, 10)
    loaded = load_tuned(tmp_path / "whole" / "model")
    ours = outputs(loaded.model, ids)
    kind = CLASSES.get(objective.partition("-")[0], transformers.AutoModelForCausalLM)
    more = (
        {"num_labels": 1, "pad_token_id": loaded.tokenizer.pad_token_id}
        if objective == "reward"
        else {}
    )
    plain = kind.from_pretrained(models[0], dtype=torch.float32, **more)
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "whole" / "model").eval()
    torch.testing.assert_close(outputs(theirs, ids), ours, rtol=1e-4, atol=1e-4)

    task = "reward" if objective == "reward" else recipe.task
    flat = load_base(models[0], task=task).model
    flat.load_state_dict(merged_state(loaded.model), strict=True)
    assert float((outputs(flat, ids) - ours).abs().max()) < 1e-3
