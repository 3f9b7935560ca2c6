"""What memory follows from, and what it never does."""

from dataclasses import replace

import pytest

from cost.test_shape import PUBLISHED
from tunewright.cost.fit import find_changes, judge_fit
from tunewright.cost.memory import Work, forecast_memory, with_micro_batch
from tunewright.cost.shape import read_shape

LLAMA = read_shape(PUBLISHED["llama-3.1-8b"][0])
BIG = read_shape(PUBLISHED["llama-3.1-405b"][0])
WORK = Work(method="lora", rank=16, tokens=8192, row_tokens=2048, outputs=4096, num_outputs=128256)


def test_items_add_up_to_the_peak():
    memory = forecast_memory(LLAMA, WORK, "cuda")
    assert sum(memory.held.values()) + sum(memory.passing.values()) == memory.peak_bytes
    assert memory.low_bytes < memory.peak_bytes < memory.high_bytes


def test_weights_of_8b_in_bf16_take_16_gb_and_in_nf4_a_third():
    bf16 = forecast_memory(LLAMA, WORK, "cuda").held["weights"]
    nf4 = forecast_memory(LLAMA, replace(WORK, quantization="nf4"), "cuda").held["weights"]
    assert bf16 == pytest.approx(16.06e9, rel=0.01)
    assert nf4 == pytest.approx(6.03e9, rel=0.03)  # word vectors and output stay in bf16


def test_full_tuning_in_bf16_holds_14_bytes_a_weight_and_2_of_gradient():
    memory = forecast_memory(LLAMA, replace(WORK, method="full"), "cuda")
    each = (sum(memory.held.values()) + memory.passing["gradients"]) / memory.num_parameters
    assert each == pytest.approx(16.0, rel=0.001)
    many = forecast_memory(LLAMA, replace(WORK, method="full", micro_batches=4), "cuda")
    assert many.passing["gradients"] == 2 * memory.passing["gradients"]  # summed up in fp32
    assert memory.checkpoint_bytes == pytest.approx(12 * memory.num_parameters, rel=0.001)


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": 4096, "outputs": 2048},
        {"checkpointing": True},
        {"rank": 8},
        {"quantization": "nf4"},
    ],
)
def test_less_work_needs_less(change):
    less = forecast_memory(LLAMA, replace(WORK, **change), "cuda").peak_bytes
    assert less < forecast_memory(LLAMA, WORK, "cuda").peak_bytes


def test_a_micro_batch_never_falls_below_one_row():
    assert with_micro_batch(WORK, 1).tokens == WORK.row_tokens


def test_405b_on_a_laptop_is_arithmetic():
    memory = forecast_memory(BIG, WORK, "cuda", count=16)
    assert memory.held["weights"] == pytest.approx(405.85e9 * 2 / 16, rel=0.01)


def test_verdict_is_never_a_bare_yes():
    memory = forecast_memory(LLAMA, WORK, "cuda")
    assert judge_fit(memory, memory.high_bytes) == "FIT"
    assert judge_fit(memory, memory.peak_bytes) == "UNCERTAIN"
    assert judge_fit(memory, memory.low_bytes - 1) == "NO"


def test_every_change_needs_less_and_says_what_to_set():
    room = 24_000_000_000
    changes = find_changes(LLAMA, WORK, room, "cuda", quantizable=True)
    now = forecast_memory(LLAMA, WORK, "cuda").peak_bytes
    assert {"recompute activations", "4-bit weights"} <= {change.what for change in changes}
    assert all(change.peak_bytes < now and change.overrides for change in changes)
    assert changes[-1].what == "all of these"
    assert changes[-1].peak_bytes == min(change.peak_bytes for change in changes)
