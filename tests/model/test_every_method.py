"""Every method: trains, resumes to the last bit, saves, reloads, loads in plain PEFT, merges."""

import dataclasses
import json
from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
import transformers

from model_zoo import DECODERS
from tunewright.data.batch import make_batch
from tunewright.data.render import Row
from tunewright.errors import ModelError
from tunewright.journal import Journal
from tunewright.methods import METHODS
from tunewright.model.adapters.table import attach, trainable_parameters
from tunewright.model.generate import generate_answers, target_logits
from tunewright.model.load import add_tokens, load_base
from tunewright.model.weights import load_tuned, merged_state, save_tuned
from tunewright.sections import TrainingSection
from tunewright.train.activations import start_from_activations
from tunewright.train.loop import Plan, fit
from tunewright.train.objectives import OBJECTIVES, with_penalty
from tunewright.train.optimize import Rates

# What needs a quantised base has tests of its own.
NAMES = [n for n, item in METHODS.items() if item.quantization == "none"]
# A tiny random model: small ranks, rates at which sixteen steps show.
SMALL = {
    "adalora": ({"r": 6}, {"final_r": 3}),
    "vera": ({"r": 16}, {}),
    "freeze": ({}, {"train_layers": 1}),
    "prompt_tuning": ({}, {"num_virtual_tokens": 4}),
    "prefix_tuning": ({}, {"num_virtual_tokens": 4}),
    "pissa": ({"r": 4}, {}),
}
RATES = {"full": 1e-3, "freeze": 3e-3, "prompt_tuning": 0.3, "prefix_tuning": 0.3, "vera": 0.1,
         "ia3": 0.1, "ln_tuning": 0.1, "lokr": 0.03, "adalora": 0.05}  # fmt: skip


def start(folder, method):
    base = load_base(str(folder), task="generate")
    shared = {"r": 4} if "r" in METHODS[method].takes else {}
    more, options = SMALL.get(method, ({}, {}))
    tuned = attach(base, method, seed=3, options=options, **{**shared, **more})
    if method == "eva":
        start_from_activations(tuned, METHODS["eva"].options(), make_rows(), 0, 3)
    return tuned


def make_rows():
    """Each answer repeats the first token of the prompt: easy to learn to some degree."""
    dice = np.random.default_rng(5)
    rows = []
    for number in range(16):
        ids = dice.integers(20, 300, 8).astype(np.int32)
        ids[4:] = ids[0]
        weights = np.array([0, 0, 0, 0, 1, 1, 1, 1], dtype=np.float32)
        rows.append(Row(f"r{number}", ids, weights))
    return rows


def train(base, folder, *, rate, stop_after=None, resume=False, **more):
    """16 steps of 8 rows with an evaluation in between; stop_after: as if killed there.

    more: keys of the recipe's training section.
    """
    rows, losses = make_rows(), []
    plan = Plan(
        batch_size=8, max_batch_tokens=40, num_epochs=8.0, eval_steps=6, rates=Rates(rate, rate),
        head_names=frozenset(), pad_id=0,
        rate_ratios=dict.fromkeys(base.fast_names, base.rate_ratio), companion=base.companion,
    )  # fmt: skip

    def evaluate():
        batch = make_batch(rows[:4], pad_id=0, device=torch.device("cpu"))
        with torch.no_grad():
            loss = float(OBJECTIVES["generate"](base.model, batch)) / 16
        return -loss, loss, {"loss": loss}

    def log(step):
        losses.append(step.loss)
        if stop_after is not None and step.step == stop_after:
            raise KeyboardInterrupt

    objective = OBJECTIVES["generate"]
    if base.companion is not None:
        objective = with_penalty(objective, base.companion.penalty)
    fitted = fit(
        base.model, trainable_parameters(base.model), rows, plan,
        TrainingSection(save_steps=5, early_stopping_patience=None, warmup_ratio=0.0, **more),
        objective=objective, evaluate=evaluate, checkpoints=folder, log_step=log,
        log_evaluation=lambda e: None, forget_after=lambda s: None, journal=Journal(),
        resume=resume,
    )  # fmt: skip
    return fitted, losses


