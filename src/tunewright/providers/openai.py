"""OpenAI's fine-tuning API through the official SDK: OpenAI itself, or any server that answers it.

The API promises no idempotency, so our key travels in the job's metadata, where a job that was made
just before our process died is found again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tunewright.errors import ProviderError
from tunewright.providers.keys import find_key, without_key
from tunewright.providers.patience import Patience, Trouble
from tunewright.providers.provider import Event, Job, Order, Phase, Reply, Rules, Turn
from tunewright.sections import is_loopback

KEY = "tunewright_key"
MAX_JOBS = 2000
"""Jobs that are looked through for our key."""
TIMEOUT_S = 120.0
RULES = Rules(
    provider="openai",
    min_rows=10,  # supervised fine-tuning guide
    max_file_bytes=512_000_000,
    max_row_tokens=65_536,  # training context of gpt-4o and gpt-4.1, fine-tuning guide
    objectives=("supervised", "dpo"),
    special_tokens=False,
)
PHASES: dict[str, Phase] = {
    "validating_files": "waiting",
    "queued": "waiting",
    "running": "running",
    "paused": "paused",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}


THINKING_ROOM = 1024
"""Tokens beside the answer for a model that cannot but think first."""
EFFORTS = ("none", "minimal", "low")


@dataclass(frozen=True, slots=True)
class Manners:
    """How a model wants to be asked: those that think first take other parameters."""

    temperature: bool = True
    max_tokens: bool = True
    effort: str | None = None

    def values(self, max_tokens: int) -> dict[str, Any]:
        """The parameters of a greedy, short answer."""
        made: dict[str, Any] = {"temperature": 0} if self.temperature else {}
        if self.max_tokens:
            made["max_tokens"] = max_tokens
        else:
            room = 0 if self.effort == "none" else THINKING_ROOM
            made["max_completion_tokens"] = max_tokens + room
        if self.effort:
            made["reasoning_effort"] = self.effort
        return made

    def after(self, refusal: str) -> Manners | None:
        """What to try next; None where a refusal is about something else."""
        if self.max_tokens and "'max_completion_tokens'" in refusal:
            return replace(self, max_tokens=False, effort="none")
        if self.temperature and "'temperature'" in refusal:
            return replace(self, temperature=False)
        if self.effort and "reasoning_effort" in refusal:
            named = [e for e in EFFORTS if e != self.effort and f"'{e}'" in refusal]
            return replace(self, effort=named[0] if named else None)
        return None


class OpenAIProvider:
    """OpenAI, or a server that speaks its API. client: an openai.OpenAI that does not retry."""

    def __init__(self, client: Any, patience: Patience, *, name: str, free: bool) -> None:
        self.client, self.patience, self.name, self.free = client, patience, name, free
        self.rules = RULES
        self.manners: dict[str, Manners] = {}
        """By model, as its refusals taught them."""

    def upload(self, path: Path, name: str) -> str:
        """Send a file, unless one of this name and size lies there already."""

        def send() -> str:
            with open(path, "rb") as file:
                made = self.client.files.create(file=(name, file), purpose="fine-tune")
            return str(made.id)

        return self.find_file(path, name) or self.patience.make_once(
            send, lambda: self.find_file(path, name)
        )

    def find_file(self, path: Path, name: str) -> str | None:
        """The id of a file that was sent before."""
        size = path.stat().st_size
        found = self.patience.ask(lambda: list(self.client.files.list(purpose="fine-tune")))
        return next((str(f.id) for f in found if f.filename == name and f.bytes == size), None)

    def create(self, order: Order) -> Job:
        """Make a job, or find the one that carries the order's key."""
        values: dict[str, Any] = {
            "model": order.model,
            "training_file": order.train_file,
            "method": _method(order),
            "metadata": {KEY: order.key},
        }
        for name in ("validation_file", "seed", "suffix"):
            if getattr(order, name) is not None:
                values[name] = getattr(order, name)
        headers = {"Idempotency-Key": order.key}

        def make() -> Job:
            return _job(self.client.fine_tuning.jobs.create(**values, extra_headers=headers))

        return self.find_job(order.key) or self.patience.make_once(
            make, lambda: self.find_job(order.key)
        )

    def find_job(self, key: str) -> Job | None:
        """The job that carries our key, among the newest."""

        def search() -> Job | None:
            for number, job in enumerate(self.client.fine_tuning.jobs.list(limit=100)):
                if (job.metadata or {}).get(KEY) == key:
                    return _job(job)
                if number >= MAX_JOBS:
                    break
            return None

        return self.patience.ask(search)

    def look(self, job: str) -> Job:
        """The job as it stands."""
        return self.patience.ask(lambda: _job(self.client.fine_tuning.jobs.retrieve(job)))

    def events(self, job: str, seen: frozenset[str]) -> list[Event]:
        """New events, oldest first. Newest come first there, so reading ends at a known one."""

        def read() -> list[Event]:
            found = []
            for event in self.client.fine_tuning.jobs.list_events(job, limit=100):
                if event.id in seen:
                    break
                found.append(_event(event))
            return found[::-1]

        return self.patience.ask(read)

    def cancel(self, job: str) -> Job:
        """Stop a job; one that has ended stays as it is."""
        now = self.look(job)
        if now.phase in ("succeeded", "failed", "cancelled"):
            return now
        return self.patience.ask(lambda: _job(self.client.fine_tuning.jobs.cancel(job)))

    def ask(self, model: str, turns: Sequence[Turn], max_tokens: int) -> Reply:
        """One greedy answer. A model that thinks first is asked not to, as far as it can."""
        made = self._complete(model, turns, max_tokens)
        usage = made.usage
        details = usage and usage.prompt_tokens_details
        return Reply(
            text=(made.choices[0].message.content or "") if made.choices else "",
            input_tokens=int(usage.prompt_tokens) if usage else 0,
            output_tokens=int(usage.completion_tokens) if usage else 0,
            cached_tokens=int((details and details.cached_tokens) or 0),
        )

    def _complete(self, model: str, turns: Sequence[Turn], max_tokens: int) -> Any:
        while True:
            manners = self.manners.get(model, Manners())
            values = {"model": model, "messages": list(turns), **manners.values(max_tokens)}
            try:
                return self.patience.ask(lambda: self.client.chat.completions.create(**values))  # noqa: B023
            except ProviderError as error:
                other = manners.after(str(error))
                if other is None:
                    raise
                self.manners[model] = other

    def account(self) -> tuple[list[Any], list[Any], list[str]]:
        """(fine-tuning jobs, files, tuned models) of the account, as the SDK's own records."""

        def read() -> tuple[list[Any], list[Any], list[str]]:
            jobs = list(self.client.fine_tuning.jobs.list(limit=100))
            models = [m.id for m in self.client.models.list() if m.id.startswith("ft:")]
            return jobs, list(self.client.files.list()), models

        return self.patience.ask(read)

    def download(self, file: str) -> bytes:
        """A file's content."""
        return self.patience.ask(lambda: bytes(self.client.files.content(file).read()))


