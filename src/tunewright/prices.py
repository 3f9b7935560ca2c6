"""Prices: one dated table with a source for every figure, overridable in a file. No guesses.

Kinds: device_hour (USD an hour of one device), input_tokens, cached_input_tokens, output_tokens and
train_tokens (USD a million tokens), kwh (USD), carbon_kg (of one kWh). A price with two sources
that disagree counts as conflicting, one older than STALE_DAYS as stale.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from tunewright.errors import RecipeError
from tunewright.yaml_text import load_yaml

STALE_DAYS = 180
AGREE_WITHIN = 0.01
KINDS = {
    "device_hour": "USD an hour of one device",
    "input_tokens": "USD a million input tokens",
    "cached_input_tokens": "USD a million input tokens read from the cache",
    "output_tokens": "USD a million output tokens",
    "train_tokens": "USD a million training tokens",
    "kwh": "USD a kilowatt-hour",
    "carbon_kg": "kg of CO2 a kilowatt-hour",
}


@dataclass(frozen=True, slots=True)
class Price:
    """One figure, where it was read and when. low, high: its range where the source names one."""

    kind: str
    name: str
    usd: float
    source: str
    read_on: date
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a look-up gave. usd None: `problem` says why. low and high: what the sources span."""

    usd: float | None
    low: float | None
    high: float | None
    source: str
    warnings: tuple[str, ...] = ()
    problem: str = ""


_OPENAI = "developers.openai.com/api/docs/pricing, by the price map of litellm 1.109.1"
_VERTEX = "cloud.google.com, Agent Platform pricing, by the price map of litellm 1.109.1"
_MAP_ON = date(2026, 11, 22)
_FIREWORKS = "docs.fireworks.ai, fine-tuning calculator"
_COMPARISON = "docs.fireworks.ai, comparison page"
_ORI = "docs.ori.co"


def _tokens(
    name: str, into: float, out: float, cached: float, source: str = _OPENAI
) -> list[Price]:
    kinds = {"input_tokens": into, "output_tokens": out, "cached_input_tokens": cached}
    return [Price(kind, name, usd, source, _MAP_ON) for kind, usd in kinds.items()]


def _hour(name: str, usd: float, source: str, read_on: date) -> Price:
    return Price("device_hour", name, usd, source, read_on)


TABLE: tuple[Price, ...] = (
    *_tokens("gpt-5.5", 5.00, 30.00, 0.50),
    *_tokens("gpt-5.4", 2.50, 15.00, 0.25),
    *_tokens("gpt-5.4-mini", 0.75, 4.50, 0.075),
    *_tokens("gpt-4.1", 2.00, 8.00, 0.50),
    *_tokens("gpt-4.1-mini", 0.40, 1.60, 0.10),
    *_tokens("gpt-4.1-nano", 0.10, 0.40, 0.025),
    *_tokens("gpt-4o", 2.50, 10.00, 1.25),
    *_tokens("gpt-4o-mini", 0.15, 0.60, 0.075),
    *_tokens("o4-mini", 1.10, 4.40, 0.275),
    *_tokens("ft:gpt-4.1", 3.00, 12.00, 0.75),
    *_tokens("ft:gpt-4.1-mini", 0.80, 3.20, 0.20),
    *_tokens("ft:gpt-4.1-nano", 0.20, 0.80, 0.05),
    *_tokens("ft:gpt-4o", 3.75, 15.00, 1.875),
    *_tokens("ft:gpt-4o-mini", 0.30, 1.20, 0.15),
    *_tokens("ft:o4-mini", 4.00, 16.00, 1.00),
    # Prompts up to 200,000 tokens.
    *_tokens("gemini-2.5-pro", 1.25, 10.00, 0.125, _VERTEX),
    *_tokens("gemini-2.5-flash", 0.30, 2.50, 0.03, _VERTEX),
    *_tokens("gemini-2.5-flash-lite", 0.10, 0.40, 0.01, _VERTEX),
    # Three pages of one vendor, three prices: the user must say which one is meant.
    Price("train_tokens", "gpt-4o-mini", 1.0, "OpenAI, a page of 2025", date(2026, 11, 22)),
    Price("train_tokens", "gpt-4o-mini", 3.0, "OpenAI, another page", date(2026, 11, 22)),
    Price("train_tokens", "gpt-4o-mini", 25.0, "OpenAI, a third page", date(2026, 11, 22)),
    Price("train_tokens", "gpt-4o", 25.0, "tokenmix.ai, OpenAI fine-tuning", date(2026, 4, 30)),
    Price("train_tokens", "gpt-4o", 3.0, "ai-tools-compared, fine-tuning costs", date(2026, 4, 30)),
    Price("train_tokens", "lora-up-to-10b", 0.46, _ORI, date(2026, 11, 22)),
    _hour("A100-80GB", 2.9, _FIREWORKS, date(2026, 11, 22)),
    _hour("H100-80GB", 4.0, _FIREWORKS, date(2026, 11, 22)),
    _hour("H100-80GB", 7.0, _COMPARISON, date(2026, 11, 22)),
    _hour("H200", 6.0, _FIREWORKS, date(2026, 11, 22)),
    _hour("B200", 9.0, _FIREWORKS, date(2026, 11, 22)),
    _hour("B200", 10.0, _COMPARISON, date(2026, 11, 22)),
    _hour("L40S", 0.87, "aihardwareindex.com, cost per token", date(2025, 12, 31)),
)


