"""The optimiser's kernels over many tensors equal torch's AdamW, with sparse gradients too."""

import pytest
import torch

from tunewright.model import kernels, updates
from tunewright.model.updates import Update

needs_kernels = pytest.mark.skipif(kernels.compiled()[0] is None, reason=kernels.compiled()[1])
SHAPES = [(70, 50), (50,), (3, 384), (), (33, 16)]
BETAS, EPSILON = (0.9, 0.98), 1e-8


def gradients_of(step):
    torch.manual_seed(100 + step)
    return [torch.randn(shape).bfloat16() for shape in SHAPES]


@needs_kernels
def test_several_steps_of_all_tensors_equal_torch():
    torch.manual_seed(1)
    start = [torch.randn(shape) for shape in SHAPES]
    truth = [torch.nn.Parameter(s.clone()) for s in start]
    reference = torch.optim.AdamW(truth, lr=1e-2, betas=BETAS, eps=EPSILON, weight_decay=0.1)
    masters = [s.clone() for s in start]
    first, second = ([torch.zeros_like(m) for m in masters] for _ in range(2))
    outs = [m.bfloat16() for m in masters]
    for step in range(1, 4):
        grads = gradients_of(step)
        for parameter, grad in zip(truth, grads, strict=True):
            parameter.grad = grad.float() * 0.25
        reference.step()
        wanted = [
            Update(*parts, rate=1e-2, decay=0.1, step=step)
            for parts in zip(masters, first, second, grads, outs, strict=True)
        ]
        updates.adamw(wanted, scale=0.25, betas=BETAS, epsilon=EPSILON)
    for master, parameter, out in zip(masters, truth, outs, strict=True):
        torch.testing.assert_close(master, parameter.detach(), rtol=1e-5, atol=1e-6)
        assert torch.equal(out, master.bfloat16())


@needs_kernels
def test_sparse_gradients_update_like_dense_ones_and_leave_words_that_never_came():
    torch.manual_seed(2)
    start = torch.randn(40, 24)
    steps = [torch.tensor([3, 7, 20]), torch.tensor([7, 8]), torch.tensor([3, 39])]
    results = []
    for sparse in (False, True):
        master, first, second = start.clone(), torch.zeros(40, 24), torch.zeros(40, 24)
        out = master.bfloat16()
        places = updates.new_places(first) if sparse else None
        for number, words in enumerate(steps, 1):
            torch.manual_seed(number)
            values = torch.randn(words.numel(), 24).bfloat16()
            grad = torch.sparse_coo_tensor(words[None], values, (40, 24)).coalesce()
            grad = grad if sparse else grad.to_dense()
            update = Update(
                master, first, second, grad, out, rate=1e-2, decay=0.1, step=number, places=places
            )
            updates.adamw([update], scale=1.0, betas=BETAS, epsilon=EPSILON)
        results.append((master, first, second, out))
        if sparse:
            assert torch.equal(places, updates.new_places(first))
    for dense, sparse in zip(*results, strict=True):
        assert torch.equal(dense, sparse)
    seen = torch.cat(steps).unique()
    never = [word for word in range(40) if word not in seen]
    assert torch.equal(results[1][0][never], start[never])
    assert not torch.equal(results[1][0][seen], start[seen])


@needs_kernels
def test_square_sums_run_over_dense_and_sparse_gradients():
    dense = [torch.randn(70, 130).bfloat16(), torch.randn(5).bfloat16()]
    lines = torch.sparse_coo_tensor(
        torch.tensor([[1, 5]]), torch.randn(2, 3).bfloat16(), (9, 3), is_coalesced=True
    )
    truth = sum(float(g.to_dense().double().pow(2).sum()) for g in [*dense, lines])
    assert updates.square_sum([*dense, lines]) == pytest.approx(truth, rel=1e-6)
