"""Answers of a server that speaks OpenAI's chat protocol: ours, vLLM, Ollama, a hosted one.

Standard library only; questions go out several at a time, and a busy server is asked again.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tunewright.errors import ModelError
from tunewright.records import Message

AT_ONCE = 8
TRIES = 5
WAIT_S, LONGEST_WAIT_S, TIMEOUT_S = 1.0, 30.0, 120.0
BUSY = frozenset({408, 409, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Server:
    """Where to ask. url ends in /v1; key None: the server asks for none."""

    url: str
    model: str
    key: str | None = None


def open_server(url: str, model: str, api_key_env: str) -> Server:
    """The server at `url`, with the key from the environment where there is one."""
    return Server(url.rstrip("/"), model, os.environ.get(api_key_env) or None)


def ask(
    server: Server,
    talks: Sequence[Sequence[Message]],
    *,
    max_new_tokens: int,
    advance: Callable[[float], None] = lambda share: None,
) -> list[str]:
    """The server's answer to each conversation, in order. Raises ModelError in one line."""
    answers: list[str] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for answer in pool.map(lambda talk: _ask_one(server, talk, max_new_tokens), talks):
            answers.append(answer)
            advance(len(answers) / len(talks))
    return answers


def _ask_one(server: Server, talk: Sequence[Message], max_new_tokens: int) -> str:
    body = {
        "model": server.model,
        "messages": [{"role": turn.role, "content": turn.content} for turn in talk],
        "max_tokens": max_new_tokens,
        "temperature": 0,
    }
    headers = {"Content-Type": "application/json"}
    if server.key:
        headers["Authorization"] = f"Bearer {server.key}"
    request = urllib.request.Request(  # noqa: S310  # the recipe names http or https
        f"{server.url}/chat/completions", json.dumps(body).encode(), headers
    )
    for attempt in range(TRIES):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:  # noqa: S310
                return _read(json.loads(reply.read()), server)
        except urllib.error.HTTPError as error:
            if error.code not in BUSY or attempt == TRIES - 1:
                raise ModelError(f"{server.url}: {_reason(error)}") from None
        except (OSError, ValueError) as error:
            if attempt == TRIES - 1:
                raise ModelError(f"{server.url}: no answer ({error}); is it running?") from None
        time.sleep(min(LONGEST_WAIT_S, WAIT_S * 2**attempt))
    raise AssertionError("unreachable")


def _read(document: Any, server: Server) -> str:
    try:
        return str(document["choices"][0]["message"]["content"] or "")
    except (KeyError, IndexError, TypeError):
        raise ModelError(
            f"{server.url}: its answer is no chat completion; the URL must end in /v1"
        ) from None


def _reason(error: urllib.error.HTTPError) -> str:
    """Status and the server's own words, in one line."""
    try:
        said = str(json.loads(error.read())["error"]["message"])
    except (ValueError, KeyError, TypeError, OSError):
        said = error.reason
    hint = "; set the key's environment variable (api_key_env)" if error.code in (401, 403) else ""
    return f"status {error.code}: {' '.join(said.split())[:200]}{hint}"