CACHED_FROM: tuple[tuple[str, int, str], ...] = (
    ("gpt-", 1024, "OpenAI's cookbook, Prompt Caching 201; read 2026-11-25"),
    ("ft:gpt-", 1024, "OpenAI's cookbook, Prompt Caching 201; read 2026-11-25"),
    ("o4-", 1024, "OpenAI's cookbook, Prompt Caching 201; read 2026-11-25"),
    ("gemini-2.5-", 2048, "ai.google.dev, context caching, of 2026-10-13; read 2026-11-25"),
    ("gemini-3", 4096, "ai.google.dev, context caching, of 2026-10-13; read 2026-11-25"),
)
"""Shorter prompts are not cached: beginning of a model's name, tokens, source."""


def cached_from(model: str) -> tuple[int, str] | None:
    """(tokens that a prompt must have to be cached at all, source); None where it is not known."""
    plain = model.lower()
    return next((row[1:] for row in CACHED_FROM if plain.startswith(row[0])), None)


class Prices:
    """The table with a user's own figures before it. A user's figure settles every conflict."""

    def __init__(self, own: Iterable[Price] = (), table: Iterable[Price] = TABLE) -> None:
        self.own = tuple(own)
        self.table = tuple(table)

    def after(self, own: Iterable[Price]) -> Prices:
        """The same with figures that count where the user has none of that name."""
        named = {(p.kind, p.name.lower()) for p in self.own}
        more = [p for p in own if (p.kind, p.name.lower()) not in named]
        return Prices((*self.own, *more), self.table)

    def has(self, kind: str, name: str) -> bool:
        """True when at least one figure stands under this name."""
        return bool(self._rows(kind, name))

    def names(self, kind: str) -> list[str]:
        """Every name that has a price of this kind."""
        return sorted({p.name for p in (*self.own, *self.table) if p.kind == kind})

    def look_up(self, kind: str, name: str, today: date) -> Found:
        """The price, or why there is none; never a guess."""
        rows = self._rows(kind, name)
        if not rows:
            return Found(None, None, None, "", problem=self._missing(kind, name))
        low = min(p.low if p.low is not None else p.usd for p in rows)
        high = max(p.high if p.high is not None else p.usd for p in rows)
        figures = sorted({p.usd for p in rows})
        if figures[-1] > figures[0] * (1 + AGREE_WITHIN):
            told = "; ".join(f"{p.usd:g} ({p.source}, {p.read_on})" for p in rows)
            problem = f"sources disagree on {kind} of {name}: {told}; say which in a prices file"
            return Found(None, low, high, "", problem=problem)
        newest = max(rows, key=lambda p: p.read_on)
        age = (today - newest.read_on).days
        told = f"({newest.source}, {newest.read_on}); check it"
        stale = (f"{kind} of {name} was read {age} days ago {told}",)
        source = f"{newest.source}, {newest.read_on}"
        return Found(newest.usd, low, high, source, stale if age > STALE_DAYS else ())

    def with_price(self, kind: str, name: str, usd: float, source: str, today: date) -> Prices:
        """The same with one more figure of the user's own."""
        return Prices((Price(kind, name, usd, source, today), *self.own), self.table)

    def _rows(self, kind: str, name: str) -> list[Price]:
        for rows in (self.own, self.table):
            found = [p for p in rows if p.kind == kind and p.name.lower() == name.lower()]
            if found:
                return found
        return []

    def _missing(self, kind: str, name: str) -> str:
        near = difflib.get_close_matches(name, self.names(kind), n=2, cutoff=0.5)
        hint = f"; there is {', '.join(near)}" if near else ""
        return f"no {kind} for {name} ({KINDS[kind]}){hint}; give it in a prices file"


