"""What every route shares: the models, the releases, the limits, the counters."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from fastapi import Request as HttpRequest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tunewright.api.census import caller_of
from tunewright.api.errors import no_such_model
from tunewright.api.limits import Limits
from tunewright.api.mirror import SHADOW, Mirror
from tunewright.api.reads import Reads
from tunewright.hosting import EmbeddingModel, Hosting, LabelModel, TextModel
from tunewright.jobs.board import count_jobs
from tunewright.jobs.home import Home
from tunewright.jobs.models import get_model
from tunewright.jobs.offered import TUNED, offer, offer_tuned
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
    evals: Any = None
    capture: Capture | None = None
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    started_at: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.mirror = Mirror(self.hosting, self.registry, self.deadline_s, _beside(self.capture))
        self.limits = Limits(self.home.settings.quota if self.home is not None else None)
        self.reads = Reads(self.home.database) if self.home is not None else None
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
        for name, about, read in (
            ("text_requests", "Text requests waiting or under way.",
             lambda: float(self.hosting.num_requests)),
            ("models_in_memory", "Bases and models that are loaded.",
             lambda: float(len(self.hosting.in_memory))),
            ("event_streams", "Streams of job events that are open.",
             lambda: float(self.limits.num_streams)),
        ):  # fmt: skip
            gauge = Gauge(f"tunewright_{name}", about, registry=self.registry)
            gauge.set_function(read)
        self._jobs = Gauge(
            "tunewright_jobs", "Jobs by status.", ("status",), registry=self.registry
        )
        self._oldest = Gauge(
            "tunewright_oldest_waiting_job_seconds", "Age of the oldest job that waits to run.",
            registry=self.registry,
        )  # fmt: skip
        self._kept = Gauge(
            "tunewright_captured_rows", "Rows of traffic by what became of them.", ("outcome",),
            registry=self.registry,
        )  # fmt: skip

    def figures(self) -> bytes:
        """All counters as Prometheus reads them; asks the database about jobs."""
        if self.home is not None:
            counts, oldest_at = count_jobs(self.home.database)
            for status, count in counts.items():
                self._jobs.labels(status).set(count)
            self._oldest.set(0.0 if oldest_at is None else max(0.0, time.time() - oldest_at))
        if self.capture is not None:
            for outcome in ("kept", "dropped", "failed"):
                self._kept.labels(outcome).set(getattr(self.capture, outcome))
        return generate_latest(self.registry)

    def count_tokens(self, http: HttpRequest, num_prompt: int, num_written: int) -> None:
        """Add to the token counters, and to what the caller's key has used."""
        self.limits.spend(caller_of(http), num_prompt + num_written)
        self.tokens.labels("prompt").inc(num_prompt)
        self.tokens.labels("written").inc(num_written)

    async def resolve(self, body: Asks, http: HttpRequest) -> str:
        """The id of the model that answers: what was asked for, or the release's version.

        Who asks decides on a canary: the user that the request names, else its own content, so
        that a repeated request finds the same version. Raises ApiError 404.
        """
        chosen = body.model
        if self.home is not None:
            await self._offer(self.home, chosen, caller_of(http).owner)
        route = self.releases.routes.get(body.model) if self.releases is not None else None
        if route is not None:
            extra = body.model_extra or {}
            who = extra.get("user") or extra.get("safety_identifier") or body.model_dump_json()
            release = route.choose(str(who))
            if release is not None:
                chosen = release.id
                http.scope[ANSWERED_BY] = release.id
            if route.shadow is not None and route.shadow.id in self.hosting.models:
                http.scope[SHADOW] = route.shadow.id
        if chosen in self.hosting.models:
            self.answered.labels(chosen).inc()
        return chosen

    async def _offer(self, home: Home, name: str, owner: str | None) -> None:
        """Have a model of this name among those served, where there is one and the owner may.

        Tuned ones are looked up every time: another server, or a worker, may have removed them.
        """
        if not name.startswith(TUNED):
            if name not in self.hosting.models:
                await asyncio.to_thread(offer, self.hosting, home, name)
            return
        assert self.reads is not None
        try:
            row = await self.reads.read(partial(get_model, home.database, name, owner=owner))
        except KeyError:
            if owner is None:
                self.hosting.remove(name)
            raise no_such_model(name) from None
        if name not in self.hosting.models:
            await asyncio.to_thread(offer_tuned, self.hosting, home, row)

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


def _beside(capture: Capture | None) -> Capture | None:
    """Where answers of shadow versions are kept: apart, for they answered nobody."""
    return None if capture is None else Capture(capture.folder / "shadow", capture.settings)


def state_of(http: HttpRequest) -> State:
    """The server that this request came to."""
    state: State = http.app.state.server
    return state
