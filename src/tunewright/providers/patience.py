"""Waiting for a provider: what may be tried again, for how long, and what never twice.

A refusal (key, quota, wrong request) is told at once. Busy and silent providers are asked again,
as long as Retry-After says or with growing pauses, until patience ends: then the run stops,
resumable. Making a job is never simply repeated: an answer that got lost may have made one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from tunewright.errors import Interrupted, ProviderError

Kind = Literal["refused", "busy", "silent"]
T = TypeVar("T")
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
NOTICEABLE_S = 2.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """An error read. refused: final. busy: told to come back later. silent: no answer, or a broken
    one, so nobody knows whether the request took effect.
    """

    kind: Kind
    text: str
    retry_after_s: float | None = None


Read = Callable[[Exception], Trouble | None]
"""Reads an SDK's error; None for one that is ours."""


@dataclass(slots=True)
class Patience:
    """How long one provider is waited for. seconds: in all, from the first trouble of a call."""

    provider: str
    read: Read
    seconds: float
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    tell: Callable[[str], None] = lambda text: None
    """Told once when a call has to be waited for."""

    def ask(self, call: Callable[[], T]) -> T:
        """The call's answer. Raises ProviderError when refused, Interrupted when patience ends."""
        return self._insist(call, lambda trouble: None)

    def make_once(self, make: Callable[[], T], find: Callable[[], T | None]) -> T:
        """What `make` makes, never twice: after a lost answer `find` looks for it first."""

        def look(trouble: Trouble) -> T | None:
            return find() if trouble.kind == "silent" else None

        return self._insist(make, look)

    def _insist(self, call: Callable[[], T], rescue: Callable[[Trouble], T | None]) -> T:
        started, pause, told = self.clock(), FIRST_PAUSE_S, False
        while True:
            try:
                return call()
            except Exception as error:
                trouble = self.read(error)
                if trouble is None:
                    raise
                if trouble.kind == "refused":
                    raise ProviderError(f"{self.provider}: {trouble.text}") from None
                wait = trouble.retry_after_s
                wait = pause * random.uniform(0.75, 1.25) if wait is None else wait
                if self.clock() - started + wait > self.seconds:
                    raise Interrupted(self._gave_up(trouble, wait)) from None
                if not told and self.clock() - started + wait > NOTICEABLE_S:
                    told = True
                    self.tell(f"{self._state(trouble)}; asked again for up to {self.seconds:.0f} s")
                self.sleep(wait)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            found = rescue(trouble)
            if found is not None:
                return found

    def _gave_up(self, trouble: Trouble, wait: float) -> str:
        asked = f" and asks for {wait:.0f} s more" if trouble.retry_after_s else ""
        return (
            f"{self._state(trouble)}{asked}; waited {self.seconds:.0f} s (hosted.patience_s). "
            "What was begun there goes on"
        )

    def _state(self, trouble: Trouble) -> str:
        word = "is busy" if trouble.kind == "busy" else "does not answer"
        return f"{self.provider}: {word} ({trouble.text})"
