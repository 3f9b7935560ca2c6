"""POST /v1/feedback: what was heard of an answer later, by the id of its request."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tunewright.api.errors import ApiError
from tunewright.api.replies import JSONResponse
from tunewright.api.state import state_of

router = APIRouter()


class Feedback(BaseModel):
    """One of label, correction, rating or outcome."""

    model_config = ConfigDict(extra="forbid")

    request_id: Annotated[str, Field(min_length=1, max_length=200)]
    label: str | list[str] | float | None = None
    correction: str | None = None
    outcome: str | None = None
    rating: Annotated[float, Field(ge=-1, le=1)] | None = None
    by: Literal["person", "model"] = "person"

    @model_validator(mode="after")
    def _says_something(self) -> Feedback:
        said = (self.label, self.correction, self.outcome, self.rating)
        if sum(item is not None for item in said) != 1:
            raise ValueError("give one of label, correction, outcome and rating")
        return self


@router.post("/v1/feedback")
async def feedback(body: Feedback, http: HttpRequest) -> Response:
    """Keeps the feedback; 404 where no traffic is kept, 503 where the server cannot keep up."""
    capture = state_of(http).capture
    if capture is None:
        raise ApiError(404, "this server keeps no traffic; start it with --capture DIR")
    given = next(
        (item for item in (body.label, body.correction, body.outcome) if item is not None), None
    )
    label = tuple(given) if isinstance(given, list) else given
    if not capture.feedback(body.request_id, label=label, rating=body.rating, by=body.by):
        raise ApiError(503, "too much feedback waits; try again later")
    return JSONResponse({"object": "feedback", "request_id": body.request_id})
