"""What every page of the dashboard shares: templates, who is logged in, the token of its forms.

Pages hold nothing from outside and no script of their own: one style and one script, both ours.
A form or script that changes something sends the page's token back; other sites cannot read it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

from fastapi import Request
from fastapi.responses import HTMLResponse, Response

from tunewright import figures
from tunewright.access import Caller
from tunewright.api.census import caller_of
from tunewright.api.errors import ApiError
from tunewright.api.guard import COOKIE
from tunewright.report.shell import breakable, shorten

SESSION_S = 12 * 3600
MAX_SESSIONS = 1000
MAX_FORM_BYTES = 64 << 10
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
NAV = (
    ("/", "Overview"),
    ("/runs", "Runs"),
    ("/tune", "Tune"),
    ("/releases", "Releases"),
    ("/story", "Story"),
    ("/playground", "Playground"),
    ("/traffic", "Traffic"),
    ("/monitoring", "Monitoring"),
)


class Sessions:
    """Who logged in with a key, by the random text of a cookie. Lost when the server stops."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._open: dict[str, tuple[Caller, float]] = {}

    def begin(self, caller: Caller) -> str:
        """The cookie of a new session."""
        while len(self._open) >= MAX_SESSIONS:
            self._open.pop(next(iter(self._open)))
        token = secrets.token_urlsafe(32)
        self._open[token] = (caller, time.monotonic() + SESSION_S)
        return token

    def find(self, token: str) -> Caller | None:
        """Who has this cookie, or None."""
        caller, ends_at = self._open.get(token, (None, 0.0))
        return caller if time.monotonic() < ends_at else None

    def end(self, token: str) -> None:
        """Log out."""
        self._open.pop(token, None)

    def form_token(self, request: Request) -> str:
        """What forms of this visitor must send back."""
        cookie = request.cookies.get(COOKIE, "")
        return hmac.new(self._secret, cookie.encode(), hashlib.sha256).hexdigest()


def sessions_of(request: Request) -> Sessions:
    """The sessions of this server."""
    sessions: Sessions = request.app.state.sessions
    return sessions


def check_token(request: Request, given: str) -> None:
    """Raise ApiError 403 unless the page's own token came back."""
    wanted = sessions_of(request).form_token(request)
    if not hmac.compare_digest(wanted.encode(), given.encode()):
        raise ApiError(403, "this form is out of date; load the page again", code="bad_token")


async def read_form(request: Request) -> Mapping[str, str]:
    """The fields of a form, the first of each name, its token checked. Raises ApiError."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM_BYTES:
            raise ApiError(413, f"form larger than {MAX_FORM_BYTES} bytes")
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=100)
    except ValueError as error:
        raise ApiError(400, f"form: not readable ({error})") from None
    values = {name: found[0] for name, found in fields.items()}
    check_token(request, values.get("token", ""))
    return values


def show_page(request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    """One page of the dashboard."""
    caller = caller_of(request)
    text = _environment().get_template(template).render(
        **values,
        nav=NAV,
        path=request.scope["path"],
        token=sessions_of(request).form_token(request),
        may=caller.may,
        logged_in=bool(request.cookies.get(COOKIE)) and bool(caller.id),
    )  # fmt: skip
    return HTMLResponse(text, status_code=status, headers=HEADERS)


def render_part(template: str, **values: Any) -> str:
    """A piece of a page, for scripts to put in."""
    return str(_environment().get_template(template).render(**values))


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tunewright", "web/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "text": shorten, "begin": figures.begin, "code": breakable, "when": show_time,
        "metric": figures.metric_title,
    }  # fmt: skip
    environment.globals |= {
        "show_value": figures.show_value, "show_interval": figures.show_interval,
        "show_seconds": figures.show_seconds,
        "show_bytes": figures.show_bytes, "show_number": figures.show_number,
        "tones": {"ship": "good", "more data": "open", "do not tune": "calm",
                  "production": "good", "canary": "open", "shadow": "calm", "finished": "good",
                  "running": "open",
                  "better": "good", "succeeded": "good", "failed": "bad", "queued": "open",
                   "worse": "bad", "cannot tell": "open"},
    }  # fmt: skip
    return environment


def show_time(value: Any) -> str:
    """A moment, in local time to the minute. value: seconds since 1970, or ISO 8601."""
    from datetime import datetime

    moment = (
        datetime.fromisoformat(value).astimezone()
        if isinstance(value, str)
        else datetime.fromtimestamp(value)
    )
    return moment.strftime("%Y-%m-%d %H:%M")


@lru_cache(maxsize=2)
def static_text(kind: str) -> str:
    """Style ("css") or script ("js") of all pages."""
    styles = ("report.css", "benefit.css", "pages/pages.css")
    names = {"css": styles, "js": ("pages/pages.js",)}[kind]
    folder = files("tunewright") / "web" / "templates"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)
