"""POST /v1/completions: bare prompts, with echo and log-probabilities for evaluation harnesses."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import Response, StreamingResponse

from tunewright.api.answers import Stream, Written, take, wait_for, write_all
from tunewright.api.chat import EVENT_STREAM, event, usage
from tunewright.api.errors import ApiError
from tunewright.api.prompts import CompletionBody, make_request
from tunewright.api.replies import JSONResponse
from tunewright.api.state import State, state_of
from tunewright.hosting import TextModel
from tunewright.model.prompt_scores import Scores

router = APIRouter()
DEFAULT_TOKENS = 16
Scored = tuple[list[float | None], list[dict[str, float] | None]]


@router.post("/v1/completions")
async def create_completion(body: CompletionBody, http: HttpRequest) -> Response:
    """Go on from each prompt."""
    body.refuse_unknown()
    state = state_of(http)
    model = await state.open_text(await state.resolve(body, http))
    prompts = body.prompts(model)
    most = DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
    if most == 0 and not body.echo:
        raise ApiError(400, "max_tokens: 0 gives nothing without echo", param="max_tokens")
    if most > 0:
        for prompt in prompts:
            model.runner.space(prompt, most)
    if body.stream:
        return _stream(body, model, prompts, most, state, http)
    answers = await _answers(body, model, prompts, most, state, http)
    scored = await _score_prompts(body, model, prompts, http) if body.echo else None
    num_prompt = sum(map(len, prompts))
    num_written = sum(len(item.tokens) for item in answers)
    state.count_tokens(http, num_prompt, num_written)
    per_prompt = body.n or 1
    choices = [
        _choice(body, model, number, item, prompts[number // per_prompt],
                scored[number // per_prompt] if scored else None)
        for number, item in enumerate(answers)
    ]  # fmt: skip
    return JSONResponse(
        {**_frame(body), "choices": choices, "usage": usage(num_prompt, num_written)}
    )


async def _answers(
    body: CompletionBody,
    model: TextModel,
    prompts: list[list[int]],
    most: int,
    state: State,
    http: HttpRequest,
) -> list[Written]:
    if most == 0:
        return [Written(finish_reason="length") for _ in prompts for _ in range(body.n or 1)]
    requests = [
        make_request(body, model, prompt, choice, most, body.logprobs or 0)
        for prompt in prompts
        for choice in range(body.n or 1)
    ]
    return await write_all(model.runner, requests, http, state.deadline_s)


async def _score_prompts(
    body: CompletionBody, model: TextModel, prompts: list[list[int]], http: HttpRequest
) -> list[Scored] | None:
    """Log-probability of every prompt token after those before it; the first has none."""
    if body.logprobs is None:
        return None
    future = model.runner.score(prompts, model.adapter, max(1, body.logprobs))
    scored = await wait_for(asyncio.wrap_future(future), http, state_of(http).deadline_s)
    return [_named(model, item) for item in scored]


def _named(model: TextModel, scores: Scores) -> Scored:
    decode = model.rendering.tokenizer.decode
    tops = [{decode([number]): value for number, value in row} for row in scores.tops]
    return [None, *scores.log_probabilities], [None, *tops]


def _choice(
    body: CompletionBody,
    model: TextModel,
    number: int,
    item: Written,
    prompt: list[int],
    scored: Scored | None,
) -> dict[str, Any]:
    decode = model.rendering.tokenizer.decode
    text = decode(prompt) + item.text if body.echo else item.text
    logprobs = None
    if body.logprobs is not None:
        ids = [token.id for token in item.tokens]
        values: list[float | None] = [token.log_probability for token in item.tokens]
        tops: list[dict[str, float] | None] = [
            {decode([n]): value for n, value in token.tops} for token in item.tokens
        ]
        if scored is not None:
            ids, values, tops = [*prompt, *ids], scored[0] + values, scored[1] + tops
        words = [decode([token]) for token in ids]
        offsets = [0]
        for word in words[:-1]:
            offsets.append(offsets[-1] + len(word))
        logprobs = {
            "tokens": words,
            "token_logprobs": values,
            "top_logprobs": tops,
            "text_offset": offsets[: len(words)],
        }
    return {
        "index": number,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": item.finish_reason,
    }


def _stream(
    body: CompletionBody,
    model: TextModel,
    prompts: list[list[int]],
    most: int,
    state: State,
    http: HttpRequest,
) -> Response:
    if len(prompts) * (body.n or 1) > 1 or body.echo:
        raise ApiError(400, "stream: one prompt, one answer, no echo", param="stream")
    request = make_request(body, model, prompts[0], 0, most, body.logprobs or 0)
    frame = _frame(body)

    async def events() -> AsyncIterator[str]:
        written = Written()
        try:
            async with Stream(model.runner, request, state.deadline_s) as stream:
                async for token in stream.tokens(http):
                    take(written, token, model.runner.ends)
                    reason = written.finish_reason if token.ended else None
                    choice = {"index": 0, "text": token.text, "logprobs": None,
                              "finish_reason": reason}  # fmt: skip
                    if token.text or reason:
                        yield event({**frame, "choices": [choice]})
        except ApiError as error:
            yield event({"error": {"message": error.message, "type": error.kind, "param": None,
                                   "code": error.code}})  # fmt: skip
            return
        state.count_tokens(http, len(prompts[0]), len(written.tokens))
        if body.wants_usage:
            counts = usage(len(prompts[0]), len(written.tokens))
            yield event({**frame, "choices": [], "usage": counts})
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type=EVENT_STREAM)


def _frame(body: CompletionBody) -> dict[str, Any]:
    return {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.model,
    }
