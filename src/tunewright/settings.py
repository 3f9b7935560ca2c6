"""The server's folder and its settings.yaml: bases behind the names that clients send, limits.

Everything has a default; a server without a settings file works. Unknown keys are errors.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from tunewright.errors import UserError
from tunewright.methods import Options
from tunewright.yaml_text import load_yaml

FOLDER = "TUNEWRIGHT_SERVER"
STORY = "story.jsonl"
"""In the folder of a release that `auto` looks after: what happened, a line each."""
DEFAULT_BASE = "embedded:minilm"
MAX_FILE_BYTES = 512 << 20
MAX_PART_BYTES = 64 << 20
MAX_UPLOAD_BYTES = 8 << 30


class Settings(Options):
    """A part of the settings; frozen, and strict about its keys."""


class JobSettings(Settings):
    """How jobs are trained."""

    at_once: int = Field(default=1, ge=1, le=64)
    """Jobs that one worker trains side by side, where memory allows."""
    validation: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the training rows held back for early stopping where no validation file is given."""
    test: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the training rows held back for the verdict; 0: none, and no verdict."""
    min_rows: int = Field(default=10, ge=1)
    """Fewer examples fail a job, as clients expect."""
    lease_s: float = Field(default=30.0, ge=0.2)
    """A worker that is silent for so long has lost its jobs."""
    grace_s: float = Field(default=10.0, ge=0.1)
    """What a cancelled job gets to end by itself before it is killed."""
    max_crashes: int = Field(default=3, ge=1)
    """A job that ends by a crash so often without getting further has failed."""
    memory_gb: float | None = Field(default=None, gt=0)
    """What jobs may take together; null: what the machine has free."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Recipe keys for every job: {"training.precision": "fp32", "adapter.r": 8}."""


class WebhookSettings(Settings):
    """An address that hears of finished jobs."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=2000)]
    secret: Annotated[str, Field(min_length=16)]
    """Signs what is sent; `whsec_` and base64, or any text of 16 characters and more."""
    events: tuple[
        Literal["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"],
        ...,
    ] = (
        "fine_tuning.job.succeeded",
        "fine_tuning.job.failed",
        "fine_tuning.job.cancelled",
    )


class Quota(Settings):
    """What one key may use; null: no end."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Read and written; the request that goes beyond is still answered, the next is not."""
    streams: int | None = Field(default=None, ge=0)
    """Streams of events at a time."""
    open_jobs: int | None = Field(default=None, ge=0)
    """Jobs that have not ended, paused ones too."""
    jobs_per_day: int | None = Field(default=None, ge=0)
    training_hours_per_day: float | None = Field(default=None, ge=0)
    """Of the last 24 hours; a job under way is let go on."""
    stored_gb: float | None = Field(default=None, ge=0)
    """Uploaded files, in units of 10^9 bytes."""

    def over(self, other: Quota) -> Quota:
        """Its own limits, and those of the other where it has none."""
        mine = self.model_dump(exclude_none=True)
        return Quota(**{**other.model_dump(exclude_none=True), **mine})


class Retention(Settings):
    """After how many days what goes by itself; null: never. Files go by their own expires_after."""

    files_days: float | None = Field(default=None, gt=0)
    """Uploaded files that no open job uses, result files too."""
    ended_jobs_days: float | None = Field(default=None, gt=0)
    """Failed and cancelled jobs, with events and run folder."""
    checkpoints_days: float | None = Field(default=None, gt=0)
    """Checkpoints of finished jobs: the models of epochs, and the training state. Models stay."""
    deleted_models_days: float | None = Field(default=None, gt=0)
    """Jobs all of whose models were deleted, with events and run folder."""
    deliveries_days: float = Field(default=30.0, gt=0)
    """Webhooks that were told, or given up."""


