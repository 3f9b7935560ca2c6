"""Where an adapter sits: linear layers by name or pattern, norms, and heads that learn whole."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from tunewright.errors import ModelError
from tunewright.methods import Options
from tunewright.model.load import HEADED, Base
from tunewright.model.peft_quietly import peft

ALL_LINEAR = "all-linear"
_LINEAR = (nn.Linear, Conv1D)
# Parts of multimodal checkpoints that text never passes through.
_NOT_TEXT = ("vision_tower", "vision_model", "multi_modal_projector", "audio_tower", "visual")
# Input sides of keys and values, then of the way out of an MLP, by the names that families use.
_KEYS_VALUES = (
    "k_proj", "v_proj", "key", "value", "qkv_proj", "query_key_value", "c_attn", "Wqkv", "k", "v",
)  # fmt: skip
_MLP_OUT = ("down_proj", "fc2", "wo", "output.dense", "dense_4h_to_h", "mlp.c_proj", "mlp.Wo")


@dataclass(frozen=True, slots=True)
class How:
    """What the recipe says about an adapter, shared keys and the method's own options."""

    options: Options
    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | Sequence[str] = ALL_LINEAR
    exclude_modules: str | Sequence[str] = ()
    modules_to_save: Sequence[str] = ()
    new_token_ids: Sequence[int] = ()
    seed: int = 17


def head_modules(base: Base) -> tuple[str, ...]:
    """Names of the modules that the task adds to the backbone, and of new ones inside it."""
    if base.task not in (*HEADED, "tag"):
        return ()
    prefix = base.model.base_model_prefix
    outside = [
        name
        for name, module in base.model.named_children()
        if name != prefix and any(True for _ in module.parameters())
    ]
    # A pooler that the checkpoint lacks: its top module, "bert.pooler", trained whole.
    inside = [name.split(".")[:2] for name in base.fresh if name.startswith(f"{prefix}.")]
    return tuple(dict.fromkeys([*outside, *(".".join(parts) for parts in inside)]))


def saved_whole(base: Base, how: How) -> list[str] | None:
    """Modules that are trained and saved whole beside the adapter; None without any."""
    known = {name for name, module in base.model.named_modules() if name}
    for name in how.modules_to_save:
        if not any(_ends_with(item, name) for item in known):
            last = list(dict.fromkeys(item.rsplit(".", 1)[-1] for item in known))
            near = difflib.get_close_matches(name, last, n=3, cutoff=0.4)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise ModelError(f"adapter.modules_to_save: no module {name!r} in this model{hint}")
    return [*head_modules(base), *how.modules_to_save] or None


def linear_targets(base: Base, how: How) -> dict[str, Any]:
    """target_modules and, where all are transposed ones, fan_in_fan_out, for a PEFT config."""
    modules = dict(base.model.named_modules())
    targets = find_targets(base, how.target_modules, how.exclude_modules, how.modules_to_save)
    return {
        "target_modules": short_names(targets, modules),
        "modules_to_save": saved_whole(base, how),
        "task_type": task_type(base),
        "fan_in_fan_out": all(isinstance(modules[name], Conv1D) for name in targets),
    }


def plain_linear_targets(base: Base, how: How, method: str) -> dict[str, Any]:
    """As linear_targets, for methods that know no transposed layers. Raises ModelError."""
    found = linear_targets(base, how)
    if found.pop("fan_in_fan_out"):
        raise ModelError(
            f"adapter.method: {method} cannot sit on the transposed layers of "
            f"{base.plain.config.model_type}; use lora"
        )
    return found


def find_targets(
    base: Base,
    wish: str | Sequence[str],
    without: str | Sequence[str] = (),
    whole: Sequence[str] = (),
) -> tuple[str, ...]:
    """Full names of the linear layers that get an addition. Raises ModelError."""
    linear = _backbone_linear(base)
    linear = tuple(n for n in linear if not any(_is_inside(n, module) for module in whole))
    if not linear:
        raise ModelError(f"{base.reference}: no linear layers to adapt; use adapter.method: full")
    chosen = linear
    if wish != ALL_LINEAR:
        names = [wish] if isinstance(wish, str) else list(wish)
        if not names:
            raise ModelError("adapter.target_modules: empty; name modules or use all-linear")
        chosen = _matching(names, linear, "target_modules")
    if without:
        names = [without] if isinstance(without, str) else list(without)
        dropped = set(_matching(names, linear, "exclude_modules"))
        chosen = tuple(name for name in chosen if name not in dropped)
        if not chosen:
            raise ModelError("adapter.exclude_modules: leaves no layer to adapt; exclude less")
    return chosen


