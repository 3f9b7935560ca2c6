"""Orthogonal methods: weights are turned, not added to.

Sources: OFT (Qiu et al. 2023), BOFT (Liu et al. 2024).
"""

from __future__ import annotations

from typing import Any

from tunewright.methods import Boft, Oft
from tunewright.model.adapters.targets import (
    How,
    find_targets,
    largest_divisor,
    linear_targets,
    plain_linear_targets,
)
from tunewright.model.load import Base
from tunewright.model.peft_quietly import peft


def oft(base: Base, how: How) -> Any:
    """Block-diagonal rotations of what each layer reads."""
    options = how.options
    assert isinstance(options, Oft)
    return peft.OFTConfig(
        r=0,
        oft_block_size=largest_divisor(options.block_size, _widths(base, how)),
        module_dropout=how.dropout,
        coft=options.constrained,
        **plain_linear_targets(base, how, "oft"),
    )


def boft(base: Base, how: How) -> Any:
    """Products of sparse rotations, the butterfly of a fast Fourier transform."""
    options = how.options
    assert isinstance(options, Boft)
    return peft.BOFTConfig(
        boft_block_size=largest_divisor(options.block_size, _widths(base, how)),
        boft_block_num=0,
        boft_n_butterfly_factor=options.factors,
        boft_dropout=how.dropout,
        **linear_targets(base, how),
    )


def _widths(base: Base, how: How) -> list[int]:
    modules = dict(base.model.named_modules())
    targets = find_targets(base, how.target_modules, how.exclude_modules, how.modules_to_save)
    # Transposed layers name their sizes otherwise: the width that is read is their weight's first.
    return [
        getattr(modules[name], "in_features", 0) or int(modules[name].weight.shape[0])
        for name in targets
    ]
