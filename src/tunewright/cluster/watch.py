"""Which rank stalls, told from the signs of life of all: by our own clock, whatever theirs say."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tunewright.cluster.attempt import Beat

SILENT_S = 20.0
"""A rank that was alive and gives no sign for so long is stopped, dead, or cut off."""
LATE_S = 40.0
"""So long do others wait in a step for one that is alive, at least."""
FIRST_STEP_S = 600.0
"""The same before any step of the attempt was done: kernels are compiled, files are read."""
SLOWER = 10.0
"""Times the longest step so far that a step may take."""


@dataclass
class Watch:
    """Remembers when each rank was last heard of, and when it last came to an exchange."""

    clock: Callable[[], float] = time.monotonic
    heard: dict[int, tuple[int, float]] = field(default_factory=dict)
    came: dict[int, tuple[int, float]] = field(default_factory=dict)
    longest_s: float = 0.0
    step: tuple[int, float] | None = None

    def look(self, beats: Mapping[int, Beat]) -> tuple[Beat, str] | None:
        """(a rank that stalls, why it is thought to), or None where all is well."""
        now = self.clock()
        for rank, beat in beats.items():
            _remember(self.heard, rank, beat.ticks, now)
            _remember(self.came, rank, beat.arrivals, now)
        self._time_steps(beats, now)
        for rank, beat in beats.items():
            silent_s = now - self.heard[rank][1]
            if silent_s > SILENT_S:
                return beat, f"no sign of life for {silent_s:.0f} s"
        return self._late(beats, now)

    def _late(self, beats: Mapping[int, Beat], now: float) -> tuple[Beat, str] | None:
        """A rank for which others wait in the middle of a step, or None."""
        if not beats:
            return None
        least = min(beats.values(), key=lambda beat: beat.arrivals)
        ahead = [beat for beat in beats.values() if beat.arrivals > least.arrivals and beat.waiting]
        late_s = now - self.came[least.rank][1]
        patience_s = max(LATE_S, SLOWER * self.longest_s) if self.longest_s else FIRST_STEP_S
        if late_s <= patience_s:
            return None
        if ahead and not least.waiting and all(beat.stage == "step" for beat in ahead):
            return least, f"others wait for it since {late_s:.0f} s"
        if all(b.waiting and b.arrivals == least.arrivals for b in beats.values()):
            return least, f"all ranks wait since {late_s:.0f} s: is the network between them up?"
        return None

    def _time_steps(self, beats: Mapping[int, Beat], now: float) -> None:
        step = max((beat.step for beat in beats.values()), default=0)
        if self.step is None:
            self.step = (step, now)
        elif step > self.step[0]:
            if self.step[0] > 0:
                self.longest_s = max(self.longest_s, (now - self.step[1]) / (step - self.step[0]))
            self.step = (step, now)


def _remember(times: dict[int, tuple[int, float]], rank: int, count: int, now: float) -> None:
    if rank not in times or times[rank][0] != count:
        times[rank] = (count, now)
