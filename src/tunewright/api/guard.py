"""Who may ask: keys, hosts and origins, and how large a body may be.

A server on loopback needs no key. Any page in a browser could send requests there, so the Host
must be one of ours (against DNS rebinding) and an Origin, where a browser sends one, too.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from tunewright.errors import UserError

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY_BYTES = 8 << 20
OPEN_PATHS = ("/healthz", "/readyz")


def check_binding(host: str, keys: Iterable[str]) -> None:
    """Raise UserError for an address beyond loopback without a key."""
    if host not in LOOPBACK and not tuple(keys):
        raise UserError(
            f"--host {host}: others could reach the server; set TUNEWRIGHT_API_KEY first, or leave "
            "out --host"
        )


class Guard:
    """ASGI middleware in front of every route. keys: none means that no key is asked for."""

    def __init__(
        self,
        app: App,
        *,
        keys: Iterable[str] = (),
        hosts: Iterable[str] = LOOPBACK,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self.app = app
        self.keys = [hashlib.sha256(key.encode()).digest() for key in keys]
        self.hosts = {host.lower() for host in hosts}
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Refuse, or hand on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        await self.app(scope, _Limited(receive, self.max_body_bytes), send)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str, str] | None:
        """(status, message, code), or None."""
        host = _host_name(headers.get(b"host", b"").decode("latin-1"))
        if host not in self.hosts:
            return 421, f"Host {host!r} is not served here; start with --allow-host", "bad_host"
        origin = headers.get(b"origin")
        if origin is not None and not self._is_own(origin.decode("latin-1")):
            return 403, "requests from other sites are refused", "bad_origin"
        if not self._has_key(scope, headers.get(b"authorization", b"")):
            return 401, "Incorrect API key provided.", "invalid_api_key"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return 400, "Content-Length is not a number", "bad_length"
        if int(length) > self.max_body_bytes:
            return 413, f"body larger than {self.max_body_bytes} bytes", "body_too_large"
        return None

    def _is_own(self, origin: str) -> bool:
        scheme, mark, rest = origin.partition("://")
        return scheme in ("http", "https") and bool(mark) and _host_name(rest) in self.hosts

    def _has_key(self, scope: Scope, given: bytes) -> bool:
        if not self.keys or scope["path"] in OPEN_PATHS:
            return True
        word, _, key = given.partition(b" ")
        if word.lower() != b"bearer":
            return False
        digest = hashlib.sha256(key.strip()).digest()
        # Every key is compared, so that the time tells nothing.
        return sum(hmac.compare_digest(digest, known) for known in self.keys) > 0


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


def _host_name(host: str) -> str:
    """The name without port: "[::1]:80" is "::1"."""
    host = host.strip().lower()
    if host.startswith("["):
        inner, _, rest = host[1:].partition("]")
        return inner if rest == "" or (rest[0] == ":" and rest[1:].isdigit()) else host
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host
