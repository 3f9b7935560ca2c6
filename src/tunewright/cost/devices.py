"""Devices that a plan may be made for: memory, speed and power, each with source and date.

Figures are the vendors' for dense bf16 (fp16 where a device has no bf16), without sparsity.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace

from tunewright.cost.money import CPU_CORE_W, forecast_energy
from tunewright.errors import RecipeError

# The figures below were compared with published tables of peak rates and card specifications.
_NVIDIA = "NVIDIA product data sheets"
_AMD = "AMD product data sheets"
READ_ON = "2026-11-24"


@dataclass(frozen=True, slots=True)
class Device:
    """Figures of one device: flops_per_s in dense bf16, bytes_per_s of its memory, most power_w.

    count: how many of them. bf16: the device multiplies it itself.
    """

    name: str
    memory_bytes: int
    flops_per_s: float
    bytes_per_s: float
    power_w: float
    source: str
    read_on: str = READ_ON
    kind: str = "cuda"
    count: int = 1
    bf16: bool = True

    @property
    def title(self) -> str:
        """ "2x L40S"."""
        return f"{self.count}x {self.name}" if self.count > 1 else self.name


def _gpu(
    name: str, gb: float, tera: float, gb_per_s: float, power_w: float, source: str = _NVIDIA
) -> Device:
    return Device(name, int(gb * 1e9), tera * 1e12, gb_per_s * 1e9, power_w, source)


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        _gpu("B200", 180, 2250, 8000, 1000),
        _gpu("H200", 141, 989, 4800, 700),
        _gpu("H100-80GB", 80, 989, 3350, 700),
        _gpu("H100-PCIe", 80, 756, 2000, 350),
        _gpu("A100-80GB", 80, 312, 2039, 400),
        _gpu("A100-40GB", 40, 312, 1555, 400),
        _gpu("L40S", 48, 362, 864, 350),
        _gpu("L40", 48, 181, 864, 300),
        _gpu("L4", 24, 121, 300, 72),
        _gpu("A40", 48, 150, 696, 300),
        _gpu("A30", 24, 165, 933, 165),
        _gpu("A10", 24, 125, 600, 150),
        _gpu("RTX-A6000", 48, 155, 768, 300),
        _gpu("RTX-5090", 32, 209.5, 1792, 575),
        _gpu("RTX-4090", 24, 165, 1008, 450),
        _gpu("RTX-3090", 24, 71, 936, 350),
        replace(_gpu("V100-32GB", 32, 125, 900, 300), bf16=False),
        replace(_gpu("T4", 16, 65, 320, 70), bf16=False),
        _gpu("MI300X", 192, 1307, 5300, 750, _AMD),
    )
}
# What people call them beside the names above.
ALIASES = {
    "H100": "H100-80GB",
    "H100-SXM": "H100-80GB",
    "A100": "A100-80GB",
    "V100": "V100-32GB",
    "4090": "RTX-4090",
    "3090": "RTX-3090",
    "5090": "RTX-5090",
    "A6000": "RTX-A6000",
}
MAX_COUNT = 4096


def find_device(text: str) -> Device:
    """The device that "H100-80GB" or "2x L40S" names. Raises RecipeError with the nearest names."""
    match = re.fullmatch(r"\s*(?:(\d+)\s*[x×*]\s*)?(.+?)\s*", text, re.IGNORECASE)
    count = int(match[1] or 1) if match else 1
    wish = match[2] if match else text
    by_key = {_key(name): name for name in DEVICES} | {_key(a): n for a, n in ALIASES.items()}
    name = by_key.get(_key(wish))
    if name is None or not 1 <= count <= MAX_COUNT:
        near = difflib.get_close_matches(_key(wish), by_key, n=3, cutoff=0.4)
        known = ", ".join(dict.fromkeys(by_key[key] for key in near)) or ", ".join(DEVICES)
        raise RecipeError(
            f"--device {text}: no such device in the table; there is {known}, and `this` for the "
            "machine that this runs on"
        )
    return replace(DEVICES[name], count=count)


def _key(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return plain.removeprefix("nvidia").removeprefix("geforce").removeprefix("amd")


def forecast_kwh(kind: str, name: str, threads: object, seconds: float) -> float | None:
    """Energy of so long a training on the machine at hand; None for a device without figures.

    kind: cpu or cuda; name: as the device tells it; threads: of a CPU.
    """
    if kind == "cpu" and isinstance(threads, int):
        return forecast_energy(seconds, threads * CPU_CORE_W, "cpu").kwh
    found = next((device for key, device in DEVICES.items() if key in name), None)
    return forecast_energy(seconds, found.power_w, "cuda").kwh if found else None
