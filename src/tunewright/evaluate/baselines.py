"""The table of baselines: what a tuned model must beat, answered on the same rows."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Literal

from tunewright.errors import Interrupted, RecipeError
from tunewright.evaluate.classic import boosted_trees, majority, mean, tfidf_linear
from tunewright.evaluate.few_shot import few_shot, retrieved
from tunewright.evaluate.material import Material as Material
from tunewright.evaluate.material import NotPossible
from tunewright.evaluate.nearest import nearest_neighbour
from tunewright.evaluate.retrieval import bm25, tfidf_cosine
from tunewright.evaluate.untuned import base, linear_probe
from tunewright.journal import Journal
from tunewright.records import Prediction

Kind = Literal["encoder", "decoder", "encoder-decoder"]
Baseline = Callable[[Material], list[Prediction]]


def default_baselines(task: str, *, kind: Kind | None, has_columns: bool) -> tuple[str, ...]:
    """Names of the baselines that make sense for a task.

    kind: of the base at hand, None without one. has_columns: rows carry values beside the text.
    """
    names = [
        name
        for name, tasks in _TASKS_OF.items()
        if task in tasks
        and name not in ON_REQUEST
        and (kind is not None or name not in ("base", "few_shot", "linear_probe"))
        and (has_columns or name != "boosted_trees")
        and (kind == "decoder" or name != "few_shot")
    ]
    return tuple(names)


def check_baselines(names: Iterable[str], *, also: Iterable[str] = ()) -> None:
    """Raise RecipeError for a name that stands neither in BASELINES nor in `also`."""
    known = [*BASELINES, *also]
    for name in names:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join(known)}"
        raise RecipeError(f"evaluation.baselines: {name!r} unknown; {hint}")


def run_baselines(
    names: Iterable[str], material: Material, journal: Journal
) -> dict[str, list[Prediction]]:
    """Name to predictions on the test rows, in their order.

    A baseline that makes no sense for these rows is left out with a warning; one that fails has no
    predictions, with a warning, and the others go on. Raises RecipeError for an unknown name before
    any is made; a stop signal passes through.
    """
    wanted = list(dict.fromkeys(names))
    check_baselines(wanted)
    answers: dict[str, list[Prediction]] = {}
    for name in wanted if material.test else ():
        try:
            answers[name] = ask_rival(name, partial(_run, name, material, journal), journal)
        except NotPossible as reason:
            journal.warn(f"baseline {name} is left out: {reason}")
    return answers


def ask_rival(name: str, ask: Callable[[], list[Prediction]], journal: Journal) -> list[Prediction]:
    """What `ask` gives; no predictions, and a warning, where it fails for a reason of its own.

    Raises NotPossible, and Interrupted for a stop signal.
    """
    try:
        return ask()
    except (Interrupted, NotPossible):
        raise
    except Exception as error:
        # A rival that fails in whatever library must not cost a finished training run.
        first = next(iter(str(error).splitlines()), "")
        journal.warn(f"baseline {name} is left out: {type(error).__name__}: {first[:200]}")
        return []


def _run(name: str, material: Material, journal: Journal) -> list[Prediction]:
    with journal.progress(f"baseline {name}", 1.0) as advance:
        return BASELINES[name](replace(material, advance=lambda done: advance(done, "")))


ON_REQUEST = ("retrieved",)
"""As slow as few_shot, and slower: prompts that differ share nothing."""
_GENERATION = ("generate", "chat")
_TASKS_OF: dict[str, tuple[str, ...]] = {
    "base": ("classify", *_GENERATION, "continue", "embed"),
    "few_shot": _GENERATION,
    "retrieved": _GENERATION,
    "linear_probe": ("classify", "regress", "tag"),
    "nearest_neighbour": ("classify", "regress", *_GENERATION),
    "tfidf_linear": ("classify", "regress", "tag"),
    "boosted_trees": ("classify", "regress"),
    "majority": ("classify", "tag"),
    "mean": ("regress",),
    "tfidf_cosine": ("embed",),
    "bm25": ("embed",),
}

BASELINES: dict[str, Baseline] = {
    "base": base,
    "few_shot": few_shot,
    "retrieved": retrieved,
    "linear_probe": linear_probe,
    "nearest_neighbour": nearest_neighbour,
    "tfidf_linear": tfidf_linear,
    "boosted_trees": boosted_trees,
    "majority": majority,
    "mean": mean,
    "tfidf_cosine": tfidf_cosine,
    "bm25": bm25,
}
