"""Replies as JSON, whatever the text in them."""

from __future__ import annotations

import json
from typing import Any

from fastapi.responses import JSONResponse as _Plain


class JSONResponse(_Plain):
    """FastAPI's, which also takes halves of surrogate pairs: clients may send them as escapes, and
    what they sent comes back."""

    def render(self, content: Any) -> bytes:
        """The body."""
        try:
            return super().render(content)
        except UnicodeEncodeError:
            return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def is_storable(content: Any) -> bool:
    """Whether JSON of it is what every database takes: no NaN, no infinity, no endless depth."""
    try:
        json.dumps(content, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True
