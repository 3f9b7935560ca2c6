"""QLoRA: packed weights are small, learn, resume, save and load; machines without it are told."""

import peft
import pytest
import torch
import transformers
from tests.model.test_every_method import logits, train

from tunewright.errors import ModelError
from tunewright.model.adapters.table import attach
from tunewright.model.load import load_base
from tunewright.model.quantize import (
    check_quantization,
    is_packed,
    keep_one_layout,
    load_options,
    packed_bytes,
    unpacked,
)
from tunewright.model.weights import load_tuned, merged_state, save_tuned

pytest.importorskip("bitsandbytes")


def start(folder, method, quantization):
    base = load_base(str(folder), task="generate", quantization=quantization)
    return attach(base, method, r=4, seed=3)


@pytest.mark.parametrize(
    ("method", "quantization"), [("qlora", "nf4"), ("lora", "int8"), ("loftq", "nf4")]
)
def test_it_learns_resumes_saves_and_loads(tiny, tmp_path, method, quantization):
    folder = tiny("llama")
    tuned = start(folder, method, quantization)
    assert tuned.num_parameters == load_base(str(folder), task="generate").num_parameters
    fitted, losses = train(tuned, tmp_path / "a", rate=1e-2)
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    with pytest.raises(KeyboardInterrupt):
        train(start(folder, method, quantization), tmp_path / "b", rate=1e-2, stop_after=7)
    again = start(folder, method, quantization)
    resumed, _ = train(again, tmp_path / "b", rate=1e-2, resume=True)
    for name, tensor in fitted.weights.items():
        assert torch.equal(tensor, resumed.weights[name]), name

    save_tuned(tuned, tmp_path / "model", state=fitted.weights)
    loaded = load_tuned(tmp_path / "model")
    assert loaded.quantization == quantization and loaded.adapter == method
    before = logits(tuned)
    torch.testing.assert_close(logits(loaded), before, rtol=1e-4, atol=2e-4)

    cpu = torch.device("cpu")
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, **load_options(quantization, cpu, torch.float32)
    )
    keep_one_layout(plain)  # bitsandbytes 0.50 cannot lay out layers as narrow as these anew
    elsewhere = peft.PeftModel.from_pretrained(plain, tmp_path / "model").eval()
    with torch.no_grad():
        theirs = elsewhere(input_ids=torch.arange(30, 60).view(3, 10)).logits.flatten(0, 1)
    torch.testing.assert_close(theirs, before, rtol=1e-4, atol=2e-4)

    merged = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    merged.load_state_dict(merged_state(tuned.model, fitted.weights), strict=False)
    with torch.no_grad():
        flat = merged(input_ids=torch.arange(30, 60).view(3, 10)).logits.flatten(0, 1)
    # int8 also rounds what goes into a layer, which no merged weight can show.
    assert float((flat - before).abs().max()) < (1e-3 if quantization == "nf4" else 1.0)


def test_loftq_starts_nearer_to_the_whole_weights_than_qlora(tiny):
    folder = tiny("llama")
    whole = load_base(str(folder), task="generate")
    wanted = logits(whole)
    plain, mended = start(folder, "qlora", "nf4"), start(folder, "loftq", "nf4")
    assert (logits(mended) - wanted).norm() < (logits(plain) - wanted).norm()
    with pytest.raises(ModelError, match="loftq mends what 4 bits lost"):
        attach(whole, "loftq")


def test_packed_weights_stand_for_what_was_there(tiny):
    whole = dict(load_base(str(tiny("qwen3")), task="generate").model.named_modules())
    for quantization, most in (("nf4", 0.4), ("int8", 0.02)):
        base = load_base(str(tiny("qwen3")), task="generate", quantization=quantization)
        packed = {n: m for n, m in base.model.named_modules() if is_packed(m)}
        assert len(packed) == 14 and "lm_head" not in packed
        for name, module in packed.items():
            weight = whole[name].weight
            error = (unpacked(module) - weight).norm() / weight.norm()
            assert error < most, (quantization, name)
            assert (
                packed_bytes(module) < weight.numel() * (1 if quantization == "nf4" else 1.2) + 1300
            )


def test_gradients_flow_after_an_evaluation_in_bf16(tiny):
    """bitsandbytes lays weights out anew at the first evaluation, unless it is stopped."""
    ids = {"input_ids": torch.arange(30, 60).view(3, 10)}
    for kind, task in (("llama", "generate"), ("bert", "classify")):
        grads = []
        for looks in (0, 1):
            base = load_base(
                str(tiny(kind)), task=task, labels=("a", "b"), quantization="nf4",
                dtype=torch.bfloat16,
            )  # fmt: skip
            tuned = attach(base, "qlora", r=4, seed=3)
            with torch.no_grad():
                for _ in range(looks):
                    tuned.model.eval()(**ids)
            torch.manual_seed(1)
            tuned.model.train()(**ids).logits.float().square().mean().backward()
            grads.append([p.grad for p in tuned.model.parameters() if p.grad is not None])
        assert grads[0] and all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_machines_and_methods_without_it_are_told(tiny):
    with pytest.raises(ModelError, match="CUDA, XPU and x86 processors, not on mps"):
        check_quantization("nf4", torch.device("mps"))
    with pytest.raises(ModelError, match="'fp3' unknown; use none, nf4, int8"):
        check_quantization("fp3", torch.device("cpu"))
    base = load_base(str(tiny("llama")), task="generate", quantization="nf4")
    with pytest.raises(ModelError, match="vera does not train on a base in nf4; use one of lora"):
        attach(base, "vera")
