"""The update in one pass over bf16 gradients is AdamW, and leaves the same state behind."""

import pytest
import torch
from torch import nn

from tunewright.model import kernels
from tunewright.sections import TrainingSection
from tunewright.train.optimize import MasterAdamW, Rates

needs_kernels = pytest.mark.skipif(kernels.compiled()[0] is None, reason=kernels.compiled()[1])
STEPS, MICRO = 5, 2


def run(monkeypatch, *, fused, micro=1, cut=None):
    """A few updates of two parameters with given bf16 gradients; returns what is left of them."""
    if not fused:
        monkeypatch.setattr(kernels, "can_run", lambda tensor: False)
    torch.manual_seed(0)
    named = [
        (n, nn.Parameter(torch.randn(s).bfloat16())) for n, s in (("w", (50, 33)), ("b", (7,)))
    ]
    optimizer = MasterAdamW(
        named,
        frozenset({"b"}),
        Rates(1e-2, 3e-2),
        TrainingSection(weight_decay=0.1, max_grad_norm=cut),
    )
    norms = []
    for _ in range(STEPS):
        for _ in range(micro):
            for _, parameter in named:
                parameter.grad = torch.randn(parameter.shape).bfloat16()
            optimizer.collect_gradients()
        norm = float(optimizer.gradient_norm(0.5))
        norms.append(norm)
        optimizer.step(0.7, norm)
    monkeypatch.undo()
    return norms, optimizer.state_tensors(), [p.detach() for _, p in named]


@needs_kernels
@pytest.mark.parametrize("cut", [None, 1.0])
@pytest.mark.parametrize("micro", [1, 2])
def test_the_update_in_one_pass_is_torchs_adamw(monkeypatch, micro, cut):
    ours = run(monkeypatch, fused=True, micro=micro, cut=cut)
    theirs = run(monkeypatch, fused=False, micro=micro, cut=cut)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours[1].keys() == theirs[1].keys()
    for name, tensor in ours[1].items():
        torch.testing.assert_close(tensor, theirs[1][name], rtol=1e-5, atol=1e-6)
    for a, b in zip(ours[2], theirs[2], strict=True):
        assert float((a != b).float().mean()) < 0.01  # a rounding to bf16 may fall the other way


@needs_kernels
def test_gradients_of_a_dropped_step_are_forgotten(monkeypatch):
    parameter = nn.Parameter(torch.ones(4).bfloat16())
    optimizer = MasterAdamW([("w", parameter)], frozenset(), Rates(1e-2, 1e-2), TrainingSection())
    parameter.grad = torch.full((4,), float("nan")).bfloat16()
    optimizer.collect_gradients()
    assert optimizer.gradient_norm(1.0).isnan()
    optimizer.drop_gradients()
    optimizer.step(1.0, 0.0)
    assert torch.equal(parameter.detach(), torch.ones(4).bfloat16())


@needs_kernels
def test_words_without_a_gradient_are_left_as_they_are_until_they_get_one():
    words = nn.Parameter(torch.ones(6, 40).bfloat16())
    config = TrainingSection(weight_decay=0.5, max_grad_norm=None)
    optimizer = MasterAdamW([("words", words)], frozenset(), Rates(1e-1, 1e-1), config)
    for seen in (2, 4):
        words.grad = torch.zeros(6, 40).bfloat16()
        words.grad[seen] = 1.0
        optimizer.collect_gradients()
        optimizer.step(1.0, float(optimizer.gradient_norm(1.0)))
    moved = [bool((row != 1).any()) for row in words.detach()]
    assert moved == [False, False, True, False, True, False]
