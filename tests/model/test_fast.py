"""The fast path computes what PEFT computes: exactly so in fp32, within rounding in bf16."""

import peft
import pytest
import torch
import transformers
from torch import nn

from tunewright.model import kernels
from tunewright.model.decoder import fast_decoder
from tunewright.model.fast import as_low_rank, slow_down, speed_up
from tunewright.model.speed import make_fast

VOCABULARY = 211
SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 96, "intermediate_size": 152, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "initializer_range": 0.1, "attention_dropout": 0.0,
}  # fmt: skip
KINDS = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)),
    "tied": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SHAPE, tie_word_embeddings=True)
    ),
    "mistral": lambda: transformers.MistralForCausalLM(
        transformers.MistralConfig(**SHAPE, sliding_window=None)
    ),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SHAPE)),
}


def adapted(kind="llama", dtype=torch.float32, **options):
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **options}
    model = peft.get_peft_model(KINDS[kind](), peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
        parameter.data = parameter.data.to(dtype)
    return model.train()


def rows(lengths=(1, 5, 33, 64, 100)):
    stream = torch.Generator().manual_seed(3)
    return [torch.randint(0, VOCABULARY, (n,), generator=stream) for n in lengths]


def packed_loss(model, parts, smoothing=0.1):
    decoder = fast_decoder(model)
    ids, sizes = torch.cat(parts), torch.tensor([0, *(p.numel() for p in parts)])
    starts = sizes.cumsum(0)
    positions = torch.cat([torch.arange(p.numel()) for p in parts])
    chosen, targets = _targets(parts, starts)
    hidden = decoder.hidden_states(ids, positions, starts)
    weight = torch.linspace(0.2, 1.0, targets.numel())
    return decoder.weighted_loss(hidden, chosen, targets, weight, smoothing), (
        decoder.losses(decoder.hidden_states(ids, positions, starts), chosen, targets, smoothing)
        * weight
    ).sum()


def _targets(parts, starts):
    """Every second token of each row is a target."""
    chosen = [
        int(s) + i for p, s in zip(parts, starts, strict=False) for i in range(0, p.numel() - 1, 2)
    ]
    return torch.tensor(chosen), torch.cat(parts)[torch.tensor(chosen) + 1]


def peft_loss(model, parts, smoothing=0.1):
    losses = []
    for part in parts:
        logits = model(input_ids=part[None]).logits[0, :-1].float()[::2]
        losses.append(
            nn.functional.cross_entropy(
                logits, part[1:][::2], reduction="none", label_smoothing=smoothing
            )
        )
    joined = torch.cat(losses)
    return (joined * torch.linspace(0.2, 1.0, joined.numel())).sum()


def gradients(model, loss):
    loss.backward()
    found = {n: p.grad.float() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def furthest(a, b):
    """Largest relative error of a gradient tensor."""
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).norm() / b[n].norm()) for n in b)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_decoder_in_fp32_equals_peft(kind, recompute):
    model, parts = adapted(kind), rows()
    expected = peft_loss(model, parts)
    truth = gradients(model, expected)
    assert len(truth) == 2 * 2 * 7
    if recompute:
        model.get_base_model().gradient_checkpointing_enable()
    at_once, weighed_later = packed_loss(model, parts)
    assert float(at_once.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert float(weighed_later.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert furthest(gradients(model, at_once), truth) < 1e-5
    assert furthest(gradients(model, weighed_later), truth) < 1e-5


@pytest.mark.parametrize("kernels_on", [True, False])
def test_decoder_in_bf16_is_as_near_to_fp32_as_peft_in_bf16(kernels_on, monkeypatch):
    if not kernels_on:
        monkeypatch.setattr(kernels, "can_run", lambda tensor: False)
    elif kernels.compiled()[0] is None:
        pytest.skip(kernels.compiled()[1])
    parts = rows()
    model = adapted()
    truth = gradients(model, peft_loss(model, parts))
    half = adapted(dtype=torch.bfloat16)
    theirs = furthest(gradients(half, peft_loss(half, parts)), truth)
    ours = furthest(gradients(half, packed_loss(half, parts)[0]), truth)
    assert 0 < ours < 1.25 * theirs


def test_same_bits_on_one_thread_and_on_two():
    model, parts = adapted(dtype=torch.bfloat16), rows()
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        found.append(packed_loss(model, parts)[0])
        found[-1].backward()
    torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_layer_equals_peft(dtype):
    torch.manual_seed(2)
    x = torch.randn(3, 7, 96, dtype=dtype)
    model = adapted("qwen2", dtype)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    assert layer.base_layer.bias is not None
    found = []
    for switch in (slow_down, speed_up):
        switch(model)
        source = x.clone().requires_grad_()
        out = layer(source)
        out.square().sum().backward()
        found.append(
            (out, source.grad, layer.lora_A.default.weight.grad, layer.lora_B.default.weight.grad)
        )
        model.zero_grad()
    most = 1e-5 if dtype == torch.float32 else 2e-2
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        assert float((ours - theirs).float().norm() / theirs.float().norm()) < most
    assert layer.base_layer.weight.grad is None


def test_whole_peft_model_is_unchanged_by_swapped_layers_and_saves_the_same_names():
    model, part = adapted(), rows()[2]
    names = list(model.state_dict())
    before = model(input_ids=part[None]).logits
    assert speed_up(model) == 14 and speed_up(model) == 14
    torch.testing.assert_close(model(input_ids=part[None]).logits, before, rtol=1e-5, atol=1e-5)
    assert list(model.state_dict()) == names
    with model.disable_adapter():
        plain = model(input_ids=part[None]).logits
    assert not torch.allclose(plain, before)
    model.merge_adapter()
    torch.testing.assert_close(model(input_ids=part[None]).logits, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"lora_dropout": 0.5}, {"lora_bias": True}]
)
def test_what_is_not_plain_lora_keeps_pefts_own_code(options):
    model = adapted(**options)
    assert speed_up(model) == 0
    assert fast_decoder(model) is None
    assert "torch's own" in make_fast(model)


def test_no_graph_reaches_below_the_first_adapter():
    model = adapted(target_modules=["down_proj"])
    layer = as_low_rank(model.get_base_model().model.layers[0].self_attn.q_proj)
    assert layer is not None and layer.parameters == ()
    loss, _ = packed_loss(model, rows())
    assert len(gradients(model, loss)) == 4


def test_other_shapes_and_trainable_bases_are_left_to_torch():
    window = transformers.MistralForCausalLM(
        transformers.MistralConfig(**SHAPE, sliding_window=8)
    ).requires_grad_(False)
    assert fast_decoder(window) is None
    assert fast_decoder(KINDS["llama"]()) is None
    frozen = KINDS["llama"]().requires_grad_(False)
    assert fast_decoder(frozen) is not None
    assert fast_decoder(nn.Linear(2, 2)) is None


def test_a_nan_among_the_logits_is_not_swallowed():
    logits = torch.zeros(2, 40, dtype=torch.bfloat16)
    logits[0, 7] = float("nan")
    losses, _ = kernels.cross_entropy_and_gradient(logits, torch.tensor([3, 3]), torch.ones(2), 0.0)
    assert losses[0].isnan() and float(losses[1]) == pytest.approx(3.6889, rel=1e-3)
