"""Everything the tuned model is measured against, asked on the same rows: the untuned base, cheap
baselines, and on request the same shape trained from scratch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tunewright.config import Recipe
from tunewright.data.render import render
from tunewright.evaluate.baselines import (
    Material,
    ask_rival,
    check_baselines,
    default_baselines,
    run_baselines,
)
from tunewright.journal import Journal
from tunewright.metrics.table import metrics_for
from tunewright.model.load import Base, add_tokens, load_base
from tunewright.records import Example, Prediction
from tunewright.setup import PREFERRED, Setup, open_model, use_pooling
from tunewright.train.loop import fit
from tunewright.train.objectives import OBJECTIVES

FROM_SCRATCH = "from_scratch"


def check_rivals(recipe: Recipe) -> None:
    """Raise RecipeError for an unknown baseline: asked before training, not after it."""
    if recipe.evaluation.baselines != "auto":
        check_baselines(recipe.evaluation.baselines, also=(FROM_SCRATCH,))


def answer_with_rivals(
    setup: Setup, test: Sequence[Example], journal: Journal
) -> dict[str, list[Prediction]]:
    """System name to test predictions; none at all for a rival that failed, with a warning."""
    recipe, layout = setup.recipe, setup.prepared.layout
    if setup.objective == "reward" and setup.base.kind == "encoder":
        return _lengths(test)  # an untuned encoder has no view of answers
    base = load_base(
        recipe.base_model,
        task=layout.task,
        labels=layout.labels,
        multi_label=layout.multi_label,
        device=setup.device,
        dtype=setup.dtype,
        revision=recipe.base_revision,
        trust_remote_code=recipe.trust_remote_code,
        quantization=recipe.adapter.held_in,
        seed=recipe.training.seed,
    )
    add_tokens(base, recipe.adapter.new_tokens)
    use_pooling(base, recipe)
    if setup.prefers:
        return _preferred(setup, base, test)
    names = recipe.evaluation.baselines
    if names == "auto":
        has_columns = any(example.columns for example in setup.prepared.splits.train)
        names = default_baselines(layout.task, kind=base.kind, has_columns=has_columns)
    material = Material(
        task=layout.task,
        labels=layout.labels,
        multi_label=layout.multi_label,
        train=setup.prepared.splits.train,
        test=tuple(test),
        split="test",
        seed=recipe.training.seed,
        asker=setup.asker(base),
        advance=lambda done: None,
        num_few_shot=recipe.evaluation.num_few_shot,
    )
    wanted = tuple(name for name in names if name != FROM_SCRATCH)
    answers = run_baselines(wanted, material, journal)
    if FROM_SCRATCH in names:
        answers[FROM_SCRATCH] = ask_rival(
            FROM_SCRATCH, partial(_from_scratch, setup, test, journal), journal
        )
    return answers


def _preferred(setup: Setup, base: Base, test: Sequence[Example]) -> dict[str, list[Prediction]]:
    """Whom the untuned base favours, and two rules that know nothing but length."""
    asker = setup.asker(base)
    asker = replace(asker, rendering=replace(asker.rendering, rewards=None))
    asked = asker.predict(test, system="base", split="test")
    return {"base": asked, **_lengths(test)}


def _lengths(test: Sequence[Example]) -> dict[str, list[Prediction]]:
    """What two rules that see nothing but length favour."""
    pairs = [e for e in test if e.output is not None and e.rejected is not None]
    lengths = {e.id: len(str(e.output)) - len(e.rejected or "") for e in pairs}

    def by_length(system: str, sign: int) -> list[Prediction]:
        # Of equal lengths a coin decides, the same one every time.
        picks = [
            sign * lengths[e.id] > 0 or (lengths[e.id] == 0 and int(e.id[:1], 16) % 2 == 0)
            for e in pairs
        ]
        return [
            Prediction(e.id, "test", system, e.input, "chosen", PREFERRED[not right], group=e.group)
            for e, right in zip(pairs, picks, strict=True)
        ]

    return {"shorter": by_length("shorter", -1), "longer": by_length("longer", 1)}


def _from_scratch(setup: Setup, test: Sequence[Example], journal: Journal) -> list[Prediction]:
    """The same shape with random weights, all of them trained by the same recipe."""
    from tunewright.validation import make_evaluate  # stands beside this file, and leans on setup

    recipe = setup.recipe.model_copy(
        update={"adapter": setup.recipe.adapter.model_copy(update={"method": "full"})}
    )
    twin = replace(setup, recipe=recipe)
    tuning = open_model(twin, journal, random_init=True)
    metrics = metrics_for(setup.task, setup.prepared.splits.train, setup.prepared.layout.labels)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory(prefix="tunewright-") as place:
        fit(
            tuning.base.model,
            tuning.parameters,
            setup.standardised(render(setup.prepared.splits.train, setup.rendering)),
            tuning.plan,
            recipe.training,
            objective=OBJECTIVES[setup.objective],
            evaluate=make_evaluate(twin, tuning.base, metrics),
            checkpoints=Path(place),
            log_step=lambda step: None,
            log_evaluation=lambda evaluation: None,
            forget_after=lambda step: None,
            journal=journal,
        )
    return twin.asker(tuning.base).predict(test, system=FROM_SCRATCH, split="test")
