"""/v1/fine_tuning/alpha/graders: trying a grader on one answer, and checking one."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import Response
from pydantic import BaseModel, Field

from tunewright.api.answers import write_all
from tunewright.api.paging import home_of, owner_of
from tunewright.api.prompts import ChatBody, make_request
from tunewright.api.replies import JSONResponse
from tunewright.api.state import State, state_of
from tunewright.api.tuning import check_grader
from tunewright.evaluate.api_graders import FLAGS, Multi, Write, grade, parts_of, read_grader

router = APIRouter()
PLACE = "/v1/fine_tuning/alpha/graders"
RESULT_TOKENS = 256
GRADING_S = 300.0
GRADING = ThreadPoolExecutor(8, "graders")
"""Threads of their own: each waits for models that the server's other threads may have to load."""


class GraderBody(BaseModel):
    """A grader to check."""

    grader: dict[str, Any]


class RunBody(GraderBody):
    """A grader, an answer, and the row that it answers."""

    model_sample: Annotated[str, Field(max_length=1_000_000)]
    item: dict[str, Any] | None = None


@router.post(f"{PLACE}/validate")
async def validate_grader(body: GraderBody, http: HttpRequest) -> Response:
    """The grader as it is understood; 400 where it is none."""
    checked = await asyncio.to_thread(check_grader, home_of(http), body.grader, owner_of(http))
    return JSONResponse({"grader": checked})


@router.post(f"{PLACE}/run")
async def run_grader(body: RunBody, http: HttpRequest) -> Response:
    """What the grader makes of one answer."""
    checked = await asyncio.to_thread(check_grader, home_of(http), body.grader, owner_of(http))
    spec = read_grader(checked)
    begun, used = time.perf_counter(), dict[str, Counter[str]]()
    loop = asyncio.get_running_loop()
    write = asking(state_of(http), http, used, loop)
    work = partial(grade, spec, body.item or {}, body.model_sample, write)
    outcome = await loop.run_in_executor(GRADING, work)
    errors = {flag: flag in outcome.errors for flag in FLAGS}
    details = {
        "model_grader_server_error_details": outcome.errors.get("model_grader_server_error"),
        "python_grader_runtime_error_details": outcome.errors.get("python_grader_runtime_error"),
        "python_grader_server_error_type": None,
    }
    models = [part.model for part in parts_of(spec) if hasattr(part, "model")]
    return JSONResponse(
        {
            "reward": outcome.reward,
            "metadata": {
                "name": spec.name,
                "type": spec.type,  # type: ignore[attr-defined]
                "errors": {**errors, **details},
                "execution_time": time.perf_counter() - begun,
                "scores": dict(outcome.scores),
                "token_usage": sum(n["total_tokens"] for n in used.values()) or None,
                "sampled_model_name": models[0] if models else None,
            },
            "sub_rewards": dict(outcome.scores) if isinstance(spec, Multi) else {},
            "model_grader_token_usage_per_model": {
                model: numbers["total_tokens"] for model, numbers in used.items()
            },
        }
    )


def asking(
    state: State, http: HttpRequest, used: dict[str, Counter[str]], loop: asyncio.AbstractEventLoop
) -> Write:
    """A function for other threads that asks the models of this server.

    used: tokens by model. loop: where the server lives.
    """

    async def answer(body: ChatBody, schema: Mapping[str, Any]) -> str:
        model = await state.open_text(await state.resolve(body, http))
        grammar = await asyncio.to_thread(model.runner.grammar, schema)
        prompt = body.prompt_ids(model)
        most = body.max_tokens or RESULT_TOKENS
        request = make_request(body, model, prompt, 0, most, 0, grammar)
        (written,) = await write_all(model.runner, [request], http, state.deadline_s)
        note_usage(used, body.model, len(prompt), len(written.tokens))
        state.count_tokens(http, len(prompt), len(written.tokens))
        return written.text

    def write(
        model: str, turns: Sequence[tuple[str, str]], params: Mapping[str, Any],
        schema: Mapping[str, Any],
    ) -> str:  # fmt: skip
        sampling = {key: params[key] for key in ("temperature", "top_p", "seed") if key in params}
        body = ChatBody.model_validate(
            {
                "temperature": 0.0, **sampling, "model": model,
                "max_tokens": params.get("max_completions_tokens", RESULT_TOKENS),
                "messages": [{"role": role, "content": text} for role, text in turns],
            }
        )  # fmt: skip
        return asyncio.run_coroutine_threadsafe(answer(body, schema), loop).result(GRADING_S)

    return write


def note_usage(
    used: dict[str, Counter[str]], model: str, num_prompt: int, num_written: int
) -> None:
    """Add one call of a model to what was used."""
    used.setdefault(model, Counter()).update(
        invocation_count=1, prompt_tokens=num_prompt, completion_tokens=num_written,
        total_tokens=num_prompt + num_written,
    )  # fmt: skip
