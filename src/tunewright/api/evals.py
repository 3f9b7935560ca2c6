"""/v1/evals: graders over rows, by OpenAI's Evals API. Who runs them: eval_runner.py.

Logs and stored completions of OpenAI's are not here; rows come as JSON lines, from a file or in the
request, with or without the answers of a model of this server.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi import Request as HttpRequest
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from tunewright.api.errors import ApiError
from tunewright.api.paging import asked, home_of, listing, owner_of
from tunewright.api.replies import JSONResponse, is_storable
from tunewright.api.state import state_of
from tunewright.api.tuning import check_grader
from tunewright.api.tuning_bodies import check_metadata
from tunewright.errors import RecipeError
from tunewright.evaluate.api_graders import text_of
from tunewright.evaluate.filling import FillError, check_text
from tunewright.jobs import evals
from tunewright.jobs.files import get_file
from tunewright.jobs.home import Home
from tunewright.jobs.paging import Record

router = APIRouter()
EVALS = "/v1/evals"
RUNS = EVALS + "/{eval_id}/runs"
ITEMS = RUNS + "/{run_id}/output_items"
After = Annotated[str | None, Query(max_length=64)]
Limit = Annotated[int, Query(ge=1, le=100)]
Order = Literal["asc", "desc"]
Name = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None,
    Field(max_length=16),
]


class _Named(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    name: Name | None = None
    metadata: Metadata = None

    @field_validator("metadata")
    @classmethod
    def _is_storable(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        return check_metadata(value)


def _checked(value: Any) -> Any:
    if not is_storable(value):
        raise ValueError("numbers must be finite, and nesting not endless")
    return value


Plain = Annotated[dict[str, Any], AfterValidator(_checked)]


class EvalBody(_Named):
    """An eval as it is asked for."""

    data_source_config: Plain
    testing_criteria: Annotated[list[Plain], Field(min_length=1, max_length=32)]


class ChangeBody(_Named):
    """What of an eval may change."""


class RunBody(_Named):
    """A run as it is asked for."""

    data_source: Plain


@router.post(EVALS)
async def create_eval(body: EvalBody, http: HttpRequest) -> Response:
    """Enter an eval: what rows look like, and what grades them."""
    row = await asyncio.to_thread(_create, home_of(http), body, owner_of(http))
    return JSONResponse(show_eval(row))


def _create(home: Home, body: EvalBody, owner: str | None) -> Record:
    criteria = []
    for number, given in enumerate(body.testing_criteria):
        try:
            checked = check_grader(home, given, owner)
        except ApiError as error:
            text = error.message.replace("grader", f"testing_criteria.{number}", 1)
            raise ApiError(400, text, param="testing_criteria", code=error.code) from None
        criteria.append(checked)
    names = [item["name"] for item in criteria]
    if len(set(names)) < len(names):
        raise ApiError(400, "testing_criteria: a name is given twice", param="testing_criteria")
    return evals.add_eval(
        home.database, name=body.name or "eval", source=_source_config(body.data_source_config),
        criteria=criteria, metadata=body.metadata, owner=owner or "",
    )  # fmt: skip


def _source_config(given: dict[str, Any]) -> dict[str, Any]:
    if given.get("type") != "custom":
        text = "data_source_config.type: use custom; there are no logs of OpenAI's here"
        raise ApiError(400, text, param="data_source_config.type")
    schema = given.get("item_schema")
    if not isinstance(schema, dict):
        place = "data_source_config.item_schema"
        raise ApiError(400, f"{place}: give a JSON schema", param=place)
    properties: dict[str, Any] = {"item": schema}
    if given.get("include_sample_schema"):
        properties["sample"] = {"type": "object"}
    whole = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "custom", "schema": whole}


@router.get(EVALS)
async def list_evals(
    http: HttpRequest,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
    order_by: Literal["created_at", "updated_at"] = "created_at",
) -> Response:
    """Evals, the oldest first. order_by updated_at gives the order of making, too."""
    page = await asked(
        "eval", str(after), evals.list_evals, home_of(http).database, owner=owner_of(http),
        after=after, limit=limit, newest_first=order == "desc",
    )  # fmt: skip
    return JSONResponse(listing(page, show_eval))


@router.get(EVALS + "/{eval_id}")
async def retrieve_eval(eval_id: str, http: HttpRequest) -> Response:
    """One eval."""
    return JSONResponse(show_eval(await _eval(http, eval_id)))


@router.post(EVALS + "/{eval_id}")
async def update_eval(eval_id: str, body: ChangeBody, http: HttpRequest) -> Response:
    """Give an eval another name or metadata."""
    values = body.model_dump(exclude_unset=True)
    if values.get("name", "") is None:
        raise ApiError(400, "name: give a text", param="name")
    row = await asked(
        "eval", eval_id, evals.change_eval, home_of(http).database, eval_id, values,
        owner=owner_of(http),
    )  # fmt: skip
    return JSONResponse(show_eval(row))


@router.delete(EVALS + "/{eval_id}")
async def delete_eval(eval_id: str, http: HttpRequest) -> Response:
    """Delete an eval and its runs."""
    database = home_of(http).database
    await asked("eval", eval_id, evals.delete_eval, database, eval_id, owner=owner_of(http))
    return JSONResponse({"object": "eval.deleted", "deleted": True, "eval_id": eval_id})


@router.post(RUNS, status_code=201)
async def create_run(eval_id: str, body: RunBody, http: HttpRequest) -> Response:
    """Queue a run; it begins within a second."""
    home, owner = home_of(http), owner_of(http)
    row = await _eval(http, eval_id)
    source = await asyncio.to_thread(_source, home, body.data_source, owner)
    run = await asyncio.to_thread(
        evals.add_run, home.database, eval_id, name=body.name or row["name"],
        model=str(source.get("model") or ""), source=source, metadata=body.metadata,
        owner=owner or "",
    )  # fmt: skip
    state_of(http).evals.wake()
    return JSONResponse(show_run(run), status_code=201)


def _source(home: Home, given: dict[str, Any], owner: str | None) -> dict[str, Any]:
    """The rows of a run and what is asked about them, checked. Raises ApiError."""
    kind = given.get("type")
    if kind not in ("jsonl", "completions", "responses"):
        text = "data_source.type: use jsonl, completions or responses"
        raise ApiError(400, text, param="data_source.type")
    inner = given.get("source")
    source: dict[str, Any] = inner if isinstance(inner, dict) else {}
    if source.get("type") == "file_id":
        _check_file(home, source.get("id"), owner)
    elif source.get("type") == "file_content":
        rows = source.get("content")
        if not isinstance(rows, list) or not rows or not all(map(_is_row, rows)):
            place = "data_source.source.content"
            raise ApiError(400, f"{place}: give a list of {{'item': {{...}}}}", param=place)
    else:
        place = "data_source.source.type"
        raise ApiError(400, f"{place}: use file_id or file_content", param=place)
    if kind != "jsonl":
        _check_asking(given)
    return given


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("item"), dict)


def _check_file(home: Home, file_id: Any, owner: str | None) -> None:
    try:
        get_file(home.database, str(file_id)[:64], owner=owner)
    except KeyError:
        place = "data_source.source.id"
        raise ApiError(400, f"{place}: no such file", param=place) from None


def _check_asking(given: dict[str, Any]) -> None:
    model, messages = given.get("model"), given.get("input_messages")
    if not isinstance(model, str) or not 0 < len(model) <= 512 or "\0" in model:
        raise ApiError(400, "data_source.model: name a model", param="data_source.model")
    place = "data_source.input_messages"
    if not isinstance(messages, dict):
        raise ApiError(400, f"{place}: give a template or an item_reference", param=place)
    if not isinstance(given.get("sampling_params", {}), dict):
        text = "data_source.sampling_params: give an object"
        raise ApiError(400, text, param="data_source.sampling_params")
    try:
        if messages.get("type") == "item_reference":
            check_text("{{" + str(messages.get("item_reference")) + "}}")
            return
        turns = messages.get("template")
        if not isinstance(turns, list) or not turns or not all(isinstance(t, dict) for t in turns):
            raise ApiError(400, f"{place}.template: give a list of messages", param=place)
        for turn in turns:
            check_text(text_of(turn.get("content")))
    except (FillError, RecipeError) as error:
        raise ApiError(400, f"{place}: {error}", param=place) from None


@router.get(RUNS)
async def list_runs(
    eval_id: str,
    http: HttpRequest,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
    status: Annotated[str | None, Query(max_length=16)] = None,
) -> Response:
    """Runs of an eval, the oldest first."""
    await _eval(http, eval_id)
    page = await asked(
        "run", str(after), evals.list_runs, home_of(http).database, eval_id, status=status,
        after=after, limit=limit, newest_first=order == "desc",
    )  # fmt: skip
    return JSONResponse(listing(page, show_run))


@router.get(RUNS + "/{run_id}")
async def retrieve_run(eval_id: str, run_id: str, http: HttpRequest) -> Response:
    """One run."""
    return JSONResponse(show_run(await _run(http, eval_id, run_id)))


@router.post(RUNS + "/{run_id}")
@router.post(RUNS + "/{run_id}/cancel")
async def cancel_run(eval_id: str, run_id: str, http: HttpRequest) -> Response:
    """End a run; what it found stays."""
    database = home_of(http).database
    try:
        run = await asked(
            "run", run_id, evals.cancel_run, database, eval_id, run_id, owner=owner_of(http)
        )
    except evals.RunEndedError as error:
        raise ApiError(400, str(error), code="invalid_run_state") from None
    return JSONResponse(show_run(run))


@router.delete(RUNS + "/{run_id}")
async def delete_run(eval_id: str, run_id: str, http: HttpRequest) -> Response:
    """Delete a run and its items."""
    database = home_of(http).database
    await asked("run", run_id, evals.delete_run, database, eval_id, run_id, owner=owner_of(http))
    return JSONResponse({"object": "eval.run.deleted", "deleted": True, "run_id": run_id})


@router.get(ITEMS)
async def list_items(
    eval_id: str,
    run_id: str,
    http: HttpRequest,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
    status: Literal["pass", "fail", "error"] | None = None,
) -> Response:
    """What the rows of a run came to, as they were finished."""
    run = await _run(http, eval_id, run_id)
    page = await asked(
        "output item", str(after), evals.list_items, home_of(http).database, run_id, status=status,
        after=after, limit=limit, newest_first=order == "desc",
    )  # fmt: skip
    return JSONResponse(listing(page, lambda row: show_item(row, run)))


@router.get(ITEMS + "/{item_id}")
async def retrieve_item(eval_id: str, run_id: str, item_id: str, http: HttpRequest) -> Response:
    """What one row came to."""
    run = await _run(http, eval_id, run_id)
    row = await asked(
        "output item", item_id, evals.get_item, home_of(http).database, run_id, item_id
    )
    return JSONResponse(show_item(row, run))


async def _eval(http: HttpRequest, eval_id: str) -> Record:
    database = home_of(http).database
    return await asked("eval", eval_id, evals.get_eval, database, eval_id, owner=owner_of(http))


async def _run(http: HttpRequest, eval_id: str, run_id: str) -> Record:
    database = home_of(http).database
    return await asked(
        "run", run_id, evals.get_run, database, eval_id, run_id, owner=owner_of(http)
    )


def show_eval(row: Record) -> dict[str, Any]:
    """An eval as clients know it."""
    keys = ("id", "name", "metadata", "created_at")
    return {
        **{key: row[key] for key in keys}, "object": "eval",
        "data_source_config": row["source"], "testing_criteria": row["criteria"],
    }  # fmt: skip


def show_run(row: Record) -> dict[str, Any]:
    """A run as clients know it. error is null unless it failed, as OpenAI's samples show it."""
    keys = ("id", "eval_id", "name", "status", "model", "metadata", "created_at", "error")
    usage = [{"model_name": model, "cached_tokens": 0, **numbers}
             for model, numbers in row["usage"].items()]  # fmt: skip
    criteria = [{"testing_criteria": name, **numbers}
                for name, numbers in row["counts"].get("criteria", {}).items()]  # fmt: skip
    return {
        **{key: row[key] for key in keys}, "object": "eval.run", "data_source": row["source"],
        "result_counts": {key: row["counts"][key] for key in evals.NO_COUNTS},
        "per_model_usage": usage, "per_testing_criteria_results": criteria,
        "report_url": f"{EVALS}/{row['eval_id']}/runs/{row['id']}/output_items",
    }  # fmt: skip


def show_item(row: Record, run: Record) -> dict[str, Any]:
    """An item as clients know it."""
    return {
        "id": row["id"], "object": "eval.run.output_item", "created_at": row["created_at"],
        "eval_id": run["eval_id"], "run_id": run["id"], "status": row["status"],
        "datasource_item_id": row["place"], "datasource_item": row["item"],
        "results": row["results"], "sample": row["sample"],
    }  # fmt: skip
