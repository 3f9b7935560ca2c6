"""Device names as people write them."""

from datetime import date

import pytest

from tunewright.cost.devices import DEVICES, find_device
from tunewright.errors import RecipeError


@pytest.mark.parametrize(
    "text, name, count",
    [
        ("H100-80GB", "H100-80GB", 1),
        ("2x L40S", "L40S", 2),
        ("8 x nvidia h100", "H100-80GB", 8),
        ("rtx 4090", "RTX-4090", 1),
        ("NVIDIA GeForce RTX 3090", "RTX-3090", 1),
    ],
)
def test_names(text, name, count):
    device = find_device(text)
    assert (device.name, device.count) == (name, count)


@pytest.mark.parametrize("text", ["H101", "0x L40S", "", "99999x T4"])
def test_unknown_devices_are_refused_with_the_nearest(text):
    with pytest.raises(RecipeError, match="there is"):
        find_device(text)


def test_every_device_has_source_and_date():
    for device in DEVICES.values():
        assert device.source and date.fromisoformat(device.read_on)
        assert 1e10 < device.memory_bytes < 1e12 and device.power_w > 50
