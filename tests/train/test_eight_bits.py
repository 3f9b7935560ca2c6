"""AdamW with moments in 8 bits: near AdamW, a quarter of its memory, resumed to the last bit."""

import numpy as np
import pytest
import torch
from tests.model.test_every_method import start, train
from tests.model_zoo import make_tiny

from tunewright.sections import TrainingSection
from tunewright.train.optimize import MasterAdamW, Rates

pytest.importorskip("bitsandbytes")
EIGHT = TrainingSection(optimizer="adamw_8bit")


def make(config, width=96):
    torch.manual_seed(3)
    model = torch.nn.Linear(width, width)
    named = list(model.named_parameters())
    return model, MasterAdamW(named, frozenset(), Rates(1e-2, 1e-2), config)


def teach(model, optimizer, steps, seed=5):
    """Losses of learning a fixed matrix; some inputs are never seen, so gradients there are 0."""
    stream = torch.Generator().manual_seed(seed)
    wanted = torch.randn(96, 96, generator=torch.Generator().manual_seed(9))
    losses = []
    for _ in range(steps):
        x = torch.randn(32, 96, generator=stream)
        x[:, :8] = 0.0
        loss = (model(x) - x @ wanted.T).square().mean()
        loss.backward()
        optimizer.collect_gradients()
        optimizer.step(1.0, float(optimizer.gradient_norm(1.0)))
        losses.append(float(loss.detach()))
    return losses


def test_it_learns_as_adamw_does_in_a_quarter_of_the_memory():
    ends, bytes_held = [], []
    for config in (TrainingSection(), EIGHT):
        model, optimizer = make(config)
        losses = teach(model, optimizer, 300)
        ends.append(np.mean(losses[-20:]))
        state = optimizer.state_tensors()
        bytes_held.append(sum(t.nbytes for n, t in state.items() if n.startswith("exp_avg")))
        assert losses[0] > 50 and torch.isfinite(model.weight).all()
    # From above 50 down to .27 and .30: at a constant rate the floor is noise, and packing adds some.
    assert ends[0] < 0.4 and ends[1] < 1.3 * ends[0]
    assert bytes_held[1] < 0.28 * bytes_held[0]


def test_a_square_that_was_rounded_away_moves_nothing_far():
    """One gradient a thousand times the others of its block; then all are small."""
    model, optimizer = make(EIGHT)
    before = model.weight.detach().clone()
    for step in range(40):
        model.weight.grad = torch.full((96, 96), 1e-5)
        model.bias.grad = torch.zeros(96)
        if step == 0:
            model.weight.grad[::2, 0] = 1.0
        optimizer.collect_gradients()
        optimizer.step(1.0, 0.0)
    moved = (model.weight.detach() - before).abs().max()
    assert float(moved) < 40 * 1e-2 * 2  # AdamW moves by about the rate at each step


def test_its_state_goes_through_a_checkpoint_exactly():
    model, optimizer = make(EIGHT)
    teach(model, optimizer, 5)
    state = {name: tensor.clone() for name, tensor in optimizer.state_tensors().items()}
    assert state["exp_avg.weight"].dtype == torch.uint8
    assert state["exp_avg.bias"].dtype == torch.float32
    teach(model, optimizer, 5, seed=6)
    again, other = make(EIGHT)
    other.load_state_tensors(state, 5)
    teach(again, other, 5, seed=6)
    assert torch.equal(model.weight, again.weight) and torch.equal(model.bias, again.bias)


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    base = make_tiny("llama", tmp_path / "base")

    def run(folder, **how):
        tuned = start(base, "full")
        return train(tuned, folder, rate=1e-3, optimizer="adamw_8bit", **how)

    whole, losses = run(tmp_path / "a")
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", stop_after=7)
    resumed, _ = run(tmp_path / "b", resume=True)
    for name, tensor in whole.weights.items():
        assert torch.equal(tensor, resumed.weights[name]), name
