"""Telling addresses of finished jobs: an outbox in the database, signed requests, retries.

The event is written down in the transaction that ends the job, so it is told exactly when the job
ended, and at least once to each address. Signatures follow Standard Webhooks: HMAC-SHA256 over
"id.timestamp.body". The address is resolved once, checked, and that very address is connected to:
private networks are refused unless the settings allow them, and redirects are not followed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import ipaddress
import json
import random
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from sqlalchemy import Connection, insert, or_, select, update

from tunewright.database.engine import Database
from tunewright.database.tables import DELIVERIES
from tunewright.jobs.paging import Record, new_id
from tunewright.settings import ServerSettings, WebhookSettings

RETRY_S = (5, 30, 120, 600, 3600, 3 * 3600, 6 * 3600, 12 * 3600)
"""Waits between attempts, give or take a fifth; after the last the delivery has failed."""
TIMEOUT_S = 10.0
CLAIM_S = 60.0
OUTBOX = ""
"""Stands as the address of an event that is not yet addressed to anybody."""


class RefusedAddressError(ValueError):
    """A webhook's address leads to a network that may not be reached."""


def announce(connection: Connection, kind: str, job_id: str) -> None:
    """Write down that a job ended, within the transaction that ends it."""
    event_id, now = new_id("evt_"), int(time.time())
    payload = {
        "id": event_id, "object": "event", "created_at": now, "type": kind, "data": {"id": job_id},
    }  # fmt: skip
    connection.execute(
        insert(DELIVERIES).values(
            id=event_id, url=OUTBOX, type=kind, payload=json.dumps(payload), created_at=now,
            status="new",
        )
    )  # fmt: skip


def address_events(database: Database, settings: ServerSettings) -> None:
    """Turn what is in the outbox into one delivery for each address that wants to hear of it."""
    with database.reading() as connection:
        new = connection.execute(select(DELIVERIES.c.id).where(DELIVERIES.c.status == "new"))
        waiting = new.scalars().all()
    if not waiting:
        return
    with database.writing() as connection:
        database.lock(connection, "webhook outbox")
        query = select(DELIVERIES).where(DELIVERIES.c.status == "new")
        for event in connection.execute(query).mappings().all():
            for hook in settings.webhooks:
                if event["type"] in hook.events:
                    copied = {k: event[k] for k in ("id", "type", "payload", "created_at")}
                    connection.execute(
                        insert(DELIVERIES).values(**copied, url=hook.url, status="due")
                    )
            done = update(DELIVERIES).where(DELIVERIES.c.number == event["number"])
            connection.execute(done.values(status="addressed"))


def deliver_due(database: Database, settings: ServerSettings) -> int:
    """Send what is due; returns how many attempts were made."""
    address_events(database, settings)
    hooks = {hook.url: hook for hook in settings.webhooks}
    made = 0
    while (delivery := _claim(database)) is not None:
        made += 1
        hook = hooks.get(delivery["url"])
        if hook is None:
            _note(database, delivery, "no longer in the settings", final=True)
            continue
        try:
            status = send(hook, delivery, settings.allowed_networks)
            fault = None if 200 <= status < 300 else f"answered {status}"
        except RefusedAddressError as error:
            _note(database, delivery, str(error), final=True)
            continue
        except (OSError, http.client.HTTPException) as error:
            fault = f"{type(error).__name__}: {error}"
        _note(database, delivery, fault)
    return made


def send(
    hook: WebhookSettings,
    delivery: Record,
    allowed: Sequence[str] = (),
    *,
    resolve: Callable[..., list[tuple[object, ...]]] = socket.getaddrinfo,  # type: ignore[assignment]
) -> int:
    """Post one delivery; returns the status. Raises RefusedAddressError, OSError, HTTPException."""
    parts = urlsplit(hook.url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    address = checked_address(host, port, allowed, resolve)
    body = str(delivery["payload"]).encode()
    at = int(time.time())
    headers = {
        "Host": parts.netloc.rpartition("@")[2],
        "Content-Type": "application/json",
        "User-Agent": "tunewright-webhooks",
        "webhook-id": str(delivery["id"]),
        "webhook-timestamp": str(at),
        "webhook-signature": sign(hook.secret, str(delivery["id"]), at, body),
    }
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    plain = socket.create_connection((address, port), timeout=TIMEOUT_S)
    try:
        connection.sock = (
            ssl.create_default_context().wrap_socket(plain, server_hostname=host)
            if secure
            else plain
        )
        connection.request("POST", target, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()
        plain.close()


def sign(secret: str, event_id: str, at: int, body: bytes) -> str:
    """The signature header's value: "v1,BASE64"."""
    key = (
        base64.b64decode(secret.removeprefix("whsec_"))
        if secret.startswith("whsec_")
        else secret.encode()
    )
    text = f"{event_id}.{at}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()


def checked_address(
    host: str, port: int, allowed: Sequence[str], resolve: Callable[..., object]
) -> str:
    """The numeric address of a host, once every one of its addresses may be reached.

    Raises RefusedAddressError, OSError.
    """
    found = resolve(host, port, type=socket.SOCK_STREAM)
    addresses = [str(item[4][0]).partition("%")[0] for item in found]  # type: ignore[attr-defined]
    networks = [ipaddress.ip_network(text) for text in allowed]
    for text in addresses:
        address = ipaddress.ip_address(text)
        if isinstance(address, ipaddress.IPv6Address):
            address = address.ipv4_mapped or address.sixtofour or address
        if any(address in network for network in networks):
            continue
        if not address.is_global or address.is_multicast:
            raise RefusedAddressError(
                f"{host} is {address}, not a public address; allowed_networks in settings.yaml "
                "can allow it"
            )
    if not addresses:
        raise OSError(f"{host}: no address")
    return addresses[0]


def _claim(database: Database) -> Record | None:
    """The next delivery that is due; nobody else takes it for a minute."""
    now = time.time()
    with database.reading() as connection:
        waiting = [DELIVERIES.c.status == "due", DELIVERIES.c.next_at <= now]
        if connection.execute(select(DELIVERIES.c.number).where(*waiting).limit(1)).first() is None:
            return None
    with database.writing() as connection:
        query = select(DELIVERIES).where(*waiting).order_by(DELIVERIES.c.number).limit(1)
        row = connection.execute(query.with_for_update(skip_locked=True)).mappings().first()
        if row is None:
            return None
        taken = update(DELIVERIES).where(DELIVERIES.c.number == row["number"])
        connection.execute(taken.values(next_at=now + CLAIM_S, attempts=DELIVERIES.c.attempts + 1))
        return {**row, "attempts": row["attempts"] + 1}


def _note(database: Database, delivery: Record, fault: str | None, *, final: bool = False) -> None:
    attempts = int(delivery["attempts"])
    over = final or attempts > len(RETRY_S)
    values: dict[str, object] = {"last_error": fault and fault[:500]}
    if fault is None:
        values["status"] = "delivered"
    elif over:
        values["status"] = "failed"
    else:
        values["next_at"] = time.time() + RETRY_S[attempts - 1] * random.uniform(0.8, 1.2)
    mine = (DELIVERIES.c.number == delivery["number"], or_(DELIVERIES.c.status == "due"))
    with database.writing() as connection:
        connection.execute(update(DELIVERIES).where(*mine).values(values))
