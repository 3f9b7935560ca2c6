"""The arithmetic of a step: independent of how rows are cut, packed, or held in memory."""

import math

import numpy as np
import pytest
import torch
from tests.model_zoo import make_tiny

from tunewright.data.batch import make_batch
from tunewright.data.render import Row
from tunewright.errors import Refusal
from tunewright.model.load import load_base
from tunewright.sections import TrainingSection
from tunewright.train.objectives import OBJECTIVES, token_cross_entropy
from tunewright.train.optimize import MasterAdamW, Rates, rate_factor
from tunewright.train.step import MicroBatching, NonFiniteLossError, take_step

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("zoo")


def language_rows(count=12, seed=0):
    stream = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        size = int(stream.integers(4, 40))
        weights = (stream.random(size) < 0.6).astype(np.float32)
        weights[-1] = 1.0
        rows.append(Row(str(number), stream.integers(10, 250, size).astype(np.int32), weights))
    return rows


def tiny(folder, kind="llama", task="generate", **options):
    place = folder / kind
    if not place.exists():
        make_tiny(kind, place)
    return load_base(str(place), task=task, dropout=0.0, **options).model


def step_once(
    model, rows, *, max_tokens=10_000, packed=False, config=None, objective=None, **options
):
    config = config or TrainingSection()
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    optimizer = MasterAdamW(named, frozenset(), Rates(1e-3, 1e-3), config)
    cutting = MicroBatching(max_tokens, 0, CPU, packed)
    model.train()
    values = {
        "rate_factor": 1.0,
        "seed": 1,
        "label_smoothing": 0.0,
        "on_out_of_memory": print,
        **options,
    }
    result = take_step(model, rows, cutting, optimizer, objective or token_cross_entropy, **values)
    return result, {n: m.clone() for n, m in zip(optimizer.names, optimizer.masters, strict=True)}


def furthest(a, b):
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3", "gemma3_text"])
def test_accumulation_and_packing_do_not_change_the_step(folder, kind):
    rows = language_rows()
    whole, weights = step_once(tiny(folder, kind), rows)
    cut, cut_weights = step_once(tiny(folder, kind), rows, max_tokens=64)
    packed, packed_weights = step_once(tiny(folder, kind), rows, packed=True)
    for other in (cut, packed):
        assert other.loss == pytest.approx(whole.loss, rel=1e-5)
        assert other.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)
    # Adam divides by the gradient's own size: a weight whose gradient is rounding noise may move
    # either way by the learning rate, so nearly all weights are compared, not every last one.
    for others in (cut_weights, packed_weights):
        far = sum(int(((weights[n] - others[n]).abs() > 1e-5).sum()) for n in weights)
        assert far <= 0.002 * sum(w.numel() for w in weights.values())


def test_the_loss_is_the_mean_over_true_targets(folder):
    model, rows = tiny(folder), language_rows(5)
    result, _ = step_once(tiny(folder), rows)
    total = count = 0.0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor(row.input_ids[None], dtype=torch.long)
            logp = model(input_ids=ids).logits[0].log_softmax(-1)
            for t in range(1, row.input_ids.size):
                if row.target_weights[t] > 0:
                    total -= float(logp[t - 1, ids[0, t]])
                    count += 1
    assert result.loss == pytest.approx(total / count, rel=1e-5)
    assert result.target_weight == count


def test_running_out_of_memory_halves_and_reaches_the_same_weights(folder):
    rows, calls = language_rows(), []

    def scarce(model, batch, **options):
        if batch.ids_BT.numel() > 100:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 1 bytes")
        return token_cross_entropy(model, batch, **options)

    plain, weights = step_once(tiny(folder), rows)
    halved, halved_weights = step_once(
        tiny(folder), rows, objective=scarce, on_out_of_memory=calls.append
    )
    assert calls and calls[-1] <= 100 and calls == sorted(calls, reverse=True)
    assert halved.loss == pytest.approx(plain.loss, rel=1e-5)
    assert halved.grad_norm == pytest.approx(plain.grad_norm, rel=1e-4)
    assert len(weights) == len(halved_weights)


def test_a_row_that_never_fits_is_refused(folder):
    def hopeless(model, batch, **options):
        raise MemoryError

    with pytest.raises(Refusal, match="single row"):
        step_once(tiny(folder), language_rows(3), objective=hopeless)


def test_a_non_finite_loss_names_the_rows_and_changes_nothing(folder):
    model = tiny(folder)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}

    def broken(model, batch, **options):
        loss = token_cross_entropy(model, batch, **options)
        return loss * float("nan") if batch.ids_BT.numel() and (batch.ids_BT == 99).any() else loss

    rows = language_rows(4)
    rows.append(Row("the-bad-one", np.array([5, 99, 7], np.int32), np.ones(3, np.float32)))
    with pytest.raises(NonFiniteLossError, match="the-bad-one"):
        step_once(model, rows, objective=broken)
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())


def test_rows_without_targets_move_nothing(folder):
    row = Row("x", np.array([5, 6, 7], np.int32), np.zeros(3, np.float32))
    result, weights = step_once(tiny(folder), [row])
    assert result.loss == 0.0
    assert all(
        torch.equal(p, weights[n]) for n, p in tiny(folder).named_parameters() if n in weights
    )


