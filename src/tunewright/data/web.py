"""A data file behind an https address, fetched with a size limit and never from private networks.

Plain http, and loopback addresses, are allowed only where the user named this very machine.
"""

from __future__ import annotations

import atexit
import http.client
import ipaddress
import re
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

from tunewright.errors import DataError

MAX_DOWNLOAD_BYTES = 2 * 2**30
TIMEOUT_S = 30.0
ATTEMPTS = 3
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
EXTENSION_OF_TYPE = {
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "application/json": ".json",
    "application/jsonl": ".jsonl",
    "application/x-ndjson": ".jsonl",
    "application/vnd.apache.parquet": ".parquet",
    "text/plain": "",
}


@cache
def fetch_file(url: str, max_bytes: int = MAX_DOWNLOAD_BYTES) -> Path:
    """A local copy of the file at `url`; kept until the process ends, fetched once.

    Raises DataError for other schemes than https, private addresses, too many bytes, no answer.
    """
    check_address(url)
    shown = hide_secrets(url)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _download(url, shown, max_bytes)
        except urllib.error.HTTPError as error:
            if (error.code < 500 and error.code != 429) or attempt == ATTEMPTS:
                raise DataError(
                    f"{shown}: the server answered {error.code} {error.reason}; check the address"
                ) from None
        except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            if attempt == ATTEMPTS:
                raise DataError(
                    f"{shown}: cannot be fetched ({reason}); check address and network, or "
                    "download the file and give its path"
                ) from None
        time.sleep(0.5 * attempt)
    raise AssertionError("unreachable")


def check_address(url: str) -> None:
    """Raise DataError unless the address is https, or http to this very machine."""
    parts = urllib.parse.urlsplit(url)
    if not parts.hostname:
        raise DataError(f"{hide_secrets(url)}: no host in this address; check it")
    local = parts.hostname in LOOPBACK_NAMES
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise DataError(f"{hide_secrets(url)}: {parts.scheme} is not safe; use https")


def hide_secrets(url: str) -> str:
    """The address without user name, password and query, fit for messages."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))


def _download(url: str, shown: str, max_bytes: int) -> Path:
    opener = urllib.request.build_opener(_HTTPHandler, _HTTPSHandler, _Redirects)
    request = urllib.request.Request(url, headers={"User-Agent": "tunewright"})  # noqa: S310
    with opener.open(request, timeout=TIMEOUT_S) as answer:
        announced = answer.headers.get("Content-Length")
        if announced and announced.isdigit() and int(announced) > max_bytes:
            raise DataError(
                f"{shown}: {int(announced):,} bytes, more than {max_bytes:,}; "
                "download it and give its path"
            )
        target = _folder() / _file_name(answer.geturl(), answer.headers.get_content_type())
        seen = 0
        with open(target, "wb") as file:
            while chunk := answer.read(1 << 16):
                seen += len(chunk)
                if seen > max_bytes:
                    raise DataError(
                        f"{shown}: more than {max_bytes:,} bytes; download it and give its path"
                    )
                file.write(chunk)
        if announced and announced.isdigit() and seen < int(announced):
            raise http.client.IncompleteRead(b"", int(announced) - seen)
    return target


def _folder() -> Path:
    """A fresh folder that goes away with the process."""
    folder = Path(tempfile.mkdtemp(prefix="tunewright-data-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _file_name(url: str, content_type: str) -> str:
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rsplit("/", 1)[-1]
    name = re.sub(r"[^\w.-]", "_", name)[-100:].lstrip(".") or "data"
    if "." not in name:
        name += EXTENSION_OF_TYPE.get(content_type, "")
    return name


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to addresses that would have been allowed in the first place."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        check_address(newurl)
        was_local = urllib.parse.urlsplit(req.full_url).hostname in LOOPBACK_NAMES
        is_local = urllib.parse.urlsplit(newurl).hostname in LOOPBACK_NAMES
        if is_local and not was_local:
            raise DataError(f"{hide_secrets(newurl)}: redirected to this machine; refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def connect_public(host: str, port: int, timeout: Any) -> socket.socket:
    """A connection to a public address of `host` (or to loopback, where that is its name).

    The address that was checked is the one connected to, so a name cannot change in between.
    """
    last: OSError = OSError(f"no address for {host}")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
        ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
        ip = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None) or ip
        if (not ip.is_global or ip.is_multicast) and not (
            ip.is_loopback and host in LOOPBACK_NAMES
        ):
            raise DataError(
                f"{host}: leads to {ip}, not a public address; download the file "
                "yourself and give its path"
            )
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(timeout)
            connection.connect(address)
        except OSError as error:
            connection.close()
            last = error
        else:
            return connection
    raise last


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = connect_public(self.host, self.port, self.timeout)


class _SecureConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        if getattr(self, "_tunnel_host", None):  # the user's own proxy resolves and connects
            super().connect()
            return
        plain = connect_public(self.host, self.port, self.timeout)
        context: Any = getattr(self, "_context")  # noqa: B009 - not in the type stubs
        self.sock = context.wrap_socket(plain, server_hostname=self.host)


class _HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, req: Any) -> Any:
        return self.do_open(_Connection, req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: Any) -> Any:
        return self.do_open(_SecureConnection, req)