def read_prices(path: Path | None, today: date) -> Prices:
    """The table, and before it the figures of a YAML file. Raises RecipeError naming the entry.

    The file: `device_hour: {H100-80GB: 2.4, L40S: {usd: 0.9, source: invoice}}`; read_on: a date.
    """
    if path is None:
        return Prices()
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    try:
        values = load_yaml(text, str(path), {})
    except RecipeError as error:
        raise RecipeError(str(error).replace("a recipe is", "a file of prices is")) from None
    own = [
        _own_price(path, kind, name, entry, today)
        for kind, entries in values.items()
        for name, entry in _entries(path, kind, entries).items()
    ]
    return Prices(own)


def _entries(path: Path, kind: str, entries: Any) -> Mapping[str, Any]:
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.4)
        known = f"did you mean {near[0]}?" if near else f"known are {', '.join(KINDS)}"
        raise RecipeError(f"{path}: unknown kind of price {kind}; {known}")
    if isinstance(entries, int | float) and not isinstance(entries, bool):
        return {"here": entries}  # kwh: 0.32
    if not isinstance(entries, Mapping):
        raise RecipeError(f"{path}: {kind} must be a number, or names with prices")
    return entries


def _own_price(path: Path, kind: str, name: Any, entry: Any, today: date) -> Price:
    place = f"{path}: {kind}.{name}"
    given = entry if isinstance(entry, Mapping) else {"usd": entry}
    unknown = set(given) - {"usd", "source", "read_on", "low", "high"}
    if unknown:
        raise RecipeError(
            f"{place}: unknown key {min(map(str, unknown))}; known: usd, source, read_on, low, high"
        )
    figures: dict[str, Any] = {
        key: given.get(key) for key in ("usd", "low", "high") if given.get(key) is not None
    }
    for key, value in figures.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
            raise RecipeError(f"{place}: {key} is {value!r}; give a number of dollars")
    if "usd" not in figures:
        raise RecipeError(f"{place}: no usd; give a number of dollars")
    ends = [figures[key] for key in ("low", "usd", "high") if key in figures]
    if ends != sorted(ends):
        raise RecipeError(f"{place}: low, usd and high in rising order, these are {ends}")
    read_on = given.get("read_on", today)
    if not isinstance(read_on, date):
        raise RecipeError(f"{place}: read_on is {read_on!r}; write it as 2026-11-24")
    return Price(
        kind, str(name), float(figures["usd"]), str(given.get("source", path)), read_on,
        low=figures.get("low"), high=figures.get("high"),
    )  # fmt: skip
