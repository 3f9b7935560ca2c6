"""LoRA starts as its base, sits where it should, and depends on the seed alone."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from model_zoo import DECODERS, KINDS
from tunewright.errors import ModelError
from tunewright.methods import METHODS
from tunewright.model.adapters.table import ADAPTERS, attach, trainable_parameters
from tunewright.model.load import load_base

LABELS = ("card", "transfer")


def task_of(kind):
    return "generate" if kind in (*DECODERS, "t5") else "classify"


def logits(base):
    ids = torch.tensor([base.tokenizer("Where is my card?")["input_ids"]])
    more = {"decoder_input_ids": ids[:, :3]} if base.plain.config.is_encoder_decoder else {}
    with torch.no_grad():
        return base.model(input_ids=ids, **more).logits


@pytest.mark.parametrize("kind", KINDS)
def test_lora_at_step_0_equals_its_base_on_all_linear_layers(tiny, kind):
    base = load_base(str(tiny(kind)), task=task_of(kind), labels=LABELS)
    before = logits(base)
    linear = {n for n, m in base.model.named_modules() if isinstance(m, (nn.Linear, Conv1D))}
    embeddings = base.model.get_input_embeddings().weight
    tuned = attach(base, "lora", r=2, alpha=4.0, seed=1)
    assert torch.equal(before, logits(tuned))
    names = [name for name, _ in trainable_parameters(tuned.model)]
    adapted = {n.split(".lora_A")[0].removeprefix("base_model.model.") for n in names
               if ".lora_A" in n}  # fmt: skip
    whole = {n.split(".modules_to_save")[0].removeprefix("base_model.model.") for n in names
             if ".modules_to_save" in n}  # fmt: skip
    left = {n for n in linear - adapted if not any(n.startswith(head) for head in whole)}
    assert left <= {"lm_head"}
    assert "lm_head" not in adapted and not embeddings.requires_grad
    assert all(p.dtype == torch.float32 for _, p in trainable_parameters(tuned.model))
    assert whole == {
        "bert": {"classifier", "bert.pooler"},
        "modernbert": {"classifier", "head"},
    }.get(kind, set())


def test_the_same_seed_gives_the_same_adapter(tiny):
    def first(seed):
        base = load_base(str(tiny("llama")), task="generate")
        torch.manual_seed(torch.seed() % 1000)
        state = torch.get_rng_state()
        parameters = trainable_parameters(attach(base, "lora", r=4, seed=seed).model)
        assert torch.equal(state, torch.get_rng_state())
        return torch.cat([p.flatten() for _, p in parameters])

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_lora_on_a_bf16_base_trains_in_fp32(tiny):
    base = load_base(str(tiny("qwen3")), task="generate", dtype=torch.bfloat16)
    tuned = attach(base, "lora", r=2)
    assert {p.dtype for _, p in trainable_parameters(tuned.model)} == {torch.float32}
    assert logits(tuned).dtype == torch.bfloat16


def test_scale_and_transposed_layers(tiny):
    base = load_base(str(tiny("gpt2")), task="generate")
    tuned = attach(base, "lora", r=2, alpha=3.0)
    config = tuned.model.peft_config["default"]
    assert config.fan_in_fan_out and set(config.target_modules) == {"c_attn", "c_fc", "c_proj"}
    assert tuned.model.base_model.model.transformer.h[0].mlp.c_fc.scaling["default"] == 1.5


def test_named_modules_only(tiny):
    base = load_base(str(tiny("llama")), task="generate")
    tuned = attach(base, "lora", target_modules=("q_proj", "layers.1.mlp.up_proj"))
    names = {n.split(".lora_")[0].split("layers.")[1] for n, _ in trainable_parameters(tuned.model)}
    assert names == {"0.self_attn.q_proj", "1.self_attn.q_proj", "1.mlp.up_proj"}


def test_mistakes_name_the_nearest_real_thing(tiny):
    base = load_base(str(tiny("llama")), task="generate")
    with pytest.raises(ModelError, match=r"no linear layer 'qproj'.* q_proj"):
        attach(base, "lora", target_modules="qproj")
    with pytest.raises(ModelError, match="empty"):
        attach(base, "lora", target_modules=())
    with pytest.raises(ModelError, match="'lorra' unknown; use full, freeze, lora"):
        attach(base, "lorra")
    tuned = attach(base, "lora")
    with pytest.raises(ModelError, match="attached already"):
        attach(tuned, "lora")


def test_full_trains_everything_with_embeddings(tiny):
    base = attach(load_base(str(tiny("gemma3_text")), task="generate"), "full")
    parameters = trainable_parameters(base.model)
    assert sum(p.numel() for _, p in parameters) == base.num_parameters
    assert any("embed_tokens" in name for name, _ in parameters)
    assert list(ADAPTERS) == list(METHODS)
