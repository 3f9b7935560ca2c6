"""Methods that learn vectors only: VeRA, IA3, and the layer norms themselves.

Sources: VeRA (Kopiczko et al. 2024), IA3 (Liu et al. 2022), LN tuning (Zhao et al. 2023).
"""

from __future__ import annotations

from typing import Any

from transformers.pytorch_utils import Conv1D

from tunewright.methods import Vera
from tunewright.model.adapters.targets import (
    How,
    keys_values_and_mlp,
    linear_targets,
    norm_modules,
    saved_whole,
    short_names,
    task_type,
)
from tunewright.model.load import Base
from tunewright.model.peft_quietly import peft


def vera(base: Base, how: How) -> Any:
    """Two vectors per layer around random matrices that all layers share and the adapter saves."""
    options = how.options
    assert isinstance(options, Vera)
    return peft.VeraConfig(
        r=how.r,
        vera_dropout=how.dropout,
        d_initial=options.d_initial,
        projection_prng_key=how.seed,
        **linear_targets(base, how),
    )


def ia3(base: Base, how: How) -> Any:
    """A vector that scales keys, values, and what enters the last layer of each MLP."""
    targets, inner = keys_values_and_mlp(base, how)
    modules = dict(base.model.named_modules())
    names = short_names(targets, modules)
    feedforward = short_names(inner, modules) if inner else []
    return peft.IA3Config(
        target_modules=[*names, *(n for n in feedforward if n not in names)],
        feedforward_modules=feedforward,
        modules_to_save=saved_whole(base, how),
        task_type=task_type(base),
        fan_in_fan_out=all(isinstance(modules[name], Conv1D) for name in targets),
    )


def ln_tuning(base: Base, how: How) -> Any:
    """The layer norms, trained whole."""
    return peft.LNTuningConfig(
        target_modules=short_names(norm_modules(base), dict(base.model.named_modules())),
        modules_to_save=saved_whole(base, how),
        task_type=task_type(base),
    )