class ServerSettings(Settings):
    """The whole file."""

    models: dict[str, str] = Field(default_factory=dict)
    """Names that clients send (with * and ?) to local bases: {"gpt-4o-mini*": "my/base"}."""
    organization: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] = "local"
    """Stands in the names of tuned models: ft:BASE:ORGANIZATION:SUFFIX:ID."""
    database: str | None = None
    """PostgreSQL URL; null: SQLite in the server's folder."""
    max_file_bytes: int = Field(default=MAX_FILE_BYTES, ge=1, le=MAX_UPLOAD_BYTES)
    jobs: JobSettings = JobSettings()
    webhooks: tuple[WebhookSettings, ...] = ()
    quota: Quota = Quota()
    """Of every key that is no admin's; `keys create --quota` gives one key another."""
    retention: Retention = Retention()
    python_graders: bool = False
    """Whether graders may hold code of the client's. It runs in a process with limits and without
    network, but it can read what the server's user can."""
    allowed_networks: tuple[str, ...] = ()
    """Networks beside the public ones that webhooks may reach: 127.0.0.0/8, 10.1.0.0/16."""

    @field_validator("allowed_networks")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            ipaddress.ip_network(text)
        return value

    def base_of(self, name: str) -> str | None:
        """The local base behind a name: as written, by pattern, or a base named itself.

        None where nothing stands for it; the client's text never becomes a path.
        """
        if name in self.models:
            return self.models[name]
        for pattern, base in self.models.items():
            if fnmatch.fnmatchcase(name, pattern):
                return base
        return name if name in (*self.models.values(), DEFAULT_BASE) else None


@dataclass(frozen=True, slots=True)
class ServerFolder:
    """Paths of one server. Every name below it is made by us, never by a client."""

    path: Path

    @property
    def settings(self) -> Path:
        """settings.yaml, where there is one."""
        return self.path / "settings.yaml"

    @property
    def database(self) -> Path:
        """The embedded database."""
        return self.path / "server.sqlite"

    @property
    def files(self) -> Path:
        """Uploaded files, each under its id."""
        return self.path / "files"

    @property
    def incoming(self) -> Path:
        """Uploads under way; what is found here at a start was cut off."""
        return self.path / "incoming"

    @property
    def parts(self) -> Path:
        """Parts of uploads that are not complete yet."""
        return self.path / "parts"

    @property
    def jobs(self) -> Path:
        """One folder for each job: its recipe, its log, and the run."""
        return self.path / "jobs"

    @property
    def worker_lock(self) -> Path:
        """Held by the server's own worker."""
        return self.path / "worker.lock"

    def auto(self, release: str) -> Path:
        """Memory and story of a release that `auto` looks after; its name is checked already."""
        return self.path / "auto" / release

    def file(self, file_id: str) -> Path:
        """Where an uploaded file lies."""
        return self.files / checked_id(file_id)

    def job(self, job_id: str) -> Path:
        """Where a job lies."""
        return self.jobs / checked_id(job_id)

    def make(self) -> None:
        """Make what is missing. Raises UserError."""
        try:
            for folder in (self.files, self.incoming, self.parts, self.jobs):
                folder.mkdir(parents=True, exist_ok=True)
            self.path.chmod(0o700)
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); choose another with --folder"
            ) from None


def checked_id(name: str) -> str:
    """The id, when it is one that we make: letters, digits, - and _. Raises ValueError."""
    if (
        not name
        or len(name) > 64
        or not all(c.isascii() and (c.isalnum() or c in "-_") for c in name)
    ):
        raise ValueError(f"{name!r} is not an id")
    return name


def server_folder(given: Path | None) -> ServerFolder:
    """The folder that was given, that TUNEWRIGHT_SERVER names, or server/ here."""
    return ServerFolder((given or Path(os.environ.get(FOLDER) or "server")).absolute())


def read_settings(folder: ServerFolder, bases: dict[str, str] | None = None) -> ServerSettings:
    """Settings of a server. bases: more names to local bases, before those of the file.

    Raises UserError naming the file, the key and the fault.
    """
    values: dict[str, Any] = {}
    if folder.settings.exists():
        try:
            text = folder.settings.read_bytes()
        except OSError as error:
            raise UserError(f"{folder.settings}: cannot be read ({error.strerror})") from None
        values = load_yaml(text, str(folder.settings), {})
    if bases:
        values = {**values, "models": {**bases, **(values.get("models") or {}), **bases}}
    try:
        return ServerSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{folder.settings}: {key}: {first['msg']}") from None