def open_openai(
    url: str | None, *, patience_s: float, sleep: Callable[[float], None] | None = None
) -> OpenAIProvider:
    """OpenAI (url None; OPENAI_BASE_URL is honoured), or the server at a URL.

    OpenAI's key goes to OpenAI alone; another server is given TUNEWRIGHT_PROVIDER_KEY, and one on
    this machine needs none. Raises ProviderError without key or SDK.
    """
    try:
        import openai
    except ImportError:
        raise ProviderError(
            "openai: its SDK is not installed; pip install 'tunewright[openai]'"
        ) from None
    base = url or os.environ.get("OPENAI_BASE_URL")
    name = url or "openai"
    free = base is not None and is_loopback(base)
    if url is None:
        key = find_key(("OPENAI_API_KEY",), name)
    else:
        try:
            key = find_key(("TUNEWRIGHT_PROVIDER_KEY",), name)
        except ProviderError:
            if not free:
                raise
            key = "none"
    client = openai.OpenAI(api_key=key, base_url=base, max_retries=0, timeout=TIMEOUT_S)
    read = _reader(openai, key, "OPENAI_API_KEY" if url is None else "TUNEWRIGHT_PROVIDER_KEY")
    patience = Patience(name, read, patience_s)
    if sleep is not None:
        patience.sleep = sleep
    return OpenAIProvider(client, patience, name=name, free=free)


