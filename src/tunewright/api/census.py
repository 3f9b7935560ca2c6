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
LIMITS = "tunewright.limits"
"""Headers of the reply that tell what is left of a quota."""

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
    ("POST", "/v1/feedback"): "infer",
    ("DELETE", "/v1/models/{name:path}"): "tune",
    ("POST", "/v1/files"): "tune",
    ("GET", "/v1/files"): "read",
    ("GET", "/v1/files/{file_id}"): "read",
    ("GET", "/v1/files/{file_id}/content"): "read",
    ("DELETE", "/v1/files/{file_id}"): "tune",
    ("POST", "/v1/uploads"): "tune",
    ("POST", "/v1/uploads/{upload_id}/parts"): "tune",
    ("POST", "/v1/uploads/{upload_id}/complete"): "tune",
    ("POST", "/v1/uploads/{upload_id}/cancel"): "tune",
    ("POST", "/v1/fine_tuning/jobs"): "tune",
    ("GET", "/v1/fine_tuning/jobs"): "read",
    ("GET", "/v1/fine_tuning/jobs/{job_id}"): "read",
    ("POST", "/v1/fine_tuning/jobs/{job_id}/cancel"): "tune",
    ("POST", "/v1/fine_tuning/jobs/{job_id}/pause"): "tune",
    ("POST", "/v1/fine_tuning/jobs/{job_id}/resume"): "tune",
    ("GET", "/v1/fine_tuning/jobs/{job_id}/events"): "read",
    ("GET", "/v1/fine_tuning/jobs/{job_id}/checkpoints"): "read",
    ("GET", "/v1/fine_tuning/jobs/{job_id}/report"): "read",
    ("GET", "/v1/fine_tuning/jobs/{job_id}/report.json"): "read",
    ("GET", "/v1/fine_tuning/jobs/{job_id}/card.json"): "read",
    ("POST", "/v1/fine_tuning/alpha/graders/run"): "tune",
    ("POST", "/v1/fine_tuning/alpha/graders/validate"): "tune",
    ("POST", "/v1/evals"): "tune",
    ("GET", "/v1/evals"): "read",
    ("GET", "/v1/evals/{eval_id}"): "read",
    ("POST", "/v1/evals/{eval_id}"): "tune",
    ("DELETE", "/v1/evals/{eval_id}"): "tune",
    ("POST", "/v1/evals/{eval_id}/runs"): "tune",
    ("GET", "/v1/evals/{eval_id}/runs"): "read",
    ("GET", "/v1/evals/{eval_id}/runs/{run_id}"): "read",
    ("POST", "/v1/evals/{eval_id}/runs/{run_id}"): "tune",
    ("POST", "/v1/evals/{eval_id}/runs/{run_id}/cancel"): "tune",
    ("DELETE", "/v1/evals/{eval_id}/runs/{run_id}"): "tune",
    ("GET", "/v1/evals/{eval_id}/runs/{run_id}/output_items"): "read",
    ("GET", "/v1/evals/{eval_id}/runs/{run_id}/output_items/{item_id}"): "read",
    ("POST", "/v1/fine_tuning/checkpoints/{model}/permissions"): "admin",
    ("GET", "/v1/fine_tuning/checkpoints/{model}/permissions"): "admin",
    ("DELETE", "/v1/fine_tuning/checkpoints/{model}/permissions/{permission_id}"): "admin",
    ("GET", "/"): "read",
    ("GET", "/runs"): "read",
    ("GET", "/runs/{name}"): "read",
    ("GET", "/runs/{name}/events"): "read",
    ("GET", "/runs/{name}/report"): "read",
    ("GET", "/runs/{name}/watch"): "read",
    ("GET", "/runs/{name}/benefit"): "read",
    ("GET", "/monitoring"): "read",
    ("GET", "/story"): "read",
    ("GET", "/story/{name}"): "read",
    ("GET", "/runs/{name}/review"): "read",
    ("POST", "/runs/{name}/review"): "tune",
    ("GET", "/tune"): "read",
    ("POST", "/tune/forecast"): "tune",
    ("GET", "/compare"): "read",
    ("GET", "/traffic"): "read",
    ("GET", "/playground"): "read",
    ("GET", "/releases"): "read",
    ("POST", "/releases/promote"): "admin",
    ("POST", "/releases/rollback"): "admin",
    ("GET", "/login"): "open",
    ("POST", "/login"): "open",
    ("POST", "/logout"): "open",
    ("GET", "/static/pages.{kind}"): "open",
}


def caller_of(request: Request) -> Caller:
    """Who asks."""
    caller: Caller = request.scope.get(CALLER, EVERYBODY)
    return caller


async def check_scope(request: Request) -> None:
    """Refuse a key that is not good for this route, or has used what it may. Raises ApiError.

    Async, though it waits for nothing: FastAPI would send it to a thread for every request.
    """
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
    if path.startswith("/v1/"):
        request.scope[LIMITS] = request.app.state.server.limits.enter(caller_of(request))
