"""Plain weights that learn: all of them, or those of some layers."""

from __future__ import annotations

import re
from typing import Any

from tunewright.errors import ModelError
from tunewright.methods import Freeze
from tunewright.model.adapters.targets import How, head_modules
from tunewright.model.load import Base

_LAYER = re.compile(r"(.*?\.(?:layers?|h|block|blocks))\.(\d+)\.")


def full(base: Base, how: How) -> Any:
    """All weights, embeddings too."""
    for parameter in base.model.parameters():
        parameter.requires_grad_(True)
    return base.model


def freeze(base: Base, how: How) -> Any:
    """The last (or first) layers of every stack, norms behind the last one, and the head.

    Raises ModelError when there are fewer layers than that.
    """
    options = how.options
    assert isinstance(options, Freeze)
    found = {
        name: match
        for name, _ in base.model.named_parameters()
        if (match := _LAYER.match(name)) is not None
    }
    depth = 1 + max((int(match[2]) for match in found.values()), default=-1)
    count = options.train_layers
    if not 0 < abs(count) <= depth:
        raise ModelError(
            f"adapter.train_layers: is {count}; {base.reference} has {depth} layers, so give 1 to "
            f"{depth}, or -1 to -{depth} for the first ones"
        )
    learning = set(range(depth - count, depth)) if count > 0 else set(range(-count))
    heads = head_modules(base)
    looked_up = base.model.get_input_embeddings().weight
    for name, parameter in base.model.named_parameters():
        layer = found.get(name)
        inside = layer is not None and int(layer[2]) in learning
        head = any(name.startswith(f"{head}.") for head in heads) or name in base.fresh
        last_norm = layer is None and count > 0 and "norm" in name and "embed" not in name.lower()
        embeds = parameter is looked_up and options.train_embeddings
        parameter.requires_grad_(inside or head or last_norm or embeds)
    return base.model
