"""Answers handed to the capture of traffic, where the server has one; never a reason to wait."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from fastapi import Request as HttpRequest

from tunewright.api.answers import Written
from tunewright.api.census import caller_of
from tunewright.api.prompts import ChatBody
from tunewright.api.state import ANSWERED_BY, State
from tunewright.records import Prediction, Request
from tunewright.serve.capture import client_name


def keep_decisions(
    state: State,
    http: HttpRequest,
    model: str,
    name: str,
    texts: Sequence[str],
    predictions: Sequence[Prediction],
    latency_s: float,
) -> None:
    """Keep each text with its decision, under NAME-INDEX."""
    if state.capture is None:
        return
    release, client, now = _who(http, model, None)
    for number, (text, said) in enumerate(zip(texts, predictions, strict=True)):
        state.capture.put(
            Request(
                id=f"{name}-{number}",
                time_s=now,
                input=text,
                answer=said.prediction,
                confidence=said.confidence,
                probabilities=said.probabilities,
                latency_s=latency_s,
                release=release,
                client=client,
            )
        )


def keep_chat(
    state: State,
    http: HttpRequest,
    body: ChatBody,
    name: str,
    answers: Sequence[Written],
    latency_s: float,
) -> None:
    """Keep the last message of the user with each answer; the first under its own name.

    The confidence is the mean probability of the tokens that were written.
    """
    if state.capture is None:
        return
    extra = body.model_extra or {}
    release, client, now = _who(http, body.model, extra.get("user"))
    asked = last_user(body)
    for number, written in enumerate(answers):
        logs = [token.log_probability for token in written.tokens]
        state.capture.put(
            Request(
                id=name if number == 0 else f"{name}-{number}",
                time_s=now,
                input=asked,
                answer=written.text,
                confidence=math.exp(sum(logs) / len(logs)) if logs else None,
                latency_s=latency_s,
                release=release,
                client=client,
            )
        )


def _who(http: HttpRequest, model: str, user: object) -> tuple[str, str | None, float]:
    """(release or model, client as a hash, now)."""
    release = str(http.scope.get(ANSWERED_BY, model))
    client = str(user) if user else caller_of(http).id
    return release, client_name(client), time.time()


def last_user(body: ChatBody) -> str:
    """What the user said last."""
    for message in reversed(body.messages):
        plain = message if isinstance(message, dict) else message.model_dump()
        if plain.get("role") == "user":
            content = plain.get("content")
            if isinstance(content, str):
                return content
            return "\n".join(str(p.get("text") or "") for p in content or () if isinstance(p, dict))
    return ""