def logits(base):
    ids = torch.arange(30, 60).view(3, 10)
    mask = torch.ones(3, 10, dtype=torch.bool)
    with torch.no_grad():
        return target_logits(base.model, {"input_ids": ids}, mask)


@pytest.mark.parametrize("method", NAMES)
def test_method(tiny, tmp_path, method):
    folder = tiny("llama")
    rate = RATES.get(method, 1e-2)
    tuned = start(folder, method)
    fitted, losses = train(tuned, tmp_path / "a", rate=rate)
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3]), losses

    # Killed after step 7 and resumed: the very same weights.
    broken = start(folder, method)
    with pytest.raises(KeyboardInterrupt):
        train(broken, tmp_path / "b", rate=rate, stop_after=7)
    again = start(folder, method)
    resumed, _ = train(again, tmp_path / "b", rate=rate, resume=True)
    assert resumed.weights.keys() == fitted.weights.keys()
    for name, tensor in fitted.weights.items():
        assert torch.equal(tensor, resumed.weights[name]), name

    save_tuned(tuned, tmp_path / "model", state=fitted.weights)
    before = logits(tuned)
    loaded = load_tuned(tmp_path / "model")
    close = {"rtol": 1e-4, "atol": 2e-4}
    torch.testing.assert_close(logits(loaded), before, **close)
    if METHODS[method].weights:
        assert loaded.adapter == "full"
        return
    assert loaded.adapter == method

    ids = torch.arange(30, 60).view(3, 10)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    elsewhere = peft.PeftModel.from_pretrained(plain, tmp_path / "model").eval()
    with torch.no_grad():
        theirs = elsewhere(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    theirs = theirs[:, -10:].flatten(0, 1)
    torch.testing.assert_close(theirs, before, **close)
    prompts = [[40, 41, 42, 43], [50, 51]]
    answers = generate_answers(loaded, prompts, max_new_tokens=5)
    assert [list(a.ids) for a in answers] == [
        greedy(elsewhere, ids, len(a.ids)) for ids, a in zip(prompts, answers, strict=True)
    ]

    if METHODS[method].mergeable:  # another run may go on from here
        torch.testing.assert_close(
            logits(load_base(str(tmp_path / "model"), task="generate")),
            before,
            rtol=1e-3,
            atol=1e-3,
        )
    if not METHODS[method].mergeable:
        with pytest.raises(ModelError, match="cannot be merged into weights, so nothing can go on"):
            load_base(str(tmp_path / "model"), task="generate")
        with pytest.raises(ModelError, match="cannot be folded"):
            merged_state(tuned.model, fitted.weights)
        return
    merged = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    missing, unexpected = merged.load_state_dict(merged_state(tuned.model, fitted.weights), False)
    assert not unexpected and all("lm_head" in name for name in missing)
    with torch.no_grad():
        flat = merged(input_ids=ids).logits.flatten(0, 1)
    assert float((flat - before).abs().max()) < 1e-3
    assert torch.equal(flat.argmax(-1), before.argmax(-1))


def greedy(model, ids, count):
    """The likeliest next token, `count` times, by the model's own forward pass."""
    written = list(ids)
    for _ in range(count):
        row = torch.tensor([written])
        with torch.no_grad():
            found = model(input_ids=row, attention_mask=torch.ones_like(row)).logits
        written.append(int(found[0, -1].argmax()))
    return written[len(ids) :]


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_prompts_are_seen_when_it_writes(tiny, kind, method):
    """Our batched decoding with what stands before the input equals PEFT's own forward."""
    base = load_base(str(tiny(kind)), task="generate")
    if method == "prefix_tuning" and kind in ("gemma3_text", "mistral"):
        with pytest.raises(ModelError, match="has a sliding window; use prompt_tuning"):
            attach(base, method)
        return
    tuned = attach(base, method, seed=5, options={"num_virtual_tokens": 3})
    with torch.no_grad():
        for _, parameter in trainable_parameters(tuned.model):
            parameter.copy_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
            )
    prompts = [[40, 41, 42, 43], [50, 51], [60, 61, 62]]
    ours = generate_answers(tuned, prompts, max_new_tokens=8)
    for ids, answer in zip(prompts, ours, strict=True):
        assert list(answer.ids) == greedy(tuned.model, ids, len(answer.ids))


