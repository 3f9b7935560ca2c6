"""A yes before money is spent, prices that are missing: asked at a terminal, refused elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from tunewright.errors import RecipeError


def make_consent(yes: bool, as_json: bool) -> Callable[[str, float], bool]:
    """Asks before money is spent: --yes answers, or a person; without either it is refused."""

    def consent(told: str, usd: float) -> bool:
        if yes:
            return True
        if as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise RecipeError(f"{told}; nobody is here to agree: add --yes, or set budget.usd")
        return typer.confirm(f"{told}. Go on?", default=False, err=True)

    return consent


def ask_price(as_json: bool) -> Callable[[str, str], float | None] | None:
    """Asks a person for a price that is missing; None where nobody can be asked."""
    return None if as_json or not sys.stdin.isatty() else _ask


def _ask(name: str, problem: str) -> float | None:
    """A price from the person at the terminal; None for an empty line."""
    typer.echo(problem, err=True)
    while True:
        said = typer.prompt(f"{name} in USD (empty to stop)", default="", err=True).strip()
        if not said:
            return None
        try:
            value = float(said.removeprefix("$"))
        except ValueError:
            value = -1.0
        if value >= 0:
            return value
        typer.echo("a number of dollars, please", err=True)
