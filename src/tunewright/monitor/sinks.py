"""Where alerts go: a file, a webhook. The console is the journal's. A sink that fails is told of,
and never stops the watch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

from tunewright.errors import UserError
from tunewright.store import append_jsonl, to_plain

TIMEOUT_S = 5.0


def check_webhook(url: str) -> str:
    """The URL, if it is one that can be posted to. Raises UserError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url}: not a webhook; give an http:// or https:// URL")
    return url


def write_to_file(path: Path, alert: Mapping[str, Any]) -> None:
    """Append one JSON line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    append_jsonl(path, [alert])


def post_to_webhook(url: str, alert: Mapping[str, Any]) -> str | None:
    """POST the alert as JSON. Returns what went wrong, None where nothing did.

    `text` holds one sentence, which chat services (Slack, Mattermost) show as it is.
    """
    body = json.dumps(to_plain({**alert, "text": sentence(alert)}), ensure_ascii=False).encode()
    request = HttpRequest(  # noqa: S310 - the scheme was checked
        url, data=body, headers={"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - as above
            status = int(answer.status)
    except (URLError, OSError, ValueError) as error:
        return f"{url}: {error}"
    return None if status < 300 else f"{url}: answered {status}"


def sentence(alert: Mapping[str, Any]) -> str:
    """An alert in one sentence."""
    plain = to_plain(alert)
    said = "; ".join(str(signal["message"]) for signal in plain["signals"])
    return f"{said}. Do: {plain['action']}."
