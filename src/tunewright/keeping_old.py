"""What a model that is tuned again keeps of the one before: weights held by elastic weight
consolidation while it learns, or both models merged when it has learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from tunewright.data.formats import read_rows
from tunewright.data.render import Row, render
from tunewright.errors import ModelError, RecipeError
from tunewright.journal import Journal, silence
from tunewright.learning import class_offsets, objective_of
from tunewright.model.load import Base, load_base
from tunewright.model.merging import merge_states
from tunewright.model.weights import load_tuned, merged_state
from tunewright.records import Example
from tunewright.setup import Setup, Tuning, open_model
from tunewright.tokenising import render_for_training
from tunewright.train.anchor import make_anchor, measure_fisher
from tunewright.train.head import find_head, start_head
from tunewright.train.loop import Fitted
from tunewright.train.objectives import Objective, with_penalty
from tunewright.validation import make_evaluate

MIXES = (0.25, 0.5, 0.75)
"""Weights of the new model that are tried on validation; the old one has the rest."""
TASKS = ("classify", "regress")


def anchored(setup: Setup, tuning: Tuning, objective: Objective, journal: Journal) -> Objective:
    """The objective and the penalty of keep.ewc, measured on keep.rows; as it is without."""
    keep = setup.recipe.keep
    if not keep.ewc or keep.rows is None:
        return objective
    rows = _old_rows(setup, keep.rows)
    with journal.progress("what old rows depend on", 1.0) as advance:
        fisher = measure_fisher(
            tuning.base.model, tuning.parameters, rows, objective_of(setup, tuning.base),
            pad_id=tuning.plan.pad_id, device=setup.device, advance=lambda done: advance(done, ""),
        )  # fmt: skip
    return with_penalty(objective, make_anchor(tuning.parameters, fisher, keep.ewc))


def _old_rows(setup: Setup, path: str) -> list[Row]:
    labels = set(setup.rendering.labels)
    examples = [
        Example(id=f"old-{n}", place=place, input=str(row["input"]), output=row["output"])
        for n, (place, row) in enumerate(read_rows(path, format="jsonl"))
        if isinstance(row, Mapping) and (not labels or row["output"] in labels)
    ]
    if not examples:
        raise RecipeError(f"keep.rows: {path} holds no row of a class that is learned")
    return render(examples, setup.rendering)


def check_keep(setup: Setup) -> None:
    """Raise RecipeError for what cannot be merged."""
    if setup.recipe.keep.model is not None and setup.task not in TASKS:
        raise RecipeError(
            f"keep.model: merging is for {' and '.join(TASKS)}; this is {setup.task}; use "
            "retune.strategy continue"
        )


def merged_with_old(
    setup: Setup, base: Base, fitted: Fitted, metrics: Sequence[str], journal: Journal
) -> tuple[Base, Fitted]:
    """(the two models in one, whole weights; fitted with them); as given without keep.model.

    The merged backbone gets a head fitted on it, which starts from what the old one knew. How much
    of each is taken is what validation says.
    """
    keep = setup.recipe.keep
    if keep.model is None:
        return base, fitted
    new = _plain_state(base, fitted.weights)
    old = load_tuned(keep.model, dtype=torch.float32)
    depths = [getattr(m.plain.config, "num_hidden_layers", None) for m in (old, base)]
    if depths[0] != depths[1]:
        raise ModelError(
            f"keep.model: {keep.model} has {depths[0]} layers and the new model {depths[1]}; merge "
            "models that were tuned by the same method"
        )
    head = _head_rows(old)
    old_state = _plain_state(old, {})
    start = _start_state(setup)
    plain = base.model.merge_and_unload() if base.is_adapted else base.model
    for parameter in plain.parameters():
        parameter.requires_grad_(True)
    known = frozenset(head) & frozenset(base.labels)
    whole = replace(base, model=plain, adapter="full", known_labels=known)
    rows = setup.standardised(render_for_training(setup.prepared, setup.rendering, silence()))
    fill = partial(_fill, whole, setup, rows, head, pad_id=int(base.tokenizer.pad_token_id or 0))
    evaluate = make_evaluate(setup, whole, metrics)
    best: tuple[float, float, dict[str, Tensor]] | None = None
    for share in MIXES if evaluate is not None else (0.5,):
        merged = merge_states(
            start, [old_state, new], keep.merge, weights=(1 - share, share), density=keep.density
        )
        weights = fill(merged, new)
        value = evaluate()[0] if evaluate is not None else 0.0
        if best is None or value > best[0]:
            best = (value, share, weights)
    assert best is not None
    _, share, weights = best
    _load(plain, weights)
    journal.say(f"merged ({keep.merge}): {share:.0%} of what was learned now, the rest of before")
    return whole, replace(fitted, weights=weights)


def _plain_state(base: Base, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if base.is_adapted:
        return merged_state(base.model, weights)
    return {**base.model.state_dict(), **weights}


def _start_state(setup: Setup) -> dict[str, Tensor]:
    """The weights that both models began with, in the shape that training gives them."""
    recipe, layout = setup.recipe, setup.prepared.layout
    fresh = load_base(
        recipe.base_model, task=layout.task, labels=layout.labels, multi_label=layout.multi_label,
        device=setup.device, dtype=torch.float32, revision=recipe.base_revision,
        seed=recipe.training.seed,
    )  # fmt: skip
    if fresh.source.is_adapter:
        raise ModelError(f"{recipe.base_model}: merging needs the base itself, not an adapter")
    tuning = open_model(replace(setup, base=fresh, dtype=torch.float32), silence())
    return _plain_state(tuning.base, {})


def _head_rows(old: Base) -> dict[str, tuple[Tensor, Tensor]]:
    """By label, the row of the old head and its bias."""
    plain = replace(old, fresh=tuple(name for name, _ in old.plain.named_parameters()))
    head = find_head(plain)
    if head is None or len(old.labels) != head.out_features:
        return {}
    weight, bias = head.weight.detach().float(), head.bias.detach().float()
    return {label: (weight[n], bias[n]) for n, label in enumerate(old.labels)}


def _fill(
    base: Base,
    setup: Setup,
    rows: Sequence[Row],
    head: Mapping[str, tuple[Tensor, Tensor]],
    merged: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
    *,
    pad_id: int,
) -> dict[str, Tensor]:
    """Put merged weights and a head fitted on them into the model; all its weights, float32."""
    _load(base.model, {**new, **merged})
    target = find_head(base)
    if target is not None and base.labels:
        with torch.no_grad():
            for number, label in enumerate(base.labels):
                if label in head and head[label][0].shape == target.weight[number].shape:
                    target.weight[number] = head[label][0].to(target.weight.dtype)
                    target.bias[number] = head[label][1].to(target.bias.dtype)
    start_head(base, rows, pad_id, class_offsets(setup))
    parameters = dict(base.model.named_parameters())
    exact = {name: merged[name] for name in merged if name in parameters}
    heads = {name: p.detach().float().clone() for name, p in parameters.items()}
    fitted_names = set(base.fresh)
    return {
        name: heads[name] if name in fitted_names else exact.get(name, heads[name])
        for name in parameters
    }


def _load(model: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in state and state[name].shape == parameter.shape:
                parameter.copy_(state[name].to(parameter.dtype))
