"""Rows and machines that are not as they should be: right results all the same, on the fast path."""

import ctypes

import numpy as np
import peft
import pytest
import torch
import transformers

from tunewright.data.render import Row
from tunewright.model import kernels
from tunewright.model.decoder import fast_decoder
from tunewright.sections import TrainingSection
from tunewright.train.objectives import packs_rows, token_cross_entropy
from tunewright.train.optimize import MasterAdamW, Rates
from tunewright.train.step import MicroBatching, take_step

CPU = torch.device("cpu")


def model(dtype=torch.bfloat16):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=101, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.1,
    )  # fmt: skip
    found = peft.get_peft_model(
        transformers.LlamaForCausalLM(config),
        peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
    ).to(dtype)
    assert fast_decoder(found) is not None
    return found.train()


def row(name, size, *, targets=True, seed=0):
    stream = np.random.default_rng([seed, size])
    weights = np.zeros(size, np.float32)
    weights[size // 2 :] = float(targets)
    return Row(name, stream.integers(5, 100, size).astype(np.int32), weights)


def step(rows, *, max_tokens=4096, dtype=torch.bfloat16, tuned=None):
    tuned = tuned or model(dtype)
    named = [(n, p) for n, p in tuned.named_parameters() if p.requires_grad]
    optimizer = MasterAdamW(named, frozenset(), Rates(1e-3, 1e-3), TrainingSection())
    smaller = []
    result = take_step(
        tuned, rows, MicroBatching(max_tokens, 0, CPU, packs_rows(tuned, rows[0], False)), optimizer,
        token_cross_entropy, rate_factor=1.0, seed=1, label_smoothing=0.0,
        on_out_of_memory=smaller.append,
    )  # fmt: skip
    return result, optimizer, smaller


def test_a_row_without_targets_changes_nothing_and_a_batch_of_them_takes_no_step():
    rows = [row("a", 20), row("b", 33)]
    alone, _, _ = step(rows)
    beside, _, _ = step([*rows, row("empty", 15, targets=False)])
    assert beside.loss == pytest.approx(alone.loss, rel=1e-3)
    assert beside.grad_norm == pytest.approx(alone.grad_norm, rel=1e-2)
    assert beside.tokens == alone.tokens + 15
    nothing, optimizer, _ = step([row("empty", 15, targets=False)])
    assert (nothing.loss, nothing.target_weight, optimizer.updates) == (0.0, 0.0, 0)
    # In a micro-batch of its own, too: no target there, yet some in the step.
    cut, _, _ = step([*rows, row("empty", 15, targets=False)], max_tokens=16)
    assert cut.loss == pytest.approx(alone.loss, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_over_long_row_gets_a_micro_batch_of_its_own(dtype):
    rows = [row("long", 700), *(row(str(n), 10 + n) for n in range(6))]
    cutting = MicroBatching(64, 0, CPU, packed=True)
    sizes = [batch.num_tokens for batch in cutting.cut(rows)]
    assert sum(sizes) == sum(r.num_tokens for r in rows) and sizes[-1] == 700
    assert all(size <= 64 for size in sizes[:-1])
    whole, _, _ = step(rows, dtype=dtype)
    cut, _, _ = step(rows, max_tokens=64, dtype=dtype)
    exact = dtype == torch.float32
    assert cut.loss == pytest.approx(whole.loss, rel=1e-6 if exact else 2e-3)
    assert cut.grad_norm == pytest.approx(whole.grad_norm, rel=1e-5 if exact else 2e-2)


def test_rows_do_not_see_each_other():
    first, second = row("a", 21), row("b", 40)
    parts = [step([r], dtype=torch.float32)[0] for r in (first, second)]
    both, _, _ = step([first, second], dtype=torch.float32)
    expected = sum(p.loss * p.target_weight for p in parts) / sum(p.target_weight for p in parts)
    assert both.loss == pytest.approx(expected, rel=1e-6)


def test_one_thread_gives_the_bits_of_two():
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(step([row("a", 60), row("b", 200)])[0])
    torch.set_num_threads(before)
    assert found[0].loss == found[1].loss


@pytest.mark.skipif(kernels.compiled()[0] is None, reason=kernels.compiled()[1])
def test_memory_that_runs_out_inside_a_kernel_halves_the_micro_batch(monkeypatch):
    """The kernel's own answer is forged, for real memory would have to be filled for it."""
    tuned = model()
    rows = [row(str(n), 100, seed=n) for n in range(8)]
    calm, _, _ = step(rows, tuned=model())

    def forged(name, kinds):
        def attention(*values):
            starts = ctypes.cast(ctypes.c_void_p(values[3]), ctypes.POINTER(ctypes.c_int64))
            return 1 if starts[values[4]] > 300 else function(*values)

        function = real(name, kinds)
        return attention if name == "attention" else function

    real = kernels._function
    monkeypatch.setattr(kernels, "_function", forged)
    result, _, smaller = step(rows, tuned=tuned)
    assert smaller and smaller[-1] <= 400
    assert result.loss == pytest.approx(calm.loss, rel=2e-3)
