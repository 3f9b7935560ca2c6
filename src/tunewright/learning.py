"""What a run minimises, settled from recipe and model; and whether its rows can teach it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from tunewright.config import Recipe
from tunewright.data.prepare import Prepared
from tunewright.data.render import Row
from tunewright.errors import DataError
from tunewright.journal import Journal
from tunewright.model.load import Base
from tunewright.records import Example
from tunewright.sections import COMPARING
from tunewright.setup import Setup, Tuning
from tunewright.teaching import load_teacher
from tunewright.train.contrastive import CONTRASTIVE
from tunewright.train.distill import distilled
from tunewright.train.grpo import grpo
from tunewright.train.objectives import OBJECTIVES, Objective, with_penalty
from tunewright.train.preferences import NEED_REFERENCE, add_references, make_preference
from tunewright.train.reward import reward_model


def objective_of(setup: Setup, base: Base) -> Objective:
    """The objective with its options, and the penalty that the adapter's method brings along."""
    objective: Objective
    if setup.objective == "reward":
        objective = partial(reward_model, center=setup.recipe.preference.center or 0.0)
    elif setup.prefers:
        chosen = setup.recipe.preference.model_dump(exclude_none=True)
        objective = make_preference(setup.objective, chosen)
    elif setup.objective == "grpo":
        objective = partial(grpo, clip=setup.recipe.grpo.clip, beta=setup.recipe.grpo.beta)
    elif setup.objective == "distill":
        how = setup.recipe.distill
        teacher = load_teacher(setup.recipe).to(setup.device)
        objective = partial(
            distilled, teacher=teacher, temperature=how.temperature, weight=how.weight
        )
    elif setup.task == "embed":
        objective = _contrastive(setup, base)
    else:
        objective = OBJECTIVES[setup.objective]
        offset_K = class_offsets(setup)
        if offset_K is not None:
            offset = torch.from_numpy(offset_K).float().to(setup.device)
            objective = partial(objective, offset_K=offset)
    companion = base.companion
    return objective if companion is None else with_penalty(objective, companion.penalty)


def class_offsets(setup: Setup) -> NDArray[np.float64] | None:
    """(K,) log of each class's share of the training rows over its share of their weights.

    None where weights multiply losses (training.weighting), or are all alike. Classes without a row
    get 0.
    """
    if setup.recipe.training.weighting != "logits" or setup.objective != "classify":
        return None
    index = {label: number for number, label in enumerate(setup.prepared.layout.labels)}
    rows, weights = np.zeros(len(index)), np.zeros(len(index))
    for example in setup.prepared.splits.train:
        number = index[str(example.output)]
        rows[number] += 1
        weights[number] += example.weight
    seen = (rows > 0) & (weights > 0)
    offset_K = np.zeros(len(index))
    shares, wanted = rows[seen] / rows.sum(), weights[seen] / weights.sum()
    offset_K[seen] = np.log(shares / wanted)
    return offset_K if np.abs(offset_K).max(initial=0.0) > 1e-9 else None


def _contrastive(setup: Setup, base: Base) -> Objective:
    how = setup.recipe.embedding
    if how.loss == "triplet":
        return partial(CONTRASTIVE["triplet"], pooling=base.pooling, margin=how.margin)
    chosen = CONTRASTIVE["in_batch"]
    return partial(chosen, pooling=base.pooling, temperature=how.temperature)


def with_references(
    setup: Setup, tuning: Tuning, rows: Sequence[Row], journal: Journal
) -> Sequence[Row]:
    """Rows with what the model thinks of their answers before tuning, where that is needed.

    The model is as it was when training began, in a resumed run too.
    """
    if setup.objective not in NEED_REFERENCE:
        return rows
    with journal.progress("log-probabilities before tuning", 1.0) as advance:
        return add_references(
            tuning.base.model, rows, tuning.plan.pad_id, setup.device, partial(_tell, advance)
        )


def _tell(advance: object, share: float) -> None:
    assert callable(advance)
    advance(share, "")


def check_preferences(recipe: Recipe, prepared: Prepared) -> None:
    """Raise DataError where the rows hold no better and worse answers to learn from or judge by."""
    if prepared.task == "embed" and recipe.embedding.loss == "triplet":
        lacking = next((e for e in prepared.splits.train if not e.rejected), None)
        if lacking is not None:
            raise DataError(
                f"{lacking.place}: no text that does not belong, which embedding.loss triplet "
                "needs in every row; add a column negative, or use embedding.loss: in_batch"
            )
    if recipe.objective not in COMPARING:
        return
    splits = prepared.splits
    if recipe.objective != "kto" and not any(map(_is_pair, splits.train)):
        raise DataError(
            f"{recipe.data.train}: objective {recipe.objective} learns from pairs, and no row has "
            "chosen and rejected; give such rows, or objective: kto for single answers"
        )
    for name, part in (("validation", splits.validation), ("test", splits.test)):
        if part and not any(map(_is_pair, part)):
            raise DataError(
                f"data.{name}: no row has a better and a worse answer, so nothing can be judged; "
                "give a file of pairs (prompt, chosen, rejected), or set it to 0"
            )


def _is_pair(example: Example) -> bool:
    return example.output is not None and example.rejected is not None


def pairs_of(examples: Sequence[Example]) -> tuple[Example, ...]:
    """Those that hold a better and a worse answer."""
    return tuple(filter(_is_pair, examples))
