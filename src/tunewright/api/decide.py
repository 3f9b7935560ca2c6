"""POST /v1/classify and /v1/embeddings: models that answer in one pass."""

from __future__ import annotations

import asyncio
import base64
import secrets
import struct
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from tunewright.api.answers import wait_for
from tunewright.api.errors import ApiError, choose_text
from tunewright.api.keeping import keep_decisions
from tunewright.api.replies import JSONResponse
from tunewright.api.state import state_of
from tunewright.records import Prediction, Span
from tunewright.serve.batches import BatchRunner

router = APIRouter()
MAX_TEXTS = 2048


class Texts(BaseModel):
    """Texts to decide on or to embed."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: Annotated[str, Field(min_length=1, max_length=512)]
    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


@router.post("/v1/classify")
async def classify(body: Texts, http: HttpRequest) -> Response:
    """A label (or value, or spans) and its confidence for each text, with every label's score."""
    state = state_of(http)
    model = await state.open_labels(await state.resolve(body, http))
    texts = _texts(body)
    begun = time.perf_counter()
    predictions: list[Prediction] = await _ask(model.runner, texts, http)
    name = f"clf-{secrets.token_hex(12)}"
    took_s = time.perf_counter() - begun
    keep_decisions(state, http, body.model, name, texts, predictions, took_s)
    for number, (text, said) in enumerate(zip(texts, predictions, strict=True)):
        state.mirror.decision(http, f"{name}-{number}", text, said.prediction)
    data = [
        _decision(number, item, model.labels) | _use(item, model.labels, model.threshold)
        for number, item in enumerate(predictions)
    ]
    return JSONResponse({"object": "list", "id": name, "model": body.model, "data": data})


@router.post("/v1/embeddings")
async def embeddings(body: Texts, http: HttpRequest) -> Response:
    """A vector of unit length for each text."""
    if body.dimensions is not None:
        raise ApiError(400, "dimensions: the model's own are given", param="dimensions")
    state = state_of(http)
    model = await state.open_embedding(await state.resolve(body, http))
    texts = _texts(body)
    vectors = await _ask(model.runner, texts, http)
    num_tokens = await asyncio.to_thread(model.count_tokens, texts)
    state.count_tokens(http, num_tokens, 0)
    data = [
        {"object": "embedding", "index": number, "embedding": _encode(vector, body.encoding_format)}
        for number, vector in enumerate(vectors)
    ]
    counts = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return JSONResponse({"object": "list", "model": body.model, "data": data, "usage": counts})


def _texts(body: Texts) -> list[str]:
    texts = choose_text(body.input, "input")
    if len(texts) > MAX_TEXTS:
        raise ApiError(400, f"input: at most {MAX_TEXTS} texts in one request", param="input")
    if not all(texts):
        raise ApiError(400, "input: an empty text", param="input")
    return texts


async def _ask(runner: BatchRunner, texts: list[str], http: HttpRequest) -> list[Any]:
    """Answers of the next batches; what still waits is given up when the client goes away."""
    futures = [asyncio.wrap_future(future) for future in runner.submit(texts)]
    return list(await wait_for(asyncio.gather(*futures), http, state_of(http).deadline_s))


def _decision(number: int, item: Prediction, labels: tuple[str, ...]) -> dict[str, Any]:
    answer: Any = item.prediction
    if isinstance(answer, tuple):
        answer = [
            {"start": p.start, "end": p.end, "label": p.label} if isinstance(p, Span) else p
            for p in answer
        ]
    scores = None
    if item.probabilities is not None:
        scores = dict(zip(labels, item.probabilities, strict=True))
    return {"index": number, "label": answer, "score": item.confidence, "scores": scores}


def _use(
    item: Prediction, labels: tuple[str, ...], threshold: Mapping[str, Any] | None
) -> dict[str, bool]:
    """Whether a person should answer, or an alarm is due, by the threshold of the run; else {}."""
    value = None if threshold is None else threshold["value"]
    if threshold is None or value is None:
        return {}
    if threshold["kind"] == "hand over":
        return {"hand_over": item.confidence is None or item.confidence < value}
    if item.probabilities is None or threshold["positive"] not in labels:
        return {}
    return {"alarm": item.probabilities[labels.index(threshold["positive"])] >= value}


def _encode(vector: Any, encoding: str) -> Any:
    values = [float(value) for value in vector]
    if encoding == "float":
        return values
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
