"""What the stages of one hosted run share: its rows, its provider, its job as it is to be made, and
what stands in job.json.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tunewright.config import AdapterSection, Recipe, with_values
from tunewright.data.prepare import Prepared
from tunewright.errors import RecipeError
from tunewright.hosted_asking import choose_examples, near_examples, open_provider
from tunewright.hosted_cost import Asked, HostedForecast, forecast_hosted
from tunewright.hosted_rivals import beside_systems, check_beside
from tunewright.journal import Journal
from tunewright.metrics.table import check_metrics, metrics_for
from tunewright.price_desk import Ask, prices_of
from tunewright.providers.provider import Order, Provider
from tunewright.providers.rows import (
    Wording,
    choose_epochs,
    google_line,
    make_lines,
    make_wording,
    openai_line,
)
from tunewright.sections import TrainingSection
from tunewright.setup import first_by_content
from tunewright.store import RunFolder, read_json, write_json


class HostedRun:
    """What the stages of one hosted run share."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        journal: Journal,
        prepared: Prepared,
        provider: Provider,
        how: Wording,
    ) -> None:
        self.recipe, self.folder, self.journal = recipe, folder, journal
        self.prepared, self.provider, self.how = prepared, provider, how
        splits = prepared.splits
        most = provider.rules.max_validation_rows or None
        self.train = tuple(e for e in splits.train if e.output is not None)
        self.validation = first_by_content(splits.validation, most)
        self.test = first_by_content(splits.test, recipe.evaluation.max_rows)
        if recipe.objective == "supervised":
            self.train = tuple(replace(e, rejected=None) for e in self.train)
            self.validation = tuple(replace(e, rejected=None) for e in self.validation)
        else:
            self.train = tuple(e for e in self.train if e.rejected is not None)
            self.validation = tuple(e for e in self.validation if e.rejected is not None)
        self.started = time.time()

    @classmethod
    def make(
        cls,
        recipe: Recipe,
        folder: RunFolder,
        journal: Journal,
        prepared: Prepared,
        provider: Provider | None,
    ) -> HostedRun:
        """Checks task, objective and beside; opens the provider."""
        how = make_wording(prepared.layout, recipe.provider)
        provider = provider or open_provider(recipe.provider, recipe.hosted, journal)
        if recipe.objective not in provider.rules.objectives:
            raise RecipeError(
                f"objective is {recipe.objective}; {provider.name} trains "
                f"{', '.join(provider.rules.objectives)}; choose one, or provider: here"
            )
        check_beside(recipe)
        idle = idle_settings(recipe, provider)
        if idle:
            journal.warn(f"{provider.name} trains by settings of its own; without effect there: "
                         f"{', '.join(idle)}")  # fmt: skip
        recipe = with_values(recipe, {"task": prepared.layout.task})
        return cls(recipe, folder, journal, prepared, provider, how)

    def order(self, files: tuple[str, str | None], key: str) -> Order:
        """The job to be made."""
        training, hosted = self.recipe.training, self.recipe.hosted
        batch, multiplier = training.batch_size, hosted.learning_rate_multiplier
        return Order(
            key=key,
            model=self.recipe.base_model,
            train_file=files[0],
            validation_file=files[1],
            num_epochs=choose_epochs(len(self.train), training.num_epochs),
            objective=self.recipe.objective,
            batch_size=batch if isinstance(batch, int) else None,
            rate_multiplier=multiplier if isinstance(multiplier, float) else None,
            beta=self.recipe.preference.beta,
            seed=training.seed,
            suffix=hosted.suffix,
            rank=rank_of(self.recipe, self.provider),
        )

    def lines(self) -> tuple[list[str], list[str]]:
        """Training and validation lines, every row checked. Raises DataError."""
        write = google_line if self.provider.rules.provider == "google" else openai_line
        rules = self.provider.rules
        return (
            make_lines(self.train, self.how, rules, write, "training"),
            make_lines(self.validation, self.how, rules, write, "validation"),
        )

    def systems(self, tuned: str | None) -> list[Asked]:
        """Every hosted system to be put the test questions. tuned: None before there is one."""
        recipe, base = self.recipe, self.recipe.base_model
        priced = f"ft:{base}" if self.provider.rules.provider == "openai" else base
        found = [Asked("tuned", self.provider, tuned or base, priced_as=priced)]
        wished = recipe.evaluation.baselines
        if wished == "auto" or "base" in wished:
            found.append(Asked("base", self.provider, base))
        count = recipe.evaluation.num_few_shot
        if count and (wished == "auto" or "few_shot" in wished):
            shots = choose_examples(self.train, count, recipe.training.seed)
            found.append(Asked("few_shot", self.provider, base, shots))
        if count and (wished == "auto" or "retrieved" in wished):
            near = near_examples(self.train, self.test, count, recipe.training.seed)
            found.append(Asked("retrieved", self.provider, base, near=near))
        return [*found, *beside_systems(recipe, self.train, self.test, self.provider)]

    def forecast(self, ask: Ask | None) -> HostedForecast:
        """Tokens and dollars beforehand. Raises MissingFigureError."""
        today = datetime.now(UTC).date()
        return forecast_hosted(
            self.order(("", None), ""), self.provider, self.train, self.systems(None), self.test,
            self.how, prices=prices_of(self.recipe, today), today=today, ask=ask,
        )  # fmt: skip

    def note(self, **values: Any) -> None:
        """Write something down in job.json."""
        write_json(self.folder.job, {**self.noted(), **values})

    def noted(self) -> dict[str, Any]:
        """What job.json holds."""
        found: dict[str, Any] = read_json(self.folder.job) if self.folder.job.exists() else {}
        return found


def choose_metrics(recipe: Recipe, prepared: Prepared) -> tuple[str, ...]:
    """The recipe's metrics, or those of the task; the first decides. Preferences are judged by what
    is written, against the better answer: a provider does not tell what it would not have said.
    """
    layout, splits = prepared.layout, prepared.splits
    wished = recipe.evaluation.metrics
    if wished == "auto":
        return metrics_for(layout.task, splits.train + splits.test, layout.labels)
    check_metrics(wished, layout.task, layout.labels)
    return tuple(wished)


def idle_settings(recipe: Recipe, provider: Provider) -> list[str]:
    """Keys that the recipe sets and that mean nothing to this provider."""
    used = {"num_epochs", "seed"}
    used |= {"batch_size"} if provider.rules.provider == "openai" else set()
    parts = {
        "training": (recipe.training, TrainingSection(), used),
        "adapter": (recipe.adapter, AdapterSection(), {"r"} if provider.rules.ranks else set()),
    }
    return [
        f"{name}.{key}"
        for name, (given, plain, known) in parts.items()
        for key in type(plain).model_fields
        if key not in known and getattr(given, key) != getattr(plain, key)
    ]


def rank_of(recipe: Recipe, provider: Provider) -> int | None:
    """The adapter's size as the provider has it, None for its own choice. Raises RecipeError."""
    rank, sizes = recipe.adapter.r, provider.rules.ranks
    if not isinstance(rank, int) or not sizes:
        return None
    if rank not in sizes:
        raise RecipeError(
            f"adapter.r is {rank}; {provider.name} has {', '.join(map(str, sizes))}; take one"
        )
    return rank
