"""Products other than B A: entry by entry (LoHa) and Kronecker (LoKr), after LyCORIS.

Sources: FedPara (Hyeon-Woo et al. 2022), LyCORIS (Yeh et al. 2024).
"""

from __future__ import annotations

from typing import Any

from tunewright.methods import LoKr
from tunewright.model.adapters.targets import How, plain_linear_targets
from tunewright.model.load import Base
from tunewright.model.peft_quietly import peft


def loha(base: Base, how: How) -> Any:
    """The entry-wise product of two low-rank matrices, of rank up to r squared."""
    return peft.LoHaConfig(
        r=how.r,
        alpha=how.alpha,  # type: ignore[arg-type]
        module_dropout=how.dropout,
        **plain_linear_targets(base, how, "loha"),
    )


def lokr(base: Base, how: How) -> Any:
    """A Kronecker product of a small and a low-rank matrix."""
    options = how.options
    assert isinstance(options, LoKr)
    return peft.LoKrConfig(
        r=how.r,
        alpha=how.alpha,  # type: ignore[arg-type]
        module_dropout=how.dropout,
        decompose_factor=options.decompose_factor,
        decompose_both=options.decompose_both,
        **plain_linear_targets(base, how, "lokr"),
    )
