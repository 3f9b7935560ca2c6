"""Energy and money of a run: device power times time, grid price, device hours. Arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass

UTILISATION = 0.75
"""Share of its rated power that a device draws in training; data centres report 60 to 90 %."""
PUE = {"cpu": 1.0, "cuda": 1.3}
"""Power usage effectiveness: cooling and losses of a data centre; a machine at hand has none."""
CPU_CORE_W = 8.0
"""Of one busy core, memory and board included, where the processor does not tell (RAPL)."""


@dataclass(frozen=True, slots=True)
class Energy:
    """kwh with the assumption in words."""

    kwh: float
    assumption: str


def forecast_energy(seconds: float, power_w: float, device_kind: str, *, count: int = 1) -> Energy:
    """kWh of running devices of this power for this long."""
    pue = PUE.get(device_kind, 1.3)
    kwh = seconds / 3600 * power_w * count * UTILISATION * pue / 1000
    words = f"{power_w:.0f} W x {count} x {UTILISATION:.0%} used"
    return Energy(kwh, words + (f" x {pue} for cooling" if pue != 1.0 else ""))


def device_usd(seconds: float, usd_per_hour: float, *, count: int = 1) -> float:
    """Dollars of renting devices by the hour."""
    return seconds / 3600 * usd_per_hour * count
