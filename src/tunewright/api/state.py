"""What every route shares: the models, the limits, the counters."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from fastapi import Request as HttpRequest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tunewright.api.errors import no_such_model
from tunewright.hosting import EmbeddingModel, Hosting, LabelModel, TextModel

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@dataclass
class State:
    """One server. deadline_s: the longest that an answer may take."""

    hosting: Hosting
    deadline_s: float = 600.0
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    started_at: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.requests = Counter(
            "tunewright_requests", "Requests by route and status.", ("route", "status"),
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "tunewright_request_seconds", "Time to the last byte.", ("route",),
            registry=self.registry, buckets=SECONDS,
        )  # fmt: skip
        self.tokens = Counter(
            "tunewright_tokens", "Tokens read and written.", ("side",), registry=self.registry
        )
        waiting = Gauge(
            "tunewright_text_requests", "Text requests waiting or under way.",
            registry=self.registry,
        )  # fmt: skip
        waiting.set_function(lambda: float(self.hosting.num_requests))

    def count_tokens(self, num_prompt: int, num_written: int) -> None:
        """Add to the token counters."""
        self.tokens.labels("prompt").inc(num_prompt)
        self.tokens.labels("written").inc(num_written)

    async def open_text(self, name: str) -> TextModel:
        """A text model, loaded off the event loop. Raises ApiError 404."""
        try:
            return await asyncio.to_thread(self.hosting.open_text, name)
        except KeyError:
            raise no_such_model(name) from None

    async def open_labels(self, name: str) -> LabelModel:
        """A classifier, loaded off the event loop. Raises ApiError 404."""
        try:
            return await asyncio.to_thread(self.hosting.open_labels, name)
        except KeyError:
            raise no_such_model(name) from None

    async def open_embedding(self, name: str) -> EmbeddingModel:
        """An embedder, loaded off the event loop. Raises ApiError 404."""
        try:
            return await asyncio.to_thread(self.hosting.open_embedding, name)
        except KeyError:
            raise no_such_model(name) from None


def state_of(http: HttpRequest) -> State:
    """The server that this request came to."""
    state: State = http.app.state.server
    return state
