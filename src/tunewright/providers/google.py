"""Gemini tuned on Vertex AI through Google's official SDK.

Rows go through a bucket, the job carries our key as a label, the tuned model has an endpoint. With
a key of the Gemini API alone models can be asked and not tuned: that API takes no tuning rows
any more, and the SDK (3.6.1) leaves them out of the request without a word.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tunewright.errors import ProviderError
from tunewright.providers.keys import find_key, without_key
from tunewright.providers.patience import Patience, Trouble
from tunewright.providers.provider import Event, Job, Order, Phase, Reply, Rules, Turn
from tunewright.providers.rows import google_contents
from tunewright.sections import is_loopback

KEY = "tunewright_key"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
STORAGE = "https://storage.googleapis.com"
TIMEOUT_MS = 120_000
SIZES = {
    1: "ADAPTER_SIZE_ONE",
    2: "ADAPTER_SIZE_TWO",
    4: "ADAPTER_SIZE_FOUR",
    8: "ADAPTER_SIZE_EIGHT",
    16: "ADAPTER_SIZE_SIXTEEN",
    32: "ADAPTER_SIZE_THIRTY_TWO",
}
# "About supervised fine-tuning for Gemini models", limits of Gemini 2.5 Flash.
RULES = Rules(
    provider="google",
    min_rows=1,
    max_file_bytes=1_000_000_000,
    max_row_tokens=131_072,
    max_validation_rows=5000,
    tools=False,
    weights=False,
    ranks=tuple(SIZES),
)
PHASES: dict[str, Phase] = {
    "JOB_STATE_UNSPECIFIED": "waiting",
    "JOB_STATE_QUEUED": "waiting",
    "JOB_STATE_PENDING": "waiting",
    "JOB_STATE_RUNNING": "running",
    "JOB_STATE_UPDATING": "running",
    "JOB_STATE_CANCELLING": "running",
    "JOB_STATE_PAUSED": "paused",
    "JOB_STATE_SUCCEEDED": "succeeded",
    "JOB_STATE_PARTIALLY_SUCCEEDED": "succeeded",
    "JOB_STATE_FAILED": "failed",
    "JOB_STATE_EXPIRED": "failed",
    "JOB_STATE_CANCELLED": "cancelled",
}


class GoogleProvider:
    """Gemini tuning. client: a genai.Client without retries of its own; session: an authorised
    requests session for the bucket, None where models can only be asked.
    """

    name = "google"

    def __init__(
        self, client: Any, patience: Patience, *, session: Any, bucket: str | None, free: bool
    ) -> None:
        self.client, self.patience, self.session, self.free = client, patience, session, free
        self.bucket = bucket
        self.rules = RULES
        self.base = ""
        """The tuned model's base: what may be asked of its endpoint."""

    def upload(self, path: Path, name: str) -> str:
        """Put a file into the bucket, always under the same name."""
        if self.session is None:
            raise ProviderError(
                "google: the Gemini API does not tune any more; set hosted.project (or "
                "GOOGLE_CLOUD_PROJECT) and hosted.bucket to tune on Vertex AI"
            )
        if not self.bucket:
            raise ProviderError(
                "google: rows go through a storage bucket; set hosted.bucket: gs://NAME/FOLDER"
            )
        bucket, _, folder = self.bucket.removeprefix("gs://").strip("/").partition("/")
        target = f"{folder}/{name}" if folder else name
        host = os.environ.get("STORAGE_EMULATOR_HOST", STORAGE).rstrip("/")
        url = f"{host}/upload/storage/v1/b/{quote(bucket)}/o"

        def send() -> str:
            with open(path, "rb") as file:
                answer = self.session.post(
                    url, params={"uploadType": "media", "name": target}, data=file,
                    headers={"Content-Type": "application/jsonl"}, timeout=TIMEOUT_MS / 1000,
                )  # fmt: skip
            answer.raise_for_status()
            return f"gs://{bucket}/{target}"

        return self.patience.ask(send)

    def create(self, order: Order) -> Job:
        """Make a job, or find the one that carries the order's key."""
        dataset, config = {"gcs_uri": order.train_file}, _config(order)

        def make() -> Job:
            return self._job(
                self.client.tunings.tune(
                    base_model=order.model, training_dataset=dataset, config=config
                )
            )

        return self.find_job(order.key) or self.patience.make_once(
            make, lambda: self.find_job(order.key)
        )

    def find_job(self, key: str) -> Job | None:
        """The job that carries our key."""

        def search() -> Job | None:
            for job in self.client.tunings.list(config={"page_size": 100}):
                if (job.labels or {}).get(KEY) == key:
                    return self._job(job)
            return None

        return self.patience.ask(search)

    def look(self, job: str) -> Job:
        """The job as it stands."""
        return self.patience.ask(lambda: self._job(self.client.tunings.get(name=job)))

    def events(self, job: str, seen: frozenset[str]) -> list[Event]:
        """Nothing: Google tells states, not steps."""
        return []

    def cancel(self, job: str) -> Job:
        """Stop a job; one that has ended stays as it is."""
        now = self.look(job)
        if now.phase in ("succeeded", "failed", "cancelled"):
            return now
        self.patience.ask(lambda: self.client.tunings.cancel(name=job))
        return self.look(job)

    def ask(self, model: str, turns: Sequence[Turn], max_tokens: int) -> Reply:
        """One greedy answer."""
        line = google_contents(turns)
        thinking, room = _thinking(self.base if "endpoints/" in model else model)
        config: dict[str, Any] = {"temperature": 0, "max_output_tokens": max_tokens + room}
        if "systemInstruction" in line:
            config["system_instruction"] = line["systemInstruction"]["parts"][0]["text"]
        if thinking:
            config["thinking_config"] = thinking
        made = self.patience.ask(
            lambda: self.client.models.generate_content(
                model=model, contents=line["contents"], config=config
            )
        )
        usage = made.usage_metadata
        return Reply(
            text=made.text or "",
            input_tokens=int((usage and usage.prompt_token_count) or 0),
            output_tokens=int((usage and usage.candidates_token_count) or 0)
            + int((usage and usage.thoughts_token_count) or 0),
            cached_tokens=int((usage and usage.cached_content_token_count) or 0),
        )

    def _job(self, job: Any) -> Job:
        native = str(getattr(job.state, "value", job.state) or "JOB_STATE_UNSPECIFIED")
        phase = PHASES.get(native, "running")
        self.base = str(job.base_model or self.base)
        tuned = job.tuned_model
        model = (tuned.endpoint or tuned.model) if tuned else None
        detail = getattr(job.tuning_job_state, "value", None)
        return Job(
            id=str(job.name),
            phase=phase,
            native=f"{native} ({detail})" if detail else native,
            model=model,
            base=job.base_model,
            error=_why(job, native) if phase == "failed" else None,
            error_file="train" if phase == "failed" else None,
            trained_tokens=_billed_tokens(job),
        )


