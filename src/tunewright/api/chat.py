"""POST /v1/chat/completions: whole or streamed."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import Response, StreamingResponse

from tunewright.api.answers import Stream, Written, take, write_all
from tunewright.api.errors import ApiError
from tunewright.api.keeping import keep_chat, last_user
from tunewright.api.prompts import ChatBody, make_request
from tunewright.api.replies import JSONResponse
from tunewright.api.state import State, state_of
from tunewright.api.tool_calls import Holding, Offer, find_calls
from tunewright.errors import ModelError
from tunewright.hosting import TextModel
from tunewright.model.engine import Token
from tunewright.model.grammar import Grammar

router = APIRouter()
EVENT_STREAM = "text/event-stream"


@router.post("/v1/chat/completions")
async def create_chat_completion(body: ChatBody, http: HttpRequest) -> Response:
    """Answer a conversation."""
    body.check()
    state = state_of(http)
    model = await state.open_text(await state.resolve(body, http))
    prompt = body.prompt_ids(model)
    most = body.max_completion_tokens or body.max_tokens or model.max_new_tokens
    tops = (body.top_logprobs or 0) if body.logprobs else 0
    grammar = await _grammar(body, model)
    requests = [
        make_request(body, model, prompt, choice, most, tops, grammar)
        for choice in range(body.n or 1)
    ]
    for request in requests:
        model.runner.space(request.prompt, request.max_new_tokens)
    if body.stream:
        if len(requests) > 1:
            raise ApiError(400, "n: a stream has one answer; leave n out", param="n")
        events = _events(body, model, requests[0], state, http, len(prompt))
        return StreamingResponse(events, media_type=EVENT_STREAM)
    begun = time.perf_counter()
    answers = await write_all(model.runner, requests, http, state.deadline_s)
    state.count_tokens(http, len(prompt), sum(len(item.tokens) for item in answers))
    whole = _whole(body, model, answers, len(prompt))
    keep_chat(state, http, body, whole["id"], answers, time.perf_counter() - begun)
    state.mirror.chat(http, body, whole["id"], last_user(body), answers[0].text)
    return JSONResponse(whole)


async def _grammar(body: ChatBody, model: TextModel) -> Grammar | None:
    """Compiled off the event loop: a long schema takes its time. Raises ApiError."""
    if body.answer_schema is None:
        return None
    try:
        return await asyncio.to_thread(model.runner.grammar, body.answer_schema)
    except ModelError as error:
        raise ApiError(400, f"response_format: {error}", param="response_format") from None


def _whole(
    body: ChatBody, model: TextModel, answers: list[Written], num_prompt: int
) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.model,
        "choices": [
            {
                "index": number,
                **_said(item, body.offer()),
                "logprobs": _logprobs(body, model, item.tokens),
            }
            for number, item in enumerate(answers)
        ],
        "usage": usage(num_prompt, sum(len(item.tokens) for item in answers)),
        "system_fingerprint": None,
    }


def _said(item: Written, offer: Offer | None) -> dict[str, Any]:
    """The message and why it ended: text, or calls of tools."""
    message: dict[str, Any] = {"role": "assistant", "content": item.text, "refusal": None}
    text, calls = (item.text, []) if offer is None else find_calls(item.text, offer)
    if not calls:
        return {"message": message, "finish_reason": item.finish_reason}
    shown = [call.shown() for call in calls]
    message |= {"content": text or None, "tool_calls": shown}
    return {"message": message, "finish_reason": "tool_calls"}


def _logprobs(body: ChatBody, model: TextModel, tokens: list[Token]) -> dict[str, Any] | None:
    if not body.logprobs:
        return None
    return {"content": [_one_logprob(model, token) for token in tokens], "refusal": None}


def _one_logprob(model: TextModel, token: Token) -> dict[str, Any]:
    return {
        **_spelled(model, token.id, token.log_probability),
        "top_logprobs": [_spelled(model, number, value) for number, value in token.tops],
    }


def _spelled(model: TextModel, number: int, value: float) -> dict[str, Any]:
    text = model.rendering.tokenizer.decode([number])
    return {"token": text, "logprob": value, "bytes": list(text.encode())}


async def _events(
    body: ChatBody, model: TextModel, request: Any, state: State, http: HttpRequest, num_prompt: int
) -> AsyncIterator[str]:
    """Server-sent events: a chunk for each piece, a last one with the reason, [DONE]."""
    frame = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": body.model,
        "system_fingerprint": None,
    }

    def chunk(delta: dict[str, Any], reason: str | None, logprobs: Any = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return event({**frame, "choices": [choice]})

    written, begun = Written(), time.perf_counter()
    offer = body.offer()
    holding = None if offer is None else Holding(offer)
    yield chunk({"role": "assistant", "content": "", "refusal": None}, None)
    try:
        async with Stream(model.runner, request, state.deadline_s) as stream:
            async for token in stream.tokens(http):
                take(written, token, model.runner.ends)
                is_text = token.id >= 0 and token.id not in model.runner.ends
                logprobs = _logprobs(body, model, [token]) if is_text else None
                text = token.text if holding is None else holding.add(token.text)
                if text or logprobs:
                    yield chunk({"content": text}, None, logprobs)
    except ApiError as error:
        yield event({"error": {"message": error.message, "type": error.kind, "param": None,
                               "code": error.code}})  # fmt: skip
        return
    state.count_tokens(http, num_prompt, len(written.tokens))
    keep_chat(state, http, body, str(frame["id"]), [written], time.perf_counter() - begun)
    state.mirror.chat(http, body, str(frame["id"]), last_user(body), written.text)
    rest, calls = ("", []) if holding is None else holding.end()
    if rest:
        yield chunk({"content": rest}, None)
    for number, call in enumerate(calls):
        yield chunk({"tool_calls": [{"index": number, **call.shown()}]}, None)
    yield chunk({}, "tool_calls" if calls else written.finish_reason)
    if body.wants_usage:
        yield event({**frame, "choices": [], "usage": usage(num_prompt, len(written.tokens))})
    yield "data: [DONE]\n\n"


def event(content: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def usage(num_prompt: int, num_written: int) -> dict[str, int]:
    """Token counts as clients bill by."""
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_written,
        "total_tokens": num_prompt + num_written,
    }
