"""Where prices are asked for: the table, a file of the user's own, a person, or a refusal.

Keeps the source of every figure that was used, what is stale, and what a person said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from tunewright.config import Recipe
from tunewright.decide.benefit import Doubt, Range
from tunewright.errors import RecipeError
from tunewright.prices import Found, Price, Prices, read_prices
from tunewright.store import RunFolder, write_atomic

Ask = Callable[[str, str], float | None]
"""Asks a person for a price: (kind.name, why) to dollars; None where nobody can answer."""


class MissingFigureError(RecipeError):
    """A figure that the decision needs and nobody gave."""


class PriceDesk:
    """Looks prices up, asks for what is missing or in conflict, keeps sources and warnings."""

    def __init__(self, prices: Prices, today: date, ask: Ask | None) -> None:
        self.prices, self.today, self.ask = prices, today, ask
        self.sources: list[str] = []
        self.warnings: list[str] = []
        self.asked: list[Price] = []
        """What a person said."""

    def price(self, kind: str, name: str) -> float:
        """Dollars. Raises MissingFigureError where there is none and nobody answers."""
        found: Found = self.prices.look_up(kind, name, self.today)
        usd = found.usd
        if usd is None:
            usd = self.ask(f"{kind}.{name}", found.problem) if self.ask else None
            if usd is None:
                raise MissingFigureError(f"prices: {found.problem}")
            self.prices = self.prices.with_price(kind, name, usd, "asked for", self.today)
            self.asked.append(Price(kind, name, usd, "asked for", self.today))
            found = replace(found, source=f"asked for, {self.today}", warnings=())
        self.warnings += [text for text in found.warnings if text not in self.warnings]
        amount = f"{usd:g} kg a kWh" if kind == "carbon_kg" else f"${usd:g}"
        told = f"{kind} of {name}: {amount} ({found.source})"
        if told not in self.sources:
            self.sources.append(told)
        return usd

    def doubt(self, kind: str, name: str, *, each: float = 0.0, once: float = 0.0) -> list[Doubt]:
        """What is not sure about a price, where its source names a range; else nothing."""
        found = self.prices.look_up(kind, name, self.today)
        if found.usd is None or found.low is None or found.high is None:
            return []
        low, high = min(found.low, found.usd), max(found.high, found.usd)
        price = Range(found.usd, low, high)
        return [] if price.known else [Doubt(f"{kind} of {name}", price, each, once)]

    def carbon_kg(self, kwh: float | None) -> float | None:
        """CO2 of so much energy; None where nobody said what a kWh of this grid emits."""
        if kwh is None or not self.prices.has("carbon_kg", "here"):
            return None
        return kwh * self.price("carbon_kg", "here")


def prices_of(recipe: Recipe, today: date, folder: RunFolder | None = None) -> Prices:
    """The table; before it the figures of the file that the recipe names, and after those what a
    person said when the run of this folder began.
    """
    named = recipe.business.prices
    prices = read_prices(Path(named) if named else None, today)
    if folder is None or not folder.prices.exists():
        return prices
    return prices.after(read_prices(folder.prices, today).own)


def keep_asked(asked: Sequence[Price], folder: RunFolder) -> None:
    """Write down what a person said, as a prices file in the run folder, for its later stages."""
    if asked:
        kinds: dict[str, dict[str, Any]] = {}
        for p in asked:
            kinds.setdefault(p.kind, {})[p.name] = {
                "usd": p.usd, "source": p.source, "read_on": p.read_on,
            }  # fmt: skip
        write_atomic(folder.prices, yaml.dump(kinds, Dumper=_WholeDumper, sort_keys=False))


class _WholeDumper(yaml.SafeDumper):
    """Writes equal values out each time: aliases are not read back."""

    def ignore_aliases(self, data: Any) -> bool:
        """True for everything."""
        return True
