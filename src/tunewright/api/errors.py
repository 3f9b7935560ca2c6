"""Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, SQLAlchemyError
from starlette.exceptions import HTTPException

from tunewright.api.replies import JSONResponse
from tunewright.errors import ModelError, TunewrightError
from tunewright.jobs.quotas import QuotaSpentError
from tunewright.serve.text import Busy

RETRY_AFTER_S = 1


class ApiError(Exception):
    """A refusal with its HTTP status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.headers = dict(headers or {})
        self.status, self.message, self.param, self.code = status, message, param, code
        self.kind = kind


def no_such_model(name: str) -> ApiError:
    """404 in the words that clients look for."""
    message = f"The model `{name}` does not exist or you do not have access to it."
    return ApiError(404, message, param="model", code="model_not_found")


def envelope(error: ApiError) -> JSONResponse:
    """The reply for an error."""
    body = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
    headers = {"Retry-After": str(RETRY_AFTER_S)} if error.status == 429 else {}
    headers |= error.headers
    return JSONResponse({"error": body}, status_code=error.status, headers=headers)


async def on_api_error(request: Request, error: Exception) -> JSONResponse:
    """An error raised on purpose."""
    assert isinstance(error, ApiError)
    return envelope(error)


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Routes that are not there, methods that do not fit."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return envelope(ApiError(error.status_code, message))


async def on_invalid(request: Request, error: Exception) -> JSONResponse:
    """A body or query that is not of the right form; the first fault is told."""
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"][1:]) or "body"
    return envelope(ApiError(400, f"{place}: {fault['msg']}", param=place, code="invalid_value"))


async def on_own_error(request: Request, error: Exception) -> JSONResponse:
    """Errors of the floors below, by what they mean to a client."""
    if isinstance(error, Busy):
        return envelope(ApiError(429, str(error), kind="rate_limit_error", code="server_busy"))
    if isinstance(error, QuotaSpentError):  # waiting a moment would not help
        told = {"x-should-retry": "false"}
        kind = "insufficient_quota"
        return envelope(ApiError(429, str(error), kind=kind, code=kind, headers=told))
    if isinstance(error, ModelError):
        return envelope(ApiError(400, str(error), code="model_error"))
    assert isinstance(error, TunewrightError)
    return envelope(ApiError(400 if error.exit_status == 2 else 500, str(error)))


async def on_database_error(request: Request, error: Exception) -> JSONResponse:
    """A text that the database cannot keep is the client's fault; all else passes, and is 503."""
    assert isinstance(error, SQLAlchemyError)
    if isinstance(error, DataError):
        return envelope(ApiError(400, "a text holds a character that cannot be kept"))
    reason = str(getattr(error, "orig", None) or error).splitlines()[0][:200]
    print(f"database: {type(error).__name__}: {reason}", file=sys.stderr, flush=True)
    text = "the database does not answer; try again"
    return envelope(ApiError(503, text, kind="service_unavailable_error", code="no_database"))


def choose_text(value: Any, name: str) -> list[str]:
    """A string or a list of strings, as a list. Raises ApiError."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return list(value)
    raise ApiError(400, f"{name}: give a string or a list of strings", param=name)
