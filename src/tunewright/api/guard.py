"""Who may ask: keys, hosts and origins, and how large a body may be.

A server on loopback needs no key, until there is one. Any page in a browser could send requests
there, so the Host must be one of ours (against DNS rebinding) and an Origin, where a browser sends
one, too; what changes something is refused when a browser says that another site asks for it.
Headers that proxies set (X-Forwarded-...) are not looked at; the path is the one that routes see.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from tunewright.access import EVERYBODY, Caller, KeyRing
from tunewright.api.census import CALLER
from tunewright.errors import UserError
from tunewright.settings import MAX_PART_BYTES

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY_BYTES = 8 << 20
FORM_BYTES = 4 << 20
"""What a form may have beside its file, and what a file over its limit may have too much to still
be answered in words."""
COOKIE = "tunewright_session"
OPEN_PATHS = ("/healthz", "/readyz", "/login", "/static/pages.css", "/static/pages.js")
SAFE = ("GET", "HEAD", "OPTIONS")
FORM_TYPES = (b"application/x-www-form-urlencoded", b"text/plain")
"""What a form of any site can send without asking first; no call of the API takes it."""
FindSession = Callable[[str], Caller | None]


def check_binding(host: str, keys: KeyRing) -> None:
    """Raise UserError for an address beyond loopback without a key."""
    if host not in LOOPBACK and keys.is_empty:
        raise UserError(
            f"--host {host}: others could reach the server; make a key first (tunewright keys "
            "create, or TUNEWRIGHT_API_KEY), or leave out --host"
        )


class Guard:
    """ASGI middleware in front of every route. keys: none means that no key is asked for.

    sessions: finds who logged in to the pages, by the cookie that login gave.
    """

    def __init__(
        self,
        app: App,
        *,
        keys: Iterable[str] | KeyRing = (),
        hosts: Iterable[str] = LOOPBACK,
        sessions: FindSession | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_file_bytes: int | None = None,
    ) -> None:
        self.app = app
        self.keys = keys if isinstance(keys, KeyRing) else KeyRing(tuple(keys))
        self.sessions = sessions
        self.hosts = {host.lower() for host in hosts}
        self.max_body_bytes, self.max_file_bytes = max_body_bytes, max_file_bytes

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Refuse, or hand on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            if refusal[0] == 401 and _wants_page(scope, headers):
                await _send_to_login(send)
            else:
                await _refuse(send, *refusal)
            return
        await self.app(scope, _Limited(receive, self._limit(scope)), send)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str, str] | None:
        """(status, message, code), or None."""
        hosts = [value for name, value in scope["headers"] if name.lower() == b"host"]
        host = _host_name(hosts[0].decode("latin-1")) if len(hosts) == 1 else ""
        if host not in self.hosts:
            return 421, f"Host {host!r} is not served here; start with --allow-host", "bad_host"
        origin = headers.get(b"origin")
        if origin is not None and not self._is_own(origin.decode("latin-1")):
            return 403, "requests from other sites are refused", "bad_origin"
        is_change = scope["method"] not in SAFE
        if is_change and headers.get(b"sec-fetch-site") == b"cross-site":
            return 403, "requests from other sites are refused", "bad_origin"
        caller = self._caller(scope, headers)
        if caller is None:
            return 401, "Incorrect API key provided.", "invalid_api_key"
        scope[CALLER] = caller
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if is_change and scope["path"].startswith("/v1/") and kind in FORM_TYPES:
            return 415, "Content-Type: send application/json", "bad_content_type"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return 400, "Content-Length is not a number", "bad_length"
        if int(length) > self._limit(scope):
            return 413, f"body larger than {self._limit(scope)} bytes", "body_too_large"
        return None

    def _limit(self, scope: Scope) -> int:
        """Most bytes of a body; files go to disk and may be larger, their routes count exactly."""
        if self.max_file_bytes is None or scope["method"] != "POST":
            return self.max_body_bytes
        path = scope["path"]
        if path == "/v1/files":
            return self.max_file_bytes + FORM_BYTES
        if path.startswith("/v1/uploads/") and path.endswith("/parts"):
            return MAX_PART_BYTES + FORM_BYTES
        return self.max_body_bytes

    def _is_own(self, origin: str) -> bool:
        scheme, mark, rest = origin.partition("://")
        return scheme in ("http", "https") and bool(mark) and _host_name(rest) in self.hosts

    def _caller(self, scope: Scope, headers: dict[bytes, bytes]) -> Caller | None:
        """Who asks; nobody may, and nobody does, with a key that is wrong."""
        word, _, key = headers.get(b"authorization", b"").partition(b" ")
        if self.keys.is_empty:
            return EVERYBODY
        if word.lower() == b"bearer":
            found = self.keys.find(key.strip())
        else:
            found = self._logged_in(headers)
        if found is None and scope["path"] in OPEN_PATHS:
            return Caller("nobody", frozenset())
        return found

    def _logged_in(self, headers: dict[bytes, bytes]) -> Caller | None:
        if self.sessions is None:
            return None
        for pair in headers.get(b"cookie", b"").decode("latin-1").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == COOKIE:
                found = self.sessions(value)
                return found if found and self.keys.is_in_force(found) else None
        return None


class _Limited:
    """receive() that ends a body which grows beyond the limit without having said so."""

    def __init__(self, receive: Any, limit: int) -> None:
        self.receive, self.left = receive, limit

    async def __call__(self) -> Any:
        message = await self.receive()
        self.left -= len(message.get("body", b""))
        if self.left < 0:
            return {"type": "http.disconnect"}
        return message


async def _refuse(send: Any, status: int, message: str, code: str) -> None:
    kind = "authentication_error" if status == 401 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _wants_page(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    """A person's browser asks for a page, not a program for an answer."""
    is_page = not scope["path"].startswith("/v1/") and scope["method"] == "GET"
    return is_page and b"text/html" in headers.get(b"accept", b"")


async def _send_to_login(send: Any) -> None:
    headers = [(b"location", b"/login"), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _host_name(host: str) -> str:
    """The name without port: "[::1]:80" is "::1"."""
    host = host.strip().lower()
    if host.startswith("["):
        inner, _, rest = host[1:].partition("]")
        return inner if rest == "" or (rest[0] == ":" and rest[1:].isdigit()) else host
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host
