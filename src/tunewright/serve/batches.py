"""Dynamic batches for models that answer in one pass: classifiers and embedders.

Whatever has come in while the last batch was computed makes the next one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from tunewright.serve.text import Busy

Answer = Callable[[Sequence[str]], Sequence[Any]]


class BatchRunner:
    """Calls `answer` with the texts of all waiting requests, in a thread of its own.

    max_batch: texts in one call. max_waiting: texts that may wait; one more raises Busy.
    """

    def __init__(self, answer: Answer, *, max_batch: int = 128, max_waiting: int = 4096) -> None:
        self.answer, self.max_batch, self.max_waiting = answer, max_batch, max_waiting
        self._waiting: deque[tuple[str, Future[Any]]] = deque()
        self._awake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def submit(self, texts: Sequence[str]) -> list[Future[Any]]:
        """One future for each text. Raises Busy."""
        futures: list[Future[Any]] = [Future() for _ in texts]
        with self._awake:
            if len(self._waiting) + len(texts) > max(self.max_waiting, len(texts)):
                raise Busy(f"{len(self._waiting)} texts wait already; come back later")
            self._waiting.extend(zip(texts, futures, strict=True))
            self._awake.notify()
        return futures

    @property
    def num_requests(self) -> int:
        """Texts that wait."""
        return len(self._waiting)

    def close(self) -> None:
        """Stop the thread; what waits is cancelled."""
        with self._awake:
            self._closing = True
            self._awake.notify()
        self._thread.join()
        for _, future in self._waiting:
            future.cancel()

    def _run(self) -> None:
        while True:
            with self._awake:
                while not (self._closing or self._waiting):
                    self._awake.wait()
                if self._closing:
                    return
                size = min(self.max_batch, len(self._waiting))
                batch = [self._waiting.popleft() for _ in range(size)]
            self._call([item for item in batch if item[1].set_running_or_notify_cancel()])

    def _call(self, batch: Sequence[tuple[str, Future[Any]]]) -> None:
        try:
            answers = self.answer([text for text, _ in batch])
        except Exception as error:  # the ones who asked hear of it
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)
