"""What stands beside the tuned model in a report: cheap baselines here, other runs, large models.

`evaluation.beside` names them, for runs that train here as for those that train elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tunewright.config import Recipe
from tunewright.data.prepare import Prepared
from tunewright.errors import RecipeError
from tunewright.evaluate.baselines import Material, default_baselines, run_baselines
from tunewright.evaluate.saved import read_predictions
from tunewright.hosted_asking import (
    answer_limit,
    ask_systems,
    choose_examples,
    near_examples,
    open_provider,
)
from tunewright.hosted_cost import Asked, Consent, forecast_hosted, get_consent, nobody
from tunewright.journal import Journal
from tunewright.price_desk import Ask, keep_asked, prices_of
from tunewright.providers.provider import Provider
from tunewright.providers.rows import make_wording
from tunewright.records import Example, Prediction
from tunewright.setup import first_by_content
from tunewright.store import RunFolder

WRITTEN = ("supervised", "distill")
"""Objectives whose runs here are judged by what the model answers."""
HOSTED_BASELINES = ("base", "few_shot", "retrieved", "linear_probe", "from_scratch")
"""Names that need the base model: at a provider it is asked, or they do not exist."""


def check_beside(recipe: Recipe) -> None:
    """Raise RecipeError for a run that is not there or has no such answers: before training."""
    for name, item in recipe.evaluation.beside.items():
        if item.run is None:
            continue
        key = f"evaluation.beside.{name}.run"
        folder = RunFolder(Path(item.run))
        if not folder.predictions.exists():
            raise RecipeError(f"{key} is {item.run!r}; give a finished run folder")
        systems = {system for system, split in read_predictions(folder.predictions)}
        if item.system not in systems:
            raise RecipeError(
                f"evaluation.beside.{name}.system is {item.system!r}; {item.run} has "
                f"{', '.join(sorted(systems))}"
            )


def describe_beside(recipe: Recipe) -> dict[str, str]:
    """What stands behind each name of evaluation.beside, in words for the report."""
    told = {}
    for name, item in recipe.evaluation.beside.items():
        if item.run is not None:
            told[name] = f"{item.system} of {item.run}"
            continue
        which = "the same" if item.examples == "drawn" else "its nearest"
        shots = (
            f", {which} {item.num_few_shot} examples in every prompt" if item.num_few_shot else ""
        )
        told[name] = f"{item.model} at {item.provider}, prompted{shots}"
    return told


def runs_beside(recipe: Recipe, test: Sequence[Example]) -> dict[str, list[Prediction]]:
    """Answers of other runs to the same test rows, in their order. Raises RecipeError where a run
    was judged on other rows.
    """
    found = {}
    for name, item in recipe.evaluation.beside.items():
        if item.run is None:
            continue
        rows = read_predictions(RunFolder(Path(item.run)).predictions)
        by_id = {p.id: p for p in rows.get((item.system, "test"), ())}
        missing = [example for example in test if example.id not in by_id]
        if missing:
            raise RecipeError(
                f"evaluation.beside.{name}.run: {item.run} did not answer {missing[0].place} and "
                f"{len(missing) - 1} more of {len(test)} test rows; it must have the same data, "
                "split and data.split_seed"
            )
        found[name] = [replace(by_id[example.id], system=name) for example in test]
    return found


def beside_systems(
    recipe: Recipe,
    train: Sequence[Example],
    test: Sequence[Example],
    provider: Provider | None = None,
) -> list[Asked]:
    """The hosted models that are asked the test questions too. provider: the run's own."""
    found = []
    for name, item in recipe.evaluation.beside.items():
        if item.model is None or item.provider is None:
            continue
        same = provider is not None and item.provider == recipe.provider
        asked = provider if same else open_provider(item.provider, recipe.hosted)
        assert asked is not None
        count, seed = item.num_few_shot, recipe.training.seed
        if count and item.examples == "nearest":
            near = near_examples(train, test, count, seed)
            found.append(Asked(name, asked, item.model, near=near))
            continue
        shots = choose_examples(train, count, seed) if count else ()
        found.append(Asked(name, asked, item.model, shots))
    return found


def local_rivals(
    recipe: Recipe,
    prepared: Prepared,
    train: Sequence[Example],
    test: Sequence[Example],
    journal: Journal,
) -> dict[str, list[Prediction]]:
    """The cheap baselines that need no base model, learned here."""
    wished, layout = recipe.evaluation.baselines, prepared.layout
    names: Sequence[str] = wished if wished != "auto" else ()
    if wished == "auto":
        has_columns = any(example.columns for example in train)
        names = default_baselines(layout.task, kind=None, has_columns=has_columns)
    material = Material(
        task=layout.task,
        labels=layout.labels,
        multi_label=layout.multi_label,
        train=tuple(train),
        test=tuple(test),
        split="test",
        seed=recipe.training.seed,
        asker=None,
        advance=lambda done: None,
    )
    return run_baselines([n for n in names if n not in HOSTED_BASELINES], material, journal)


def price_beside(
    recipe: Recipe,
    prepared: Prepared,
    folder: RunFolder,
    journal: Journal,
    consent: Consent | None,
    ask: Ask | None,
) -> None:
    """Of a run that trains here: what asking the hosted models will cost, agreed to beforehand.

    Raises RecipeError or Refusal before anything is spent.
    """
    check_beside(recipe)
    if recipe.objective not in WRITTEN:
        raise RecipeError(
            f"evaluation.beside compares written answers; objective {recipe.objective} is judged "
            "here by which of two it favours; take evaluation.beside out"
        )
    test = first_by_content(prepared.splits.test, recipe.evaluation.max_rows)
    runs_beside(recipe, test)
    if not any(item.model for item in recipe.evaluation.beside.values()):
        return
    splits, today = prepared.splits, datetime.now(UTC).date()
    how = make_wording(prepared.layout, "a hosted model")
    forecast = forecast_hosted(
        None, None, (), beside_systems(recipe, splits.train, test), test, how,
        prices=prices_of(recipe, today), today=today, ask=ask,
    )  # fmt: skip
    what = f"asking hosted models {len(test)} test questions"
    get_consent(recipe, forecast, what, consent or nobody, journal)
    keep_asked(forecast.asked, folder)


def answer_beside(
    recipe: Recipe,
    prepared: Prepared,
    test: Sequence[Example],
    folder: RunFolder,
    journal: Journal,
) -> Mapping[str, list[Prediction]]:
    """Of a run that trains here: test predictions of everything named under evaluation.beside."""
    if not recipe.evaluation.beside:
        return {}
    systems = beside_systems(recipe, prepared.splits.train, test)
    asked: dict[str, list[Prediction]] = {}
    if systems:
        how = make_wording(prepared.layout, "a hosted model")
        asked, _ = ask_systems(
            systems, test, how, kept=folder.answers,
            max_tokens=answer_limit(recipe, prepared.splits.train),
            num_parallel=recipe.hosted.num_parallel, journal=journal,
        )  # fmt: skip
    return {**asked, **runs_beside(recipe, test)}
