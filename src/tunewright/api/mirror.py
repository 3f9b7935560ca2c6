"""The shadow stage: requests for a release are asked of its shadow version too, and nobody hears.

After the answer has gone out, the same request goes to the shadow version, a few at a time; beyond
that it is let be, so that a shadow never keeps an answer waiting for long. What it says is counted
against the answer that was given, and kept in shadow/ below the captured traffic, under the same
request id: `watch` reads it there as it reads the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, cast

from fastapi import Request as HttpRequest
from prometheus_client import CollectorRegistry, Counter

from tunewright.api.answers import NoClient, write_all
from tunewright.api.prompts import ChatBody, make_request
from tunewright.hosting import Hosting
from tunewright.records import Output, Request
from tunewright.serve.capture import Capture

SHADOW = "tunewright.shadow"
"""In a request's scope: the id of the version that is asked too."""
AT_ONCE = 4
OUTCOMES = ("same", "other", "failed", "left out")


class Mirror:
    """What shadow versions were asked. capture: where their answers are kept, if anywhere."""

    def __init__(
        self,
        hosting: Hosting,
        registry: CollectorRegistry,
        deadline_s: float,
        capture: Capture | None = None,
    ) -> None:
        self.hosting, self.deadline_s, self.capture = hosting, deadline_s, capture
        self._tasks: set[asyncio.Task[None]] = set()
        self.compared = Counter(
            "tunewright_shadow_requests", "Requests that a shadow version was to answer too.",
            ("release", "outcome"), registry=registry,
        )  # fmt: skip

    def chat(self, http: HttpRequest, body: ChatBody, name: str, asked: str, said: str) -> None:
        """Ask the shadow of a conversation, where there is one. asked: the user's last words."""
        shadow = http.scope.get(SHADOW)
        if shadow is not None:
            self._begin(shadow, lambda: self._write(shadow, body), name, asked, said)

    def decision(self, http: HttpRequest, name: str, text: str, said: Output) -> None:
        """Ask the shadow of a classifier, where there is one."""
        shadow = http.scope.get(SHADOW)
        if shadow is not None:
            self._begin(shadow, lambda: self._decide(shadow, text), name, text, said)

    async def close(self) -> None:
        """Give up what is under way, and write what is kept."""
        for task in self._tasks:
            task.cancel()
        if self.capture is not None:
            await asyncio.to_thread(self.capture.close)

    def _begin(
        self, shadow: str, work: Callable[[], Coroutine[Any, Any, Output]], name: str, asked: str,
        said: Output,
    ) -> None:  # fmt: skip
        if len(self._tasks) >= AT_ONCE:
            self.compared.labels(shadow, "left out").inc()
            return
        task = asyncio.create_task(self._compare(shadow, work(), name, asked, said))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare(
        self, shadow: str, work: Coroutine[Any, Any, Output], name: str, asked: str, said: Output
    ) -> None:
        begun, failed = time.perf_counter(), None
        answer: Output = None
        try:
            answer = await work
        except Exception as error:  # a shadow that fails concerns nobody but its counter
            failed = f"{type(error).__name__}: {error}"[:200]
        outcome = "failed" if failed else "same" if answer == said else "other"
        self.compared.labels(shadow, outcome).inc()
        if self.capture is not None:
            row = Request(
                id=name, time_s=time.time(), input=asked, answer=answer, release=shadow,
                latency_s=time.perf_counter() - begun, failed=failed,
            )  # fmt: skip
            self.capture.put(row)

    async def _write(self, shadow: str, body: ChatBody) -> str:
        model = await asyncio.to_thread(self.hosting.open_text, shadow)
        grammar = None
        if body.answer_schema is not None:
            grammar = await asyncio.to_thread(model.runner.grammar, body.answer_schema)
        most = body.max_completion_tokens or body.max_tokens or model.max_new_tokens
        request = make_request(body, model, body.prompt_ids(model), 0, most, 0, grammar)
        nobody = cast(HttpRequest, NoClient())
        (written,) = await write_all(model.runner, [request], nobody, self.deadline_s)
        return written.text

    async def _decide(self, shadow: str, text: str) -> Output:
        model = await asyncio.to_thread(self.hosting.open_labels, shadow)
        (future,) = model.runner.submit([text])
        found = await asyncio.wait_for(asyncio.wrap_future(future), self.deadline_s)
        return cast(Output, found.prediction)
