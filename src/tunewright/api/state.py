"""What every route shares: the models, the releases, the limits, the counters."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import Request as HttpRequest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tunewright.api.census import caller_of
from tunewright.api.errors import no_such_model
from tunewright.hosting import EmbeddingModel, Hosting, LabelModel, TextModel
from tunewright.jobs.home import Home
from tunewright.jobs.offered import may_see, offer
from tunewright.releases.live import LiveReleases
from tunewright.serve.capture import Capture

ANSWERED_BY = "tunewright.release"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Asks(Protocol):
    """A body that names a model."""

    model: str

    @property
    def model_extra(self) -> dict[str, Any] | None:
        """Fields beside the known ones."""

    def model_dump_json(self) -> str:
        """All of it."""


@dataclass
class State:
    """One server. deadline_s: the longest that an answer may take."""

    hosting: Hosting
    deadline_s: float = 600.0
    releases: LiveReleases | None = None
    home: Home | None = None
    watcher: Any = None
    capture: Capture | None = None
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
        self.answered = Counter(
            "tunewright_model_requests", "Requests by the model or release that answered.",
            ("model",), registry=self.registry,
        )  # fmt: skip
        waiting = Gauge(
            "tunewright_text_requests", "Text requests waiting or under way.",
            registry=self.registry,
        )  # fmt: skip
        waiting.set_function(lambda: float(self.hosting.num_requests))

    def count_tokens(self, num_prompt: int, num_written: int) -> None:
        """Add to the token counters."""
        self.tokens.labels("prompt").inc(num_prompt)
        self.tokens.labels("written").inc(num_written)

    def resolve(self, body: Asks, http: HttpRequest) -> str:
        """The id of the model that answers: what was asked for, or the release's version.

        Who asks decides on a canary: the user that the request names, else its own content, so
        that a repeated request finds the same version.
        """
        chosen = body.model
        if self.home is not None:
            if chosen not in self.hosting.models:
                offer(self.hosting, self.home, chosen)
            if not may_see(self.home, chosen, caller_of(http).owner):
                raise no_such_model(chosen)
        if self.releases is not None and body.model in self.releases.routes:
            extra = body.model_extra or {}
            who = extra.get("user") or extra.get("safety_identifier") or body.model_dump_json()
            release = self.releases.choose(body.model, str(who))
            if release is not None:
                chosen = release.id
                http.scope[ANSWERED_BY] = release.id
        if chosen in self.hosting.models:
            self.answered.labels(chosen).inc()
        return chosen

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