def test_quantised_bases_are_refused_where_a_method_cannot_sit_on_them(tiny):
    base = replace(load_base(str(tiny("llama")), task="generate"), quantization="nf4")
    with pytest.raises(ModelError, match="vera does not train on a base in nf4; use one of lora"):
        attach(base, "vera")


def test_methods_refuse_models_that_they_cannot_serve(tiny):
    with pytest.raises(ModelError, match="prompt_tuning is for decoders .* use lora"):
        attach(load_base(str(tiny("bert")), task="classify", labels=("a", "b")), "prompt_tuning")
    with pytest.raises(ModelError, match="has 2 layers, so give 1 to 2"):
        attach(load_base(str(tiny("llama")), task="generate"), "freeze",
               options={"train_layers": 5})  # fmt: skip


def test_ranks_that_cannot_be_are_told(tiny):
    def attached(method, **keys):
        return attach(load_base(str(tiny("llama")), task="generate"), method, **keys)

    config = attached("adalora", r=8).model.peft_config["default"]  # nothing said of the end
    assert (config.init_r, config.target_r) == (8, 5)
    with pytest.raises(ModelError, match="r is 4 and final_r 9; raise adapter.r"):
        attached("adalora", r=4, options={"final_r": 9})
    for method in ("pissa", "eva"):
        with pytest.raises(ModelError, match="is 4000, but .* use at most 16"):
            attached(method, r=4000)
    packed = replace(load_base(str(tiny("llama")), task="generate"), quantization="nf4")
    with pytest.raises(ModelError, match="pissa starts from whole weights"):
        attach(packed, "qlora", options={"init": "pissa"})


def test_patterns_choose_layers(tiny):
    def adapted(**keys):
        base = attach(load_base(str(tiny("llama")), task="generate"), "lora", r=2, **keys)
        names = [n for n, _ in trainable_parameters(base.model) if ".lora_A." in n]
        return {n.split("layers.")[1].split(".lora_A")[0] for n in names}

    assert adapted(target_modules="layers.1.self_attn.*") == {
        f"1.self_attn.{side}_proj" for side in "qkvo"
    }
    assert adapted(target_modules=r"re:.*\.0\.mlp\.(up|down)_proj") == {
        "0.mlp.up_proj", "0.mlp.down_proj",
    }  # fmt: skip
    assert adapted(target_modules="layers.0.*", exclude_modules=("mlp.*", "q_proj")) == {
        "0.self_attn.k_proj", "0.self_attn.v_proj", "0.self_attn.o_proj",
    }  # fmt: skip
    base = load_base(str(tiny("llama")), task="generate")
    with pytest.raises(ModelError, match="is no regular expression"):
        attach(base, "lora", target_modules="re:(")
    with pytest.raises(ModelError, match="modules_to_save: no module 'lmhead'.* lm_head"):
        attach(base, "lora", modules_to_save=("lmhead",))


def test_modules_are_trained_and_saved_whole(tiny, tmp_path):
    base = load_base(str(tiny("llama")), task="generate")
    tuned = attach(base, "lora", r=2, modules_to_save=("lm_head",))
    names = [n for n, _ in trainable_parameters(tuned.model)]
    assert any("lm_head.modules_to_save" in name for name in names)
    with torch.no_grad():
        for _, parameter in trainable_parameters(tuned.model):
            parameter.add_(0.01)
    save_tuned(tuned, tmp_path / "m")
    torch.testing.assert_close(logits(load_tuned(tmp_path / "m")), logits(tuned))


def test_fields_of_a_base_survive_a_replace(tiny):
    base = attach(load_base(str(tiny("llama")), task="generate"), "lora_plus", r=2)
    assert base.rate_ratio == 16.0 and base.fast_names
    assert dataclasses.replace(base).fast_names == base.fast_names