def _reader(openai: Any, key: str, variable: str) -> Callable[[Exception], Trouble | None]:
    """Reads the SDK's errors."""

    def read(error: Exception) -> Trouble | None:
        text = without_key(str(getattr(error, "message", error)), key)[:300]
        if isinstance(error, openai.APIConnectionError):
            return Trouble("silent", "no connection" if not _slow(error, openai) else "timed out")
        if isinstance(error, openai.AuthenticationError):
            return Trouble(
                "refused",
                f"the key in {variable} is not accepted (expired, revoked or mistyped?); "
                "make a new one and run again",
            )
        if isinstance(error, openai.PermissionDeniedError):
            return Trouble("refused", f"this key may not do that: {text}")
        if isinstance(error, openai.RateLimitError):
            if "insufficient_quota" in (error.code, error.type):
                return Trouble("refused", "the account's quota is used up; add credit, run again")
            return Trouble("busy", "too many requests", _retry_after(error))
        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            if status in (408, 409) or status >= 500:
                return Trouble("silent", f"status {status}", _retry_after(error))
            return Trouble("refused", f"{text} (status {status})")
        if isinstance(error, openai.APIError):
            return Trouble("silent", f"an answer that is none: {text}")
        return None

    return read


def _slow(error: Exception, openai: Any) -> bool:
    return isinstance(error, openai.APITimeoutError)


def _retry_after(error: Any) -> float | None:
    """Seconds that the server asks to wait; None where it does not say."""
    headers = error.response.headers
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with contextlib.suppress(TypeError, ValueError):
            seconds = float(headers.get(name)) * scale
            if 0 <= seconds < 1e6:
                return seconds
    return None


def _method(order: Order) -> dict[str, Any]:
    numbers: dict[str, Any] = {"n_epochs": order.num_epochs}
    if order.batch_size is not None:
        numbers["batch_size"] = order.batch_size
    if order.rate_multiplier is not None:
        numbers["learning_rate_multiplier"] = order.rate_multiplier
    kind: Literal["supervised", "dpo"] = "dpo" if order.objective == "dpo" else "supervised"
    if kind == "dpo" and order.beta is not None:
        numbers["beta"] = order.beta
    return {"type": kind, kind: {"hyperparameters": numbers}}


def _job(job: Any) -> Job:
    error = job.error
    message = getattr(error, "message", None) if error else None
    blamed = {"training_file": "train", "validation_file": "validation"}
    numbers = job.hyperparameters
    epochs = getattr(numbers, "n_epochs", None) if numbers else None
    return Job(
        id=job.id,
        phase=PHASES.get(job.status, "running"),
        native=str(job.status),
        model=job.fine_tuned_model,
        base=job.model,
        error=message,
        error_file=blamed.get(str(getattr(error, "param", ""))) if error else None,
        trained_tokens=job.trained_tokens,
        num_epochs=epochs if isinstance(epochs, int) else None,
    )


def _event(event: Any) -> Event:
    data = event.data if isinstance(event.data, dict) else {}
    metrics = {
        name: float(value)
        for name, value in data.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return Event(event.id, str(event.message), str(event.level), metrics)
