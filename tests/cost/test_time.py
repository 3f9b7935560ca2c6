"""Paces from measured steps, and seconds from rates."""

import pytest

from cost.test_memory import LLAMA, WORK
from tunewright.cost.money import device_usd, forecast_energy
from tunewright.cost.time import find_pace, forecast_seconds, training_flops


def test_a_pace_finds_the_fixed_part_where_sizes_differ():
    tokens = [100.0, 200.0, 400.0, 800.0]
    pace = find_pace(tokens, [0.5 + 0.01 * t for t in tokens])
    assert pace.fixed_s == pytest.approx(0.5) and pace.token_s == pytest.approx(0.01)
    assert pace.seconds(1000, 2) == pytest.approx(11.0)


def test_a_pace_of_equal_sizes_is_all_per_token():
    pace = find_pace([100.0] * 4, [1.0, 1.1, 0.9, 1.0])
    assert pace.fixed_s == 0.0 and pace.token_s == pytest.approx(0.01)


def test_frozen_weights_take_two_thirds():
    lora = training_flops(LLAMA, WORK, 1e6)
    full = training_flops(LLAMA, WORK.__class__(**{**_plain(WORK), "method": "full"}), 1e6)
    assert lora / full == pytest.approx(0.68, abs=0.03)


def test_two_devices_are_nearly_twice_as_fast():
    known = {
        "tokens": 1e6, "steps": 100, "answered_tokens": 1e5, "flops_per_s": 1e14,
        "bytes_per_s": 1e12, "device_kind": "cuda",
    }  # fmt: skip
    one = forecast_seconds(LLAMA, WORK, **known)
    two = forecast_seconds(LLAMA, WORK, **known, count=2)
    assert one.total / two.total == pytest.approx(1.8, abs=0.05)
    assert one.low < one.total < one.high and not one.probed


def test_energy_and_money():
    energy = forecast_energy(3600, 400, "cuda", count=2)
    assert energy.kwh == pytest.approx(0.4 * 2 * 0.75 * 1.3)
    assert "400 W x 2" in energy.assumption
    assert device_usd(1800, 3.0, count=2) == pytest.approx(3.0)


def _plain(work):
    return {name: getattr(work, name) for name in work.__slots__}
