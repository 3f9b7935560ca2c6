"""Every route that there is, and what a key must be good for to use it.

A route that stands here not at all asks for admin, and fails the tests. "open" needs no key.
"""

from __future__ import annotations

from typing import Literal

from fastapi import Request

from tunewright.access import EVERYBODY, Caller
from tunewright.api.errors import ApiError

Need = Literal["open", "read", "infer", "tune", "admin"]
CALLER = "tunewright.caller"

CENSUS: dict[tuple[str, str], Need] = {
    ("GET", "/healthz"): "open",
    ("GET", "/readyz"): "open",
    ("GET", "/metrics"): "read",
    ("GET", "/openapi.json"): "read",
    ("GET", "/v1/models"): "read",
    ("GET", "/v1/models/{name:path}"): "read",
    ("POST", "/v1/chat/completions"): "infer",
    ("POST", "/v1/completions"): "infer",
    ("POST", "/v1/embeddings"): "infer",
    ("POST", "/v1/classify"): "infer",
}


def caller_of(request: Request) -> Caller:
    """Who asks."""
    caller: Caller = request.scope.get(CALLER, EVERYBODY)
    return caller


def check_scope(request: Request) -> None:
    """Refuse a key that is not good for this route. Raises ApiError 403."""
    path = getattr(request.scope.get("route"), "path", "")
    method = "GET" if request.method == "HEAD" else request.method
    need = CENSUS.get((method, path), "admin")
    if need != "open" and not caller_of(request).may(need):
        raise ApiError(
            403,
            f"this key may not do this: it needs the scope {need!r}",
            code="insufficient_permissions",
            kind="permission_error",
        )