def test_new_tokens_beside_an_output_layer_that_is_trained_whole(tiny, tmp_path):
    """docs/methods.md shows the two together."""
    base = load_base(str(tiny("llama")), task="generate")
    add_tokens(base, ("<ticket>",))
    tuned = attach(base, "lora", r=2, new_tokens=("<ticket>",), modules_to_save=("lm_head",))
    names = [n for n, _ in trainable_parameters(tuned.model)]
    assert any("embed_tokens" in n and "token" in n for n in names)
    assert any("lm_head.modules_to_save" in n for n in names)
    with torch.no_grad():
        for _, parameter in trainable_parameters(tuned.model):
            parameter.add_(0.02)
    save_tuned(tuned, tmp_path / "m")
    torch.testing.assert_close(logits(load_tuned(tmp_path / "m")), logits(tuned))


def test_new_tokens_learn_rows_of_their_own(tiny, tmp_path):
    """The tokenizer and the embeddings grow; only the new rows learn, and travel with the adapter."""
    base = load_base(str(tiny("llama")), task="generate")
    before = base.model.get_input_embeddings().weight.clone()
    add_tokens(base, ("<ticket>", "<end>"))
    tuned = attach(base, "lora", r=2, new_tokens=("<ticket>", "<end>"))
    with torch.no_grad():
        for name, parameter in trainable_parameters(tuned.model):
            parameter.add_(0.05 if "token" in name else 0.0)
    one = tuned.tokenizer.convert_tokens_to_ids("<ticket>")
    assert (
        tuned.tokenizer("<ticket>", add_special_tokens=False)["input_ids"] == [one] == [len(before)]
    )
    save_tuned(tuned, tmp_path / "m")
    loaded = load_tuned(tmp_path / "m")
    ids = {"input_ids": torch.tensor([[40, one, 41, one + 1]])}
    mask = torch.ones(1, 4, dtype=torch.bool)
    with torch.no_grad():
        ours, theirs = target_logits(tuned.model, ids, mask), target_logits(loaded.model, ids, mask)
    torch.testing.assert_close(ours, theirs)
    embeddings = loaded.plain.get_input_embeddings()
    with torch.no_grad():
        assert torch.equal(embeddings(torch.arange(len(before))), before)
        assert torch.allclose(embeddings(torch.tensor([one])), before.mean(0) + 0.05, atol=1e-5)


@pytest.mark.parametrize(("kind", "task"), [("llama", "generate"), ("bert", "classify")])
def test_eva_starts_from_what_the_layers_read(tiny, kind, task):
    rows = make_rows()
    if kind == "bert":
        rows = [replace(row, target_weights=None, target=0) for row in rows]

    def started(rho, seed=3):
        base = load_base(str(tiny(kind)), task=task, labels=("a", "b"))
        options = METHODS["eva"].options(eva_rho=rho)
        tuned = attach(base, "eva", r=4, options=options)
        start_from_activations(tuned, options, rows, 0, seed)
        return {n: p for n, p in trainable_parameters(tuned.model) if ".lora_" in n}

    same, again, moved = started(1.0), started(1.0), started(2.0)
    for name, tensor in same.items():
        assert torch.equal(tensor, again[name])
        if ".lora_A." in name:
            torch.testing.assert_close(tensor @ tensor.T, torch.eye(4), atol=1e-5, rtol=0)
        else:
            assert not tensor.any()
    ranks = {tuple(p.shape)[0] for n, p in moved.items() if ".lora_A." in n}
    assert len(ranks) > 1


def test_an_adapter_with_another_tokenizer_is_refused(tiny, tmp_path):
    base = load_base(str(tiny("llama")), task="generate")
    save_tuned(attach(base, "lora", r=2), tmp_path / "m")
    path = tmp_path / "m" / "tokenizer.json"
    values = json.loads(path.read_text())
    words = values["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    path.write_text(json.dumps(values))
    with pytest.raises(
        ModelError, match=r"tokenizer gives '.' the number .* restore the tokenizer"
    ):
        load_tuned(tmp_path / "m")
    with pytest.raises(ModelError, match="cannot be held in nf4"):
        load_base(str(tmp_path / "m"), task="generate", quantization="nf4")
