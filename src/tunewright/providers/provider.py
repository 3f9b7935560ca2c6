"""What every provider has in common: the job as we see it, and what can be asked of one.

A provider trains, and answers chat questions, elsewhere. It never sees a recipe, and what it says
comes back as the frozen records below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from tunewright.providers.patience import Patience

Phase = Literal["waiting", "running", "paused", "succeeded", "failed", "cancelled"]
FINAL = ("succeeded", "failed", "cancelled")
Turn = Mapping[str, Any]
"""One message in OpenAI's form: {"role": ..., "content": ...}."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a provider takes. Limits as its documentation states them; 0: none stated."""

    provider: str
    min_rows: int
    max_file_bytes: int
    max_row_tokens: int
    max_validation_rows: int = 0
    objectives: tuple[str, ...] = ("supervised",)
    tools: bool = True
    weights: bool = True
    """Whether an assistant turn can be taken out of the loss."""
    ranks: tuple[int, ...] = ()
    """Adapter sizes to choose from; empty: the provider chooses."""
    special_tokens: bool = True
    """False where text must not hold <|...|>."""


@dataclass(frozen=True, slots=True)
class Order:
    """One job to be made. key: ours; by it the job is found again after our process died."""

    key: str
    model: str
    train_file: str
    validation_file: str | None
    num_epochs: int
    objective: str = "supervised"
    batch_size: int | None = None
    rate_multiplier: float | None = None
    beta: float | None = None
    seed: int | None = None
    suffix: str | None = None
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the provider tells of it. native: its own word for the phase.

    model: the tuned model, once there is one. error: why it failed, in the provider's words.
    error_file: "train" or "validation", where the provider says which file is to blame.
    """

    id: str
    phase: Phase
    native: str
    model: str | None = None
    base: str | None = None
    error: str | None = None
    error_file: str | None = None
    trained_tokens: int | None = None
    num_epochs: int | None = None
    share_done: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a job told. metrics: figures of a step, under their own names."""

    id: str
    text: str
    level: str = "info"
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of a chat model, with the tokens that it is billed for; cached_tokens of the input
    tokens came from the provider's cache.
    """

    text: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0


class Provider(Protocol):
    """Who trains elsewhere. Every call raises ProviderError where it is refused, Interrupted where
    the provider stays busy or silent beyond its patience.
    """

    name: str
    rules: Rules
    patience: Patience
    free: bool
    """True for a server on this machine, which sends no bill."""

    def upload(self, path: Path, name: str) -> str:
        """Send a file under a name of ours, once; returns what a job calls it."""

    def create(self, order: Order) -> Job:
        """Make a job, or find the one that was made by this order's key before."""

    def find_job(self, key: str) -> Job | None:
        """The job that carries our key."""

    def look(self, job: str) -> Job:
        """The job as it stands."""

    def events(self, job: str, seen: frozenset[str]) -> list[Event]:
        """What the job told and we have not seen, oldest first."""

    def cancel(self, job: str) -> Job:
        """Stop a job; one that has ended stays as it is."""

    def ask(self, model: str, turns: Sequence[Turn], max_tokens: int) -> Reply:
        """One greedy answer."""
