"""Every kernel against plain torch in fp32, with odd sizes; and machines on which none can be built."""

import subprocess

import pytest
import torch

from tunewright.model import kernels

needs_kernels = pytest.mark.skipif(kernels.compiled()[0] is None, reason=kernels.compiled()[1])


def half(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def near(ours, truth, most=6e-3):
    assert ours.shape == truth.shape
    assert float((ours.float() - truth.float()).norm() / truth.float().norm()) < most


@needs_kernels
@pytest.mark.parametrize("width", [16, 50, 576])
def test_rms_norm(width):
    x, w, dy, skip = (
        half(9, width),
        half(width, seed=1),
        half(9, width, seed=2),
        half(9, width, seed=3),
    )
    y, rstd = kernels.rms_norm(x, w, 1e-5)
    expected, truth = kernels.rms_norm(x.float(), w.float(), 1e-5)
    near(y, expected)
    near(rstd, truth, 1e-6)
    leaf = x.float().requires_grad_()
    (kernels.rms_norm(leaf, w.float(), 1e-5)[0] * dy.float()).sum().backward()
    near(kernels.rms_norm_backward(dy.clone(), x, w, rstd, skip), leaf.grad + skip.float())
    plain = kernels.rms_norm_backward(dy.float(), x.float(), w.float(), truth, skip.float())
    near(plain, leaf.grad + skip.float(), 1e-5)


@needs_kernels
@pytest.mark.parametrize("size", [8, 32, 64])
def test_rotation_and_back(size):
    x = half(7, 3, size)
    angle = torch.rand(7, size // 2) * 6
    turned = kernels.rotate(x.clone(), angle.cos(), angle.sin())
    near(turned, kernels.rotate(x.float(), angle.cos(), angle.sin()))
    near(kernels.rotate(turned, angle.cos(), angle.sin(), back=True), x, 1e-2)


@needs_kernels
@pytest.mark.parametrize("count", [3, 1024, 5000])
def test_silu_mul(count):
    gate, up, dy = half(1, count) * 3, half(1, count, seed=1), half(1, count, seed=2)
    leaves = gate.float().requires_grad_(), up.float().requires_grad_()
    expected = torch.nn.functional.silu(leaves[0]) * leaves[1]
    near(kernels.silu_mul(gate, up), expected.detach())
    expected.backward(dy.float())
    plain = kernels.silu_mul_backward(dy.float(), gate.float(), up.float())
    for ours in (plain, kernels.silu_mul_backward(dy, gate, up)):
        near(ours[0], leaves[0].grad)
        near(ours[1], leaves[1].grad)
        near(ours[2], expected.detach())


@needs_kernels
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("lengths", "heads", "groups", "size"),
    [((1,), 1, 1, 16), ((3, 40, 1, 97), 6, 2, 32), ((64, 130), 9, 3, 64), ((70,), 2, 2, 80)],
)
def test_attention(lengths, heads, groups, size, causal):
    tokens, starts = sum(lengths), torch.tensor([0, *lengths]).cumsum(0)
    q, dout = half(tokens, heads, size) * 2, half(tokens, heads, size, seed=3)
    k, v = half(tokens, groups, size, seed=1), half(tokens, groups, size, seed=2)
    scale = size**-0.5
    leaves = [part.float().requires_grad_() for part in (q, k, v)]
    outs = []
    for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        row = [
            part[a:b].transpose(0, 1).repeat_interleave(heads // part.shape[1], 0)[None]
            for part in leaves
        ]
        outs.append(
            torch.nn.functional.scaled_dot_product_attention(*row, is_causal=causal)[0].transpose(
                0, 1
            )
        )
    expected = torch.cat(outs)
    expected.backward(dout.float())
    how = kernels.Attention(starts, scale, causal)
    out, lse = kernels.attention(q, k, v, how)
    near(out, expected.detach())
    grads = kernels.attention_backward(dout, q, k, v, out, lse, how)
    wide = [part.float() for part in (q, k, v)]
    plain_out, plain_lse = kernels.attention(*wide, how)
    near(plain_out, expected.detach(), 1e-5)
    near(lse, plain_lse, 1e-3)
    plain = kernels.attention_backward(dout.float(), *wide, plain_out, plain_lse, how)
    for number, leaf in enumerate(leaves):
        if float(leaf.grad.norm()) > 1e-3:  # one token alone: no gradient but rounding
            near(grads[number], leaf.grad, 1.5e-2)
            near(plain[number], leaf.grad, 1e-4)


@needs_kernels
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing):
    logits, target = half(5, 1003) * 4, torch.tensor([0, 1002, 17, 5, 500])
    weight = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0])
    leaf = logits.float().requires_grad_()
    truth = torch.nn.functional.cross_entropy(
        leaf, target, reduction="none", label_smoothing=smoothing
    )
    (truth * weight).sum().backward()
    plain = kernels.cross_entropy_and_gradient(logits.float(), target, weight, smoothing)
    for losses, gradient in (
        plain,
        kernels.cross_entropy_and_gradient(logits, target, weight, smoothing),
    ):
        near(losses, truth.detach(), 1e-5)
        near(gradient, leaf.grad)


@pytest.fixture
def fresh():
    kernels.compiled.cache_clear()
    yield
    kernels.compiled.cache_clear()


def test_no_compiler_no_unit_or_a_broken_compiler_leave_plain_torch(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "")
    monkeypatch.setattr(kernels, "has_avx512_bf16", lambda: True)
    assert kernels.compiled() == (None, "no C compiler on this machine")
    assert not kernels.can_run(half(2))
    kernels.compiled.cache_clear()
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert kernels.compiled() == (None, "cc could not build them (CalledProcessError)")
    kernels.compiled.cache_clear()
    monkeypatch.setattr(kernels, "has_avx512_bf16", lambda: False)
    assert kernels.compiled() == (None, "the processor has no AVX512-BF16")


@needs_kernels
def test_built_once_and_found_again(fresh, monkeypatch):
    runs = []
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: runs.append(a[0]) or real(*a, **k))
    kernels.compiled()
    kernels.compiled.cache_clear()
    kernels.compiled()
    assert sum("-shared" in command for command in runs) <= 1
