"""Elastic weight consolidation: Fisher information by hand, and a penalty that pulls back."""

import torch
from torch import nn

from tunewright.train.anchor import make_anchor, measure_fisher


def rows_as_they_are(monkeypatch):
    monkeypatch.setattr("tunewright.train.anchor.make_batch", lambda rows, **more: rows[0])


def test_fisher_is_the_mean_squared_gradient(monkeypatch):
    rows_as_they_are(monkeypatch)
    model = nn.Linear(2, 1, bias=False)
    rows = [torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0])]
    found = measure_fisher(
        model, list(model.named_parameters()), rows, lambda m, row: m(row).sum(),
        pad_id=0, device=torch.device("cpu"),
    )["weight"]  # fmt: skip
    assert torch.allclose(found, torch.tensor([[2.5, 0.0]]))
    assert model.weight.grad is None


def test_the_penalty_holds_what_matters_and_lets_the_rest_go():
    model = nn.Linear(2, 1, bias=False)
    begin = model.weight.detach().clone()
    penalty = make_anchor(
        list(model.named_parameters()), {"weight": torch.tensor([[4.0, 0.0]])}, 3.0
    )
    assert float(penalty()) == 0.0
    with torch.no_grad():
        model.weight += torch.tensor([[0.5, 9.0]])
    assert abs(float(penalty()) - 0.5 * 3.0 * 4.0 * 0.25) < 1e-5
    penalty().backward()
    assert torch.allclose(model.weight.grad, torch.tensor([[6.0, 0.0]]), atol=1e-5)
    assert not torch.equal(begin, model.weight)
