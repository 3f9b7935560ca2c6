"""/v1/fine_tuning/jobs: asking for a job, following it, stopping it."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi import Request as HttpRequest
from fastapi.responses import FileResponse, Response
from sqlalchemy import Connection

from tunewright.api.census import caller_of
from tunewright.api.errors import ApiError
from tunewright.api.paging import asked, home_of, listing, looked_up, owner_of
from tunewright.api.replies import JSONResponse
from tunewright.api.state import state_of
from tunewright.api.tuning_bodies import HYPERPARAMETERS, MAX_SEED, Hyperparameters, JobBody
from tunewright.errors import RecipeError
from tunewright.evaluate.api_graders import LabelModel, Python, ScoreModel, parts_of, read_grader
from tunewright.jobs import board
from tunewright.jobs.files import get_file
from tunewright.jobs.folder import JobFolder
from tunewright.jobs.home import Home
from tunewright.jobs.models import get_model
from tunewright.jobs.paging import Record
from tunewright.jobs.quotas import check_jobs
from tunewright.jobs.repeats import KeyReusedError, Request, find_earlier, note_made
from tunewright.settings import Quota

router = APIRouter()
JOBS = "/v1/fine_tuning/jobs"
After = Annotated[str | None, Query(max_length=64)]


@router.post(JOBS)
async def create_job(body: JobBody, http: HttpRequest) -> Response:
    """Queue a job. The reply is sent once it is safe on disk."""
    home, owner = home_of(http), owner_of(http)
    key = http.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= 255:
        raise ApiError(400, "Idempotency-Key: give 1 to 255 characters")
    retries = http.headers.get("x-stainless-retry-count", "0")
    request = Request(
        caller_of(http).id, f"POST {JOBS}", hashlib.sha256(await http.body()).hexdigest(), key,
        is_retry=retries[:6].isascii() and retries[:6].isdigit() and int(retries[:6]) > 0,
    )  # fmt: skip
    quota = state_of(http).limits.quota_of(caller_of(http))
    job = await asyncio.to_thread(_create, home, body, request, owner, quota)
    return JSONResponse(show_job(job))


def _create(home: Home, body: JobBody, request: Request, owner: str | None, quota: Quota) -> Record:
    wish = replace(_wish(home, body, owner), key_id=request.owner)

    def add(connection: Connection) -> str:
        earlier = find_earlier(home.database, connection, request)
        if earlier is not None:
            return earlier
        check_jobs(home.database, connection, wish.key_id, quota)
        made = board.add_job(connection, wish)
        note_made(connection, request, made)
        return made

    try:
        job_id = home.database.together(add)
    except KeyReusedError as error:
        raise ApiError(409, str(error), code="idempotency_key_reused") from None
    return board.get_job(home.database, job_id)


def _wish(home: Home, body: JobBody, owner: str | None) -> board.Wish:
    """The job that is meant. Raises ApiError naming the field that cannot be."""
    method, chosen = _method(body)
    _check_file(home, "training_file", body.training_file, owner)
    if body.validation_file is not None:
        _check_file(home, "validation_file", body.validation_file, owner)
        if body.validation_file == body.training_file:
            text = "validation_file: the same file as training_file; hold other rows back"
            raise ApiError(400, text, param="validation_file")
    return board.Wish(
        model=body.model,
        base_model=_base(home, body.model, owner),
        training_file=body.training_file,
        validation_file=body.validation_file,
        method=method,
        hyperparameters=chosen.model_dump(),
        method_options=_method_options(home, body, owner),
        suffix=body.suffix,
        seed=secrets.randbelow(MAX_SEED) if body.seed is None else body.seed,
        metadata=body.metadata,
        integrations=[item.model_dump() for item in body.integrations or ()] or None,
        organization=home.settings.organization,
        priority=body.priority,
        owner=owner or "",
    )


def _method(body: JobBody) -> tuple[str, Hyperparameters]:
    """The method and its hyper-parameters. Raises ApiError."""
    given = body.method
    if given is None:
        return "supervised", body.hyperparameters or Hyperparameters()
    others = [name for name in HYPERPARAMETERS if name != given.type]
    if any(getattr(given, name) is not None for name in others):
        raise ApiError(400, f"method: has options of another type than {given.type}",
                       param="method")  # fmt: skip
    own = getattr(given, given.type)
    if given.type == "reinforcement" and own is None:
        raise ApiError(400, "method.reinforcement: give a grader", param="method.reinforcement")
    chosen = own.hyperparameters if own is not None else None
    if chosen is None and body.hyperparameters is not None:
        chosen = body.hyperparameters
    kind = HYPERPARAMETERS[given.type]
    return given.type, kind.model_validate({} if chosen is None else chosen.model_dump())


def _method_options(home: Home, body: JobBody, owner: str | None) -> dict[str, Any] | None:
    """What a method has beside hyper-parameters: the grader, its models led to local ones."""
    own = body.method.reinforcement if body.method else None
    if own is None:
        return None
    if (own.response_format or {}).get("type", "text") != "text":
        param = "method.reinforcement.response_format"
        raise ApiError(400, f"{param}: answers that are tried are plain text here", param=param)
    return {"grader": check_grader(home, own.grader, owner)}


def check_grader(home: Home, grader: dict[str, Any], owner: str | None) -> dict[str, Any]:
    """The grader, where it can be used here. Raises ApiError 400 naming what is wrong."""
    try:
        spec = read_grader(grader)
    except RecipeError as error:
        raise ApiError(400, str(error), param="grader", code="invalid_grader") from None
    for part in parts_of(spec):
        if isinstance(part, Python) and not home.settings.python_graders:
            text = (
                "grader: python runs code of the client's on this machine; allow it with "
                "python_graders: true in settings.yaml"
            )
            raise ApiError(400, text, param="grader", code="python_graders_off")
        if isinstance(part, ScoreModel | LabelModel):
            _base(home, part.model, owner)
    return spec.model_dump(mode="json", exclude_none=True)


def _base(home: Home, model: str, owner: str | None) -> str:
    """The local base, or the tuned model to go on from."""
    if model.startswith("ft:"):
        try:
            return str(get_model(home.database, model, owner=owner)["id"])
        except KeyError:
            text = f"The model `{model}` does not exist or you do not have access to it."
            raise ApiError(404, text, param="model", code="model_not_found") from None
    base = home.settings.base_of(model)
    how = f"start the server with --base {model}=FOLDER, or name it under models: in settings.yaml"
    if base is None:
        text = f"model: no local base stands for {model!r}; {how}"
        raise ApiError(400, text, param="model", code="model_not_available")
    if base.startswith("embedded:"):
        text = (
            f"model: {model!r} stands for {base}, an encoder, which cannot write text; name a "
            f"causal base instead: {how}"
        )
        raise ApiError(400, text, param="model", code="model_not_available")
    return base


def _check_file(home: Home, param: str, file_id: str, owner: str | None) -> None:
    try:
        row = get_file(home.database, file_id, owner=owner)
    except KeyError:
        raise ApiError(
            400, f"invalid {param}: {file_id}", param=param, code="file_not_found"
        ) from None
    if row["purpose"] != "fine-tune":
        text = f"{param}: {file_id} has purpose {row['purpose']}; upload it with fine-tune"
        raise ApiError(400, text, param=param)


@router.get(JOBS)
async def list_jobs(
    http: HttpRequest,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """Jobs, the newest first; metadata[key]=value keeps those that have it."""
    wanted, without = _metadata_filter(http.query_params)
    page = await asked(
        "fine-tuning job", str(after), board.list_jobs, home_of(http).database,
        owner=owner_of(http), metadata=wanted, without_metadata=without, after=after, limit=limit,
    )  # fmt: skip
    return JSONResponse(listing(page, show_job))


def _metadata_filter(query: Mapping[str, str]) -> tuple[dict[str, str], bool]:
    wanted = {
        name[len("metadata[") : -1]: value
        for name, value in query.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    if any("\0" in text for pair in wanted.items() for text in pair) or len(wanted) > 16:
        raise ApiError(400, "metadata: cannot be looked for", param="metadata")
    return wanted, query.get("metadata") == "null"


@router.get(JOBS + "/{job_id}")
async def retrieve_job(job_id: str, http: HttpRequest) -> Response:
    """One job."""
    return JSONResponse(show_job(await job_of(http, job_id)))


@router.post(JOBS + "/{job_id}/cancel")
async def cancel_job(job_id: str, http: HttpRequest) -> Response:
    """End a job; its process is gone within seconds."""
    return await _change(http, job_id, board.cancel_job)


@router.post(JOBS + "/{job_id}/pause")
async def pause_job(job_id: str, http: HttpRequest) -> Response:
    """Stop a job at a checkpoint."""
    return await _change(http, job_id, board.pause_job)


@router.post(JOBS + "/{job_id}/resume")
async def resume_job(job_id: str, http: HttpRequest) -> Response:
    """Go on with a paused job."""
    return await _change(http, job_id, board.resume_job)


async def _change(http: HttpRequest, job_id: str, change: Any) -> Response:
    try:
        job = await asked(
            "fine-tuning job", job_id, change, home_of(http).database, job_id, owner=owner_of(http)
        )
    except board.WrongStateError as error:
        raise ApiError(400, str(error), code="invalid_job_state") from None
    return JSONResponse(show_job(job))


@router.get(JOBS + "/{job_id}/checkpoints")
async def list_checkpoints(
    job_id: str,
    http: HttpRequest,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> Response:
    """Checkpoints that can be asked, the newest first."""
    await job_of(http, job_id)
    page = await asked(
        "checkpoint", str(after), board.list_checkpoints, home_of(http).database, job_id,
        after=after, limit=limit,
    )  # fmt: skip
    return JSONResponse(listing(page, _show_checkpoint))


@router.get(JOBS + "/{job_id}/report")
async def job_report(job_id: str, http: HttpRequest) -> Response:
    """The report of a finished job, as a page."""
    return await _run_file(http, job_id, "report_html", "text/html")


@router.get(JOBS + "/{job_id}/report.json")
async def job_report_json(job_id: str, http: HttpRequest) -> Response:
    """The report of a finished job."""
    return await _run_file(http, job_id, "report_json", "application/json")


@router.get(JOBS + "/{job_id}/card.json")
async def job_card(job_id: str, http: HttpRequest) -> Response:
    """The data card of a job: counts, lengths, findings, every dropped row."""
    return await _run_file(http, job_id, "card", "application/json")


async def _run_file(http: HttpRequest, job_id: str, name: str, kind: str) -> Response:
    job = await job_of(http, job_id)
    path = getattr(JobFolder(home_of(http).folder.job(job["id"])).run, name)
    if not path.exists():
        raise ApiError(404, f"Job {job_id} is {job['status']}: not written yet.")
    return FileResponse(path, media_type=kind, headers={"X-Content-Type-Options": "nosniff"})


async def job_of(http: HttpRequest, job_id: str) -> Record:
    """The job, where the client may see it. Raises ApiError 404."""
    database = home_of(http).database
    job: Record = await looked_up(
        http, "fine-tuning job", job_id, board.get_job, database, job_id, owner=owner_of(http)
    )
    return job


def show_job(job: Record) -> dict[str, Any]:
    """A job as clients know it, and under further keys what we add."""
    keys = (
        "id", "created_at", "finished_at", "model", "fine_tuned_model", "status", "training_file",
        "validation_file", "result_files", "trained_tokens", "error", "seed", "metadata",
        "estimated_finish", "integrations",
    )  # fmt: skip
    numbers = dict(job["hyperparameters"])
    plain = {key: numbers.get(key, "auto") for key in Hyperparameters.model_fields}
    ours = {
        "base_model": job["base_model"],
        "priority": job["priority"],
        "waits_for": job["waits_for"],
        "attempts": job["attempts"],
        "total_steps": job["total_steps"],
        "forecast": job["forecast"],
        "outcome": job["outcome"],
        "verdict": (job["outcome"] or {}).get("verdict"),
        "report_url": f"{JOBS}/{job['id']}/report" if job["status"] == "succeeded" else None,
    }
    return {
        **{key: job[key] for key in keys},
        "object": "fine_tuning.job",
        "organization_id": f"org-{job['owner'] or 'local'}",
        "hyperparameters": plain,
        "method": {
            "type": job["method"],
            job["method"]: {**(job["method_options"] or {}), "hyperparameters": numbers},
        },
        "user_provided_suffix": job["suffix"],
        "tunewright": ours,
    }


def _show_checkpoint(row: Record) -> dict[str, Any]:
    return {
        "id": row["id"],
        "object": "fine_tuning.job.checkpoint",
        "created_at": row["created_at"],
        "fine_tuned_model_checkpoint": row["model"],
        "fine_tuning_job_id": row["job_id"],
        "step_number": row["step"],
        "metrics": row["metrics"],
    }