def open_google(
    *, project: str | None, location: str | None, bucket: str | None, patience_s: float
) -> GoogleProvider:
    """Vertex AI where a project is named (here or in GOOGLE_CLOUD_PROJECT), with the machine's own
    Google credentials; else the Gemini API with GOOGLE_API_KEY or GEMINI_API_KEY, for asking alone.

    Raises ProviderError without credentials or SDK.
    """
    try:
        import google.auth
        from google import genai
        from google.auth.exceptions import DefaultCredentialsError
    except ImportError:
        raise ProviderError(
            "google: its SDK is not installed; pip install 'tunewright[google]'"
        ) from None
    project = project or os.environ.get("GOOGLE_CLOUD_PROJECT")
    location = location or os.environ.get("GOOGLE_CLOUD_LOCATION") or "us-central1"
    options = genai.types.HttpOptions(timeout=TIMEOUT_MS)
    if project:
        try:
            credentials, _ = google.auth.default(scopes=[SCOPE])  # type: ignore[no-untyped-call]
        except DefaultCredentialsError:
            raise ProviderError(
                "google: no credentials; run `gcloud auth application-default login`, or set "
                "GOOGLE_APPLICATION_CREDENTIALS"
            ) from None
        from google.auth.transport.requests import AuthorizedSession

        session: Any = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
        client = genai.Client(
            vertexai=True, project=project, location=location, credentials=credentials,
            http_options=options,
        )  # fmt: skip
        address, key = os.environ.get("GOOGLE_VERTEX_BASE_URL", ""), None
    else:
        key = find_key(("GOOGLE_API_KEY", "GEMINI_API_KEY"), "google")
        client = genai.Client(vertexai=False, api_key=key, http_options=options)
        session, address = None, os.environ.get("GOOGLE_GEMINI_BASE_URL", "")
    patience = Patience("google", _reader(key), patience_s)
    free = is_loopback(address)
    return GoogleProvider(client, patience, session=session, bucket=bucket, free=free)