def keys_values_and_mlp(base: Base, how: How) -> tuple[list[str], list[str]]:
    """(layers for IA3, those of them that it scales on the input side). Raises ModelError."""
    targets = find_targets(base, how.target_modules, how.exclude_modules, how.modules_to_save)
    inner = [n for n in targets if any(_ends_with(n, e) for e in _MLP_OUT)]
    if how.target_modules == ALL_LINEAR:
        outer = [n for n in targets if any(_ends_with(n, e) for e in _KEYS_VALUES)]
        outer = [n for n in outer if n not in set(inner)]
        if not outer or not inner:
            raise ModelError(
                f"adapter.method: ia3 does not know the keys, values and MLP of "
                f"{base.plain.config.model_type}; name them in adapter.target_modules"
            )
        targets = (*outer, *inner)
    return list(targets), inner


def norm_modules(base: Base) -> list[str]:
    """Full names of the layer norms, the last one too. Raises ModelError when there are none."""
    heads = head_modules(base)
    names = [
        name
        for name, module in base.model.named_modules()
        if "norm" in type(module).__name__.lower()
        and any(True for _ in module.parameters(recurse=False))
        and not any(_is_inside(name, head) for head in heads)
    ]
    if not names:
        raise ModelError(f"{base.reference}: no layer norms to tune; use adapter.method: lora")
    return names


def short_names(targets: Sequence[str], modules: dict[str, nn.Module]) -> list[str]:
    """The shortest endings that name the targets and nothing else: "q_proj", "output.dense"."""
    wanted = set(targets)
    others = [name for name in modules if name not in wanted]
    chosen: dict[str, None] = {}
    for name in targets:
        if any(_ends_with(name, ending) for ending in chosen):
            continue
        parts = name.split(".")
        endings = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
        chosen[next(e for e in endings if not any(_ends_with(other, e) for other in others))] = None
    return list(chosen)


def task_type(base: Base) -> peft.TaskType:
    """PEFT's name of the task, which tells its loaders the model class."""
    if base.task in HEADED:
        return peft.TaskType.SEQ_CLS
    if base.task == "tag":
        return peft.TaskType.TOKEN_CLS
    if base.task in (None, "embed"):
        return peft.TaskType.FEATURE_EXTRACTION
    if base.kind == "encoder-decoder":
        return peft.TaskType.SEQ_2_SEQ_LM
    return peft.TaskType.CAUSAL_LM


def largest_divisor(wish: int, widths: Iterable[int]) -> int:
    """The largest number up to `wish` that divides every width."""
    widths = list(widths)
    return next(n for n in range(wish, 0, -1) if all(width % n == 0 for width in widths))


def _backbone_linear(base: Base) -> tuple[str, ...]:
    outputs = base.model.get_output_embeddings()
    heads = head_modules(base)
    return tuple(
        name
        for name, module in base.model.named_modules()
        if isinstance(module, _LINEAR)
        and module is not outputs
        and not any(_is_inside(name, head) for head in heads)
        and not any(part in _NOT_TEXT for part in name.split("."))
    )


def _matching(names: Sequence[str], linear: Sequence[str], key: str) -> tuple[str, ...]:
    """Layers that any name or pattern means; each must mean one. Raises ModelError."""
    tests = [_matcher(name, key) for name in names]
    for name, means in zip(names, tests, strict=True):
        if not any(means(item) for item in linear):
            raise ModelError(_no_such_module(name, linear, key))
    return tuple(item for item in linear if any(means(item) for means in tests))


def _matcher(name: str, key: str) -> Any:
    if name.startswith("re:"):
        try:
            pattern = re.compile(name[3:])
        except re.error as error:
            raise ModelError(
                f"adapter.{key}: {name[3:]!r} is no regular expression ({error}); correct it"
            ) from None
        return lambda item: pattern.fullmatch(item) is not None
    if any(sign in name for sign in "*?["):
        return lambda item: (
            fnmatch.fnmatchcase(item, name) or fnmatch.fnmatchcase(item, f"*.{name}")
        )
    return lambda item: _ends_with(item, name)


def _is_inside(name: str, module: str) -> bool:
    return _ends_with(name, module) or f".{module}." in f".{name}."


def _ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _no_such_module(name: str, linear: Iterable[str], key: str) -> str:
    known = list(dict.fromkeys(item.rsplit(".", 1)[-1] for item in linear))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:8]
    return f"adapter.{key}: no linear layer {name!r} in this model; there is " + ", ".join(near)
