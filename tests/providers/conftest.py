"""Rows of a small task, and the provider behind a server on loopback."""

import json
import random

import pytest
from tests.providers.local_server import serving
from tests.providers.openai_emulator import KEY, OpenAIEmulator

TOPICS = ("delivery", "card", "account")


def write_rows(folder, *, count=90, seed=3):
    """A csv of texts with three labels that one word decides."""
    rng = random.Random(seed)
    path = folder / "tickets.csv"
    lines = ["text,label"]
    for number in range(count):
        topic = TOPICS[number % 3]
        lines.append(f"ask{number} my {topic} case{rng.random():.6f},{topic}")
    path.write_text("\n".join(lines) + "\n")
    return path


def write_chats(folder, *, count=40, preference=False):
    """Conversations, or pairs of a better and a worse answer."""
    rows = []
    for number in range(count):
        topic = TOPICS[number % 3]
        ask = [{"role": "user", "content": f"question {number} about my {topic} n{number * 7}"}]
        good = [{"role": "assistant", "content": f"about {topic}"}]
        if preference:
            bad = [{"role": "assistant", "content": "no idea"}]
            rows.append({"input": {"messages": ask}, "preferred_output": good,
                         "non_preferred_output": bad})  # fmt: skip
        else:
            rows.append({"messages": [*ask, *good]})
    path = folder / ("pairs.jsonl" if preference else "chats.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def account():
    """An emulated OpenAI account."""
    return OpenAIEmulator()


@pytest.fixture
def openai_url(account, monkeypatch):
    """Its address; the environment holds its key for `provider: openai` and for a URL."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("TUNEWRIGHT_PROVIDER_KEY", KEY)
    with serving(account.app) as live:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{live.url}/v1")
        yield f"{live.url}/v1"
