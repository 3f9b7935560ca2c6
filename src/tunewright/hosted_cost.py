"""What tuning and asking elsewhere will cost: tokens by count, prices by the dated table, consent.

Nothing is guessed: a price that is missing, or on which sources disagree, is asked for, and refused
where nobody can answer. Nothing is spent before a budget allows it or a person says yes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from tunewright.config import Recipe
from tunewright.decide.benefit import say_usd
from tunewright.errors import RecipeError, Refusal
from tunewright.journal import Journal
from tunewright.price_desk import Ask, PriceDesk
from tunewright.prices import Price, Prices
from tunewright.providers.provider import Order, Provider, Turn
from tunewright.providers.rows import (
    UPPER,
    Wording,
    answer_text,
    estimate_tokens,
    prompt_turns,
    row_tokens,
    turns_tokens,
    with_shots,
)
from tunewright.records import Example

Consent = Callable[[str, float], bool]
"""Asked with a sentence and the most it may cost in USD; True to go on. It may raise."""
DATED = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{3})$")


@dataclass(frozen=True, slots=True)
class Asked:
    """One hosted system to be put the test questions: which model, with how many examples."""

    system: str
    provider: Provider
    model: str
    shots: tuple[Example, ...] = ()
    near: Mapping[str, tuple[Example, ...]] = field(default_factory=dict)
    """Examples of its own for a row, by the row's id."""
    priced_as: str | None = None
    """The model's name in the price table, where it is another one."""

    def turns(self, row: Example, how: Wording) -> list[Turn]:
        """What is asked for a row, examples included."""
        turns = prompt_turns(row, how)
        shots = self.near.get(row.id, self.shots)
        return with_shots(turns, shots, how) if shots else turns


@dataclass(frozen=True, slots=True)
class HostedForecast:
    """Tokens and dollars beforehand. high_usd: should the count by characters be too low."""

    num_rows: int
    num_epochs: int
    train_tokens: int
    """Of all passes."""
    train_usd: float
    ask_tokens: int
    ask_usd: float
    sources: tuple[str, ...]
    warnings: tuple[str, ...]
    asked: tuple[Price, ...] = ()
    """Prices that a person said."""

    @property
    def usd(self) -> float:
        """All of it."""
        return self.train_usd + self.ask_usd

    @property
    def high_usd(self) -> float:
        """What a budget must allow."""
        return self.usd * UPPER


def forecast_hosted(
    order: Order | None,
    provider: Provider | None,
    train: Sequence[Example],
    systems: Sequence[Asked],
    test: Sequence[Example],
    how: Wording,
    *,
    prices: Prices,
    today: date,
    ask: Ask | None,
) -> HostedForecast:
    """What a job and the questions after it will cost. order: None where nothing is trained there.

    Raises MissingFigureError where a price is missing and nobody answers.
    """
    desk = PriceDesk(prices, today, ask)
    tokens, train_usd = 0, 0.0
    if order is not None and provider is not None:
        tokens = order.num_epochs * sum(row_tokens(example, how) for example in train)
        train_usd = 0.0 if provider.free else tokens / 1e6 * train_price(order.model, desk)
    asked, ask_usd = 0, 0.0
    for system in systems:
        read, written = count_questions(system, test, how)
        asked += read + written
        if not system.provider.free:
            ask_usd += question_usd(system, read, written, desk)
    return HostedForecast(
        num_rows=len(train),
        num_epochs=order.num_epochs if order else 0,
        train_tokens=tokens,
        train_usd=train_usd,
        ask_tokens=asked,
        ask_usd=ask_usd,
        sources=tuple(desk.sources),
        warnings=tuple(desk.warnings),
        asked=tuple(desk.asked),
    )


def train_price(model: str, desk: PriceDesk) -> float:
    """USD a million training tokens. Raises MissingFigureError."""
    return desk.price("train_tokens", table_name("train_tokens", model, desk.prices))


def question_usd(system: Asked, read: int, written: int, desk: PriceDesk) -> float:
    """USD of so many tokens read and written. Raises MissingFigureError."""
    name = system.priced_as or system.model
    into = desk.price("input_tokens", table_name("input_tokens", name, desk.prices))
    out = desk.price("output_tokens", table_name("output_tokens", name, desk.prices))
    return (read * into + written * out) / 1e6


def table_name(kind: str, model: str, prices: Prices) -> str:
    """The model's name in the price table: as it is, or without the date of its snapshot. A model
    that is tuned further costs what its base does, a tuned one what tuned ones of its base do.
    """
    parts = model.removeprefix("ft:").split(":")  # ft:BASE:organisation:suffix:id
    if len(parts) > 2:
        base = next((part for part in parts if part != "ft"), model)
        model = base if kind == "train_tokens" else f"ft:{base}"
    plain = DATED.sub("", model)
    return model if prices.has(kind, model) or not prices.has(kind, plain) else plain


def count_questions(system: Asked, test: Sequence[Example], how: Wording) -> tuple[int, int]:
    """About how many tokens are read and written when every test row is asked."""
    read = written = 0
    for example in test:
        read += turns_tokens(system.turns(example, how))
        written += 1 + estimate_tokens(answer_text(example.output))
    return read, written


def nobody(told: str, usd: float) -> bool:
    """The consent of somebody who cannot be asked. Raises RecipeError."""
    raise RecipeError(f"{told}; set budget.usd to allow it")


def get_consent(
    recipe: Recipe, forecast: HostedForecast, what: str, consent: Consent, journal: Journal
) -> None:
    """Let nothing be spent beyond the budget, or without a yes. Raises Refusal."""
    for text in (*forecast.sources, *forecast.warnings):
        journal.warn(text) if text in forecast.warnings else journal.say(text)
    if forecast.usd == 0:
        return
    told = f"{what}: about {say_usd(forecast.usd)}, at most {say_usd(forecast.high_usd)}"
    journal.say(told)
    limit = recipe.budget.usd
    if limit is not None:
        if forecast.high_usd > limit:
            raise Refusal(
                f"{told}; budget.usd allows {say_usd(limit)}: nothing was sent or spent; "
                "use fewer rows or epochs, or raise budget.usd"
            )
        return
    if not consent(told, forecast.high_usd):
        raise Refusal(f"{told}: not agreed to; nothing was sent or spent")


def forecast_document(forecast: HostedForecast) -> dict[str, Any]:
    """The forecast as plain values."""
    return {
        "rows": forecast.num_rows,
        "epochs": forecast.num_epochs,
        "train_tokens": forecast.train_tokens,
        "train_usd": forecast.train_usd,
        "ask_tokens": forecast.ask_tokens,
        "ask_usd": forecast.ask_usd,
        "usd": forecast.usd,
        "high_usd": forecast.high_usd,
        "sources": list(forecast.sources),
        "warnings": list(forecast.warnings),
    }