def _thinking(model: str) -> tuple[dict[str, Any], int]:
    """(as little thinking as a model allows, tokens that it needs beside the answer)."""
    if "2.5-flash" in model:
        return {"thinking_budget": 0}, 0
    if "2.5-pro" in model:
        return {"thinking_budget": 128}, 128
    if "gemini-3" in model:
        return {"thinking_level": "LOW"}, 1024
    return {}, 0


def _config(order: Order) -> dict[str, Any]:
    config: dict[str, Any] = {
        "epoch_count": order.num_epochs,
        "labels": {KEY: order.key},
        "tuned_model_display_name": order.suffix or f"tunewright {order.key}",
    }
    if order.validation_file:
        config["validation_dataset"] = {"gcs_uri": order.validation_file}
    if order.rate_multiplier is not None:
        config["learning_rate_multiplier"] = order.rate_multiplier
    if order.rank is not None:
        config["adapter_size"] = SIZES[order.rank]
    return config


def _why(job: Any, native: str) -> str:
    if job.error is not None and job.error.message:
        return str(job.error.message)
    return "it ran out of time there" if "EXPIRED" in native else "it gives no reason"


def _billed_tokens(job: Any) -> int | None:
    """Billable tokens of the rows times passes, where the job tells."""
    stats = job.tuning_data_stats and job.tuning_data_stats.supervised_tuning_data_stats
    count = stats and stats.total_billable_token_count
    spec = job.supervised_tuning_spec
    passes = spec and spec.hyper_parameters and spec.hyper_parameters.epoch_count
    return int(count) * int(passes or 1) if count else None


def _reader(key: str | None) -> Callable[[Exception], Trouble | None]:
    """Reads errors of the SDK, of google.auth and of the bucket's session."""
    from google.auth.exceptions import GoogleAuthError, RefreshError
    from google.genai.errors import APIError

    def read(error: Exception) -> Trouble | None:
        if isinstance(error, RefreshError):
            return Trouble("refused", "the credentials are not accepted (expired?); log in again")
        if isinstance(error, GoogleAuthError):
            return Trouble("silent", "no connection for logging in")
        if isinstance(error, APIError):
            text = without_key(str(error.message or error.status), key)[:300]
            headers = getattr(error.response, "headers", None) or {}
            return _status(int(error.code or 0), text, headers, error.details)
        module = type(error).__module__.partition(".")[0]
        answer = getattr(error, "response", None)
        if module == "requests" and answer is not None:
            return _status(answer.status_code, str(answer.reason), answer.headers, None)
        if module in ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"):
            return Trouble("silent", "no connection")
        return None

    return read


def _status(code: int, text: str, headers: Any, details: Any) -> Trouble:
    told = json.dumps(details) if details else ""
    if code in (401, 403) or "API_KEY_INVALID" in told:
        return Trouble("refused", f"key or credentials are not accepted: {text}")
    if code == 429:
        if "PerDay" in told or "billing" in text.lower():
            return Trouble("refused", f"the quota is used up: {text}")
        return Trouble("busy", "too many requests", _retry_after(headers, details))
    if code == 408 or code >= 500:
        return Trouble("silent", f"status {code}", _retry_after(headers, details))
    return Trouble("refused", f"{text} (status {code})")


def _retry_after(headers: Any, details: Any) -> float | None:
    """Seconds to wait: the header's, or those of a RetryInfo; None where nothing says."""
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, float(headers.get("retry-after")))
    items = details.get("error", {}).get("details", ()) if isinstance(details, dict) else ()
    for item in items:
        with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
            return max(0.0, float(str(item["retryDelay"]).removesuffix("s")))
    return None
