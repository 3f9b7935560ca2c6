"""Saved models load with plain transformers and PEFT, whole or not at all, on the right base."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from model_zoo import DECODERS, KINDS
from tunewright.errors import DiskFull, ModelError, RunError
from tunewright.model.adapters.table import attach, trainable_parameters
from tunewright.model.load import load_base
from tunewright.model.manifest import read_manifest
from tunewright.model.weights import load_tuned, merged_state, save_tuned

LABELS = ("card", "transfer", "other")
AUTO = {
    "classify": transformers.AutoModelForSequenceClassification,
    "tag": transformers.AutoModelForTokenClassification,
    "decoder": transformers.AutoModelForCausalLM,
    "encoder-decoder": transformers.AutoModelForSeq2SeqLM,
}


def tasks_of(kind):
    if kind == "gemma3_text":
        return ("classify", "generate")
    return ("classify", "tag", "generate") if kind in (*DECODERS, "t5") else ("classify", "tag")


def make_tuned(folder, task, method, *, noise=0.05):
    """A model that was trained, as far as its weights can tell."""
    labels = LABELS if task in ("classify", "tag") else ()
    base = load_base(str(folder), task=task, labels=labels)
    tuned = attach(base, method, r=4, alpha=8.0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in trainable_parameters(tuned.model):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * noise)
    return tuned


def logits(model, base):
    ids = torch.tensor([base.tokenizer("Where is my card?")["input_ids"]])
    more = (
        {"decoder_input_ids": ids[:, :3]} if "ConditionalGen" in type(base.plain).__name__ else {}
    )
    with torch.no_grad():
        return model(input_ids=ids, **more).logits


@pytest.mark.parametrize("kind", KINDS)
def test_lora_loads_with_plain_peft(tiny, tmp_path, kind):
    for task in tasks_of(kind):
        tuned = make_tuned(tiny(kind), task, "lora")
        expected = logits(tuned.model, tuned)
        save_tuned(tuned, tmp_path / task)
        config = peft.PeftConfig.from_pretrained(tmp_path / task)
        sizes = {"classify": {"num_labels": 3}, "tag": {"num_labels": 7}}.get(task, {})
        if task == "classify":
            sizes["pad_token_id"] = tuned.tokenizer.pad_token_id
        auto = AUTO.get(task) or AUTO[tuned.kind]
        plain = auto.from_pretrained(config.base_model_name_or_path, **sizes)
        plain = peft.PeftModel.from_pretrained(plain, tmp_path / task).eval()
        assert torch.allclose(logits(plain, tuned), expected, atol=1e-4)
        again = load_tuned(tmp_path / task)
        assert torch.equal(logits(again.model, again), expected)
        assert (again.task, again.labels, again.adapter) == (task, tuned.labels, "lora")
        assert not any((tmp_path / task).glob("*.bin"))


@pytest.mark.parametrize("kind", KINDS)
def test_full_weights_load_with_plain_transformers(tiny, tmp_path, kind):
    task = tasks_of(kind)[-1]
    tuned = make_tuned(tiny(kind), task, "full", noise=0.02)
    expected = logits(tuned.model, tuned)
    save_tuned(tuned, tmp_path / "m")
    plain = (AUTO.get(task) or AUTO[tuned.kind]).from_pretrained(tmp_path / "m").eval()
    assert torch.allclose(logits(plain, tuned), expected, atol=1e-4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    assert tokenizer("A card.")["input_ids"] == tuned.tokenizer("A card.")["input_ids"]
    assert tokenizer.chat_template == tuned.tokenizer.chat_template
    again = load_tuned(tmp_path / "m")
    assert again.adapter == "full" and again.default_template == tuned.default_template


def test_the_embedded_base_survives_a_move(tmp_path):
    tuned = make_tuned("embedded:minilm", "classify", "lora")
    save_tuned(tuned, tmp_path / "m", extra={"metrics": {"accuracy": 0.5}})
    manifest = read_manifest(tmp_path / "m")
    assert manifest["base"]["reference"] == "embedded:minilm"
    assert manifest["base"]["hub_id"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert manifest["base"]["sha256"].startswith("53aa51172d")
    assert manifest["metrics"] == {"accuracy": 0.5}
    path = tmp_path / "m" / "adapter_config.json"
    config = json.loads(path.read_text())
    assert os.path.isdir(config["base_model_name_or_path"])
    path.write_text(json.dumps(config | {"base_model_name_or_path": "/another/machine"}))
    again = load_tuned(tmp_path / "m")
    assert torch.equal(logits(again.model, again), logits(tuned.model, tuned))


@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "t5", "modernbert"])
def test_merged_weights_equal_the_adapter(tiny, tmp_path, kind):
    task = tasks_of(kind)[-1]
    tuned = make_tuned(tiny(kind), task, "lora")
    expected = logits(tuned.model, tuned)
    plain = load_base(str(tiny(kind)), task=task, labels=tuned.labels)
    plain.model.load_state_dict(merged_state(tuned.model))
    assert torch.allclose(logits(plain.model, plain), expected, atol=1e-4)
    # A tuned model as the base of the next tuning: loaded merged, saved whole.
    save_tuned(tuned, tmp_path / "first")
    second = load_base(str(tmp_path / "first"), task=task, labels=tuned.labels)
    assert second.fresh == ()
    assert torch.allclose(logits(second.model, second), expected, atol=1e-4)
    second = attach(second, "lora", r=2)
    save_tuned(second, tmp_path / "second")
    third = load_tuned(tmp_path / "second")
    assert third.adapter == "full"
    assert torch.allclose(logits(third.model, third), expected, atol=1e-4)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("kind", ["qwen3", "bert"])
def test_given_tensors_are_saved_in_place_of_the_model_s(tiny, tmp_path, kind, method):
    task = "generate" if kind == "qwen3" else "classify"
    best = make_tuned(tiny(kind), task, method)
    state = {name: p.detach().clone() for name, p in trainable_parameters(best.model)}
    expected = logits(best.model, best)
    with torch.no_grad():
        for _, parameter in trainable_parameters(best.model):
            parameter.add_(1.0)
    moved = logits(best.model, best)
    save_tuned(best, tmp_path / "m", state=state)
    again = load_tuned(tmp_path / "m")
    assert torch.allclose(logits(again.model, again), expected, atol=1e-5)
    assert torch.equal(logits(best.model, best), moved)  # the model itself is left alone


def test_a_changed_base_is_refused_with_both_hashes(tiny, tmp_path):
    folder = shutil.copytree(tiny("llama"), tmp_path / "base")
    tuned = make_tuned(folder, "generate", "lora")
    save_tuned(tuned, tmp_path / "m")
    before = tuned.source.sha256
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"] += 1
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"base with sha256 {before}, but .* has [0-9a-f]{{64}}"):
        load_tuned(tmp_path / "m")
    with pytest.raises(ModelError, match=f"base with sha256 {before}, but .* restore the base"):
        load_base(str(tmp_path / "m"), task="generate")  # where a run goes on, it is merged


def test_an_adapter_is_never_merged_into_weights_that_it_does_not_fit(tiny, tmp_path):
    """Made by PEFT, without hashes: by the shapes and names of its tensors."""
    plain = transformers.AutoModelForCausalLM.from_pretrained(tiny("llama"))
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(plain, config).save_pretrained(tmp_path / "a")
    load_base(str(tmp_path / "a"), task="generate")
    path = tmp_path / "a" / "adapter_config.json"
    values = json.loads(path.read_text())

    def refused(**changes):
        path.write_text(json.dumps(values | changes))
        with pytest.raises(ModelError, match="restore") as caught:
            load_base(str(tmp_path / "a"), task="generate")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    other = {"base_model_name_or_path": str(tiny("gpt2"))}
    assert "does not fit its base" in refused(**other)
    assert "does not fit its base" in refused(r=3)
    assert "lacks" in refused(target_modules=["q_proj", "v_proj"])


@pytest.mark.parametrize("method", ["full", "lora"])
def test_damaged_weights_are_refused(tiny, tmp_path, method):
    save_tuned(make_tuned(tiny("bert"), "classify", method), tmp_path / "m")
    (path,) = (tmp_path / "m").glob("*model.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match="was damaged or changed"):
        load_tuned(tmp_path / "m")
    path.write_bytes(whole[:-9])
    with pytest.raises(ModelError, match="truncated"):
        load_tuned(tmp_path / "m")


def test_adapters_made_elsewhere(tiny, tmp_path):
    plain = transformers.AutoModelForCausalLM.from_pretrained(tiny("llama"))
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(plain, config).save_pretrained(tmp_path / "a")
    base = load_tuned(tmp_path / "a")
    assert (base.task, base.adapter) == ("generate", "lora")
    state = load_file(tmp_path / "a" / "adapter_model.safetensors")
    state.pop(next(iter(state)))
    save_file(state, tmp_path / "a" / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"lacks .*lora_\w\.weight \(1 tensors\)"):
        load_tuned(tmp_path / "a")
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny("bert"), num_labels=4
    )
    config = peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS")
    peft.get_peft_model(plain, config).save_pretrained(tmp_path / "b")
    assert load_tuned(tmp_path / "b").labels == ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")


def test_models_made_elsewhere(tiny, tmp_path):
    names = {0: "O", 1: "B-PER", 2: "I-PER"}
    model = transformers.AutoModelForTokenClassification.from_pretrained(
        tiny("bert"), id2label=names, label2id={v: k for k, v in names.items()}
    )
    model.save_pretrained(tmp_path / "t")
    shutil.copy(tiny("bert") / "tokenizer.json", tmp_path / "t")
    base = load_tuned(tmp_path / "t")
    assert (base.task, base.labels, base.fresh) == ("tag", ("PER",), ())
    assert load_tuned(tiny("gpt2")).task == "generate"
    assert load_tuned(tiny("t5")).task == "generate"


def test_what_was_there_before_survives_a_failed_save(tiny, tmp_path, monkeypatch):
    tuned = make_tuned(tiny("gpt2"), "generate", "lora")
    save_tuned(tuned, tmp_path / "m")
    before = {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir()}

    # A limit on file size is a disk that fills: the kernel refuses the write half way.
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DiskFull, match="no space left"):
            save_tuned(tuned, tmp_path / "m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot write here"):
        save_tuned(tuned, tmp_path / "file" / "m")


def test_sampling_values_beside_greedy_settings_do_not_stop_a_save(tiny, tmp_path):
    tuned = make_tuned(tiny("llama"), "generate", "lora")
    settings = tuned.plain.generation_config
    settings.do_sample, settings.temperature, settings.top_p = False, 0.6, 0.9
    save_tuned(tuned, tmp_path / "m")
    loaded = transformers.GenerationConfig.from_pretrained(tmp_path / "m")
    assert loaded.eos_token_id == [1, 4]


@pytest.mark.slow
def test_a_saved_adapter_loads_in_a_fresh_process_without_tunewright(tiny, tmp_path):
    tuned = make_tuned(tiny("phi3"), "generate", "lora")
    save_tuned(tuned, tmp_path / "m")
    code = (
        "import sys, torch, peft\n"
        "model = peft.AutoPeftModelForCausalLM.from_pretrained(sys.argv[1]).eval()\n"
        "assert 'tunewright' not in sys.modules\n"
        "with torch.no_grad(): out = model(input_ids=torch.tensor([[5, 6, 7]])).logits\n"
        "print(float(out.double().abs().sum()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m")],
        capture_output=True, text=True, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    with torch.no_grad():
        expected = tuned.model(input_ids=torch.tensor([[5, 6, 7]])).logits.double().abs().sum()
    assert float(done.stdout) == pytest.approx(float(expected), rel=1e-5)