def test_bf16_keeps_fp32_masters_that_small_steps_reach(folder):
    model = tiny(folder).to(torch.bfloat16)
    config = TrainingSection(max_grad_norm=None)
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    optimizer = MasterAdamW(named, frozenset(), Rates(1e-6, 1e-6), config)
    start = [m.clone() for m in optimizer.masters]
    for step in range(3):
        take_step(
            model, language_rows(), MicroBatching(10_000, 0, CPU), optimizer, token_cross_entropy,
            rate_factor=1.0, seed=step, label_smoothing=0.0, on_out_of_memory=print,
        )  # fmt: skip
    assert all(m.dtype == torch.float32 for m in optimizer.masters)
    moved = sum(
        float((a - b).abs().max()) > 0 for a, b in zip(start, optimizer.masters, strict=True)
    )
    assert moved == len(start)


@pytest.mark.parametrize("ema", ["none", 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_optimizer_state_round_trips_exactly(folder, dtype, ema):
    def fresh():
        model = tiny(folder).to(dtype)
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        return model, MasterAdamW(named, frozenset(), Rates(1e-3, 1e-3), TrainingSection(ema=ema))

    def go(model, optimizer, steps):
        model.train()
        for step in steps:
            take_step(
                model, language_rows(seed=step), MicroBatching(10_000, 0, CPU), optimizer,
                token_cross_entropy, rate_factor=1.0, seed=step, label_smoothing=0.0,
                on_out_of_memory=print,
            )  # fmt: skip

    model, optimizer = fresh()
    go(model, optimizer, range(4))
    saved = {n: t.clone() for n, t in optimizer.state_tensors().items()}
    updates = optimizer.updates
    go(model, optimizer, range(4, 7))
    again_model, again = fresh()
    again.load_state_tensors(saved, updates)
    go(again_model, again, range(4, 7))
    for name, tensor in optimizer.state_tensors().items():
        assert torch.equal(tensor, again.state_tensors()[name]), name
    optimizer.use_averages()
    optimizer.use_masters()
    for name, tensor in optimizer.state_tensors().items():
        assert torch.equal(tensor, again.state_tensors()[name]), name


def test_label_smoothing_agrees_with_its_definition(folder):
    model, rows = tiny(folder), language_rows(3)
    batch = make_batch(rows, pad_id=0, device=CPU)
    model.eval()
    with torch.no_grad():
        plain = float(token_cross_entropy(model, batch))
        smooth = float(token_cross_entropy(model, batch, label_smoothing=0.1))
        uniform = 0.0
        for row in rows:
            ids = torch.tensor(row.input_ids[None], dtype=torch.long)
            logp = model(input_ids=ids).logits[0].log_softmax(-1)
            uniform -= float(logp[:-1].mean(-1)[torch.tensor(row.target_weights[1:] > 0)].sum())
    assert smooth == pytest.approx(0.9 * plain + 0.1 * uniform, rel=1e-5)


@pytest.mark.parametrize("scheduler", ["linear", "cosine", "constant"])
def test_schedule_rises_then_falls(scheduler):
    config = TrainingSection(warmup_ratio=0.1, lr_scheduler=scheduler)
    factors = [rate_factor(step, 100, config) for step in range(100)]
    assert all(0.0 < f <= 1.0 for f in factors)
    assert factors[:10] == sorted(factors[:10]) and max(factors) == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert scheduler == "constant" or factors[-1] < 0.05


def test_every_objective_learns_a_tiny_task(folder):
    stream = np.random.default_rng(0)
    cases = {
        "classify": ("bert", {"labels": ("a", "b")}, lambda i: i % 2),
        "classify_multi": (
            "bert",
            {"labels": ("a", "b"), "multi_label": True},
            lambda i: np.array([i % 2, 1 - i % 2], np.float32),
        ),
        "regress": ("bert", {}, lambda i: float(i % 2) * 2 - 1),
        "tag": ("bert", {"labels": ("x",)}, lambda i: np.full(6, i % 2, np.int32)),
    }
    for objective, (kind, options, target) in cases.items():
        task = objective.partition("_")[0]
        model = tiny(folder, kind, task, **options)
        rows = [
            Row(
                str(i),
                np.full(6, 20 + 30 * (i % 2), np.int32) + stream.integers(0, 5, 6).astype(np.int32),
                target=target(i),
            )
            for i in range(8)
        ]
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        optimizer = MasterAdamW(named, frozenset(), Rates(5e-3, 5e-3), TrainingSection())
        losses = [
            take_step(
                model, rows, MicroBatching(1000, 0, CPU), optimizer, OBJECTIVES[objective],
                rate_factor=1.0, seed=step, label_smoothing=0.0, on_out_of_memory=print,
            ).loss
            for step in range(25)
        ]  # fmt: skip
        assert losses[-1] < 0.3 * losses[0], (objective, losses[0], losses[-1])
        assert math.isfinite(losses[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_averages_follow_their_definition_and_do_not_touch_what_is_trained(dtype):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(5, 3).to(dtype))
    optimizer = MasterAdamW(
        [("w", weight)], frozenset(), Rates(0.1, 0.1), TrainingSection(ema=0.5)
    )  # fmt: skip
    expected = optimizer.masters[0].clone()
    for update in range(1, 16):
        weight.grad = torch.randn(5, 3).to(dtype)
        optimizer.collect_gradients()
        optimizer.step(1.0, float(optimizer.gradient_norm(1.0)))
        decay = min(0.5, update / (update + 10))  # the start is soon forgotten
        expected = decay * expected + (1 - decay) * optimizer.masters[0]
    trained = weight.detach().clone()
    optimizer.use_averages()
    torch.testing.assert_close(weight.detach(), expected.to(dtype))
    torch.testing.assert_close(optimizer.weights()["w"], expected)
    assert not torch.equal(weight.detach(), trained)
    optimizer.use_masters()
    assert torch.equal(weight.detach(), trained)
