"""Values of other tools as ours. Each takes a value and returns ours, None for "nothing asked".

NotCarriedError gives the reason where there is no counterpart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tunewright.importers.draft import Draft, NotCarriedError, Rule, to

SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
PREFERENCE_LOSSES = {
    "dpo": "dpo", "sigmoid": "dpo", "ipo": "ipo", "orpo": "orpo", "kto": "kto", "simpo": "simpo",
}  # fmt: skip
TRACKERS = ("tensorboard", "mlflow", "wandb")
NO_FP16 = "fp16 is not used here: bf16 where the processor has it, else fp32"


def whole(value: Any) -> int | None:
    """A count; 0 and below mean "not set" in the tools that we read."""
    number = int(value)
    return number if number > 0 else None


def number(value: Any) -> float:
    """A number, also where YAML 1.1 read 2e-5 as text."""
    return float(value)


def share(value: Any) -> float | None:
    """A share of the rows for validation."""
    given = float(value)
    if given == 0:
        raise NotCarriedError(
            "a tenth is held back here, so that early stopping and the best checkpoint have "
            "something to go by; data.validation: 0 trains on everything"
        )
    if given >= 1:
        raise NotCarriedError(f"{given:g} rows; here data.validation is a share of the rows")
    return given


def schedule(value: Any) -> str:
    """A learning-rate schedule."""
    name = str(value)
    if name not in SCHEDULES:
        raise NotCarriedError(f"no schedule {name} here; linear stays (or cosine, constant)")
    return SCHEDULES[name]


def switch(on: Any, off: Any = None) -> Any:
    """A conversion of true and false; text counts as true ("unsloth", "offload")."""

    def convert(value: Any) -> Any:
        return on if truth(value) else off

    return convert


def flag(our_key: str) -> Rule:
    """A switch that is one of ours as well; off, it asks for nothing."""
    return to(our_key, switch(True))


def truth(value: Any) -> bool:
    """True for true, "true", "yes" and whatever else is set."""
    return str(value).lower() not in ("false", "no", "none", "0", "off")


def precision(name: str) -> Rule:
    """bf16: true, auto or false; fp16 has no counterpart."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        if not truth(value):
            draft.unset(key, value)
        elif name == "fp16":
            draft.leave(key, value, NO_FP16)
        else:
            auto = str(value).lower() in ("auto", "full")
            draft.put(key, value, "training.precision", "auto" if auto else name)

    return rule


def mixed_precision(value: Any) -> str | None:
    """One key for all: bf16, fp16, fp32, no."""
    name = str(value).lower().removeprefix("torch.")
    if name in ("fp16", "float16", "half"):
        raise NotCarriedError(NO_FP16)
    names = {"bf16": "bf16", "bfloat16": "bf16", "auto": "auto", "fp32": "fp32", "float32": "fp32"}
    if name in ("no", "none"):
        return "fp32"
    if name not in names:
        raise NotCarriedError(f"precision {name} unknown; auto stays")
    return names[name]


def modules(value: Any) -> Any:
    """Target modules: a list, "a,b", or a word for all of them."""
    if isinstance(value, str):
        if value in ("all", "all-linear"):
            return "all-linear"
        if re.search(r"[\\^$|(*+?\[]", value):
            return value
        names = [part.strip() for part in value.replace(",", " ").split()]
    else:
        names = [str(part) for part in value]
    if "all-linear" in names or "all" in names:
        return "all-linear"
    return names or None


def trackers(value: Any) -> list[str] | None:
    """report_to: a name or several."""
    names = [value] if isinstance(value, str) else list(value)
    known = [name for name in names if name in TRACKERS]
    unknown = [name for name in names if name not in TRACKERS and name not in ("none", "all")]
    if unknown and not known:
        raise NotCarriedError(f"no tracker {unknown[0]} here; there are {', '.join(TRACKERS)}")
    return known or None


def optimizer(draft: Draft, key: str, value: Any) -> None:
    """AdamW, with moments in 8 bits too, is what we do; other rules of learning are not there."""
    name = str(value).rsplit(".", 1)[-1].lower()
    if "adamw" in name and "8bit" in name:
        note = "its moments are small enough not to be paged" if "paged" in name else ""
        draft.put(key, value, "training.optimizer", "adamw_8bit", note)
    elif "adamw" in name:
        draft.always(key, value, "AdamW on fp32 master weights, fused")
    else:
        draft.leave(key, value, f"AdamW is the optimiser here; {value} is not there")


def warmup_steps(draft: Draft, key: str, value: Any) -> None:
    """A count, which is a share only once the number of steps is known."""
    steps = float(value)
    total = draft.values.get("training.max_steps")
    if steps == 0:
        draft.put(key, value, "training.warmup_ratio", 0.0)
    elif steps < 1:
        draft.put(key, value, "training.warmup_ratio", steps)
    elif total:
        draft.put(key, value, "training.warmup_ratio", round(min(0.99, steps / total), 6))
    else:
        draft.leave(
            key, value, "a count of steps; here training.warmup_ratio is a share, .1 unless given"
        )


def preference(draft: Draft, key: str, value: Any) -> None:
    """A preference objective by its name."""
    name = str(value).lower()
    if name in PREFERENCE_LOSSES:
        draft.put(key, value, "objective", PREFERENCE_LOSSES[name])
    else:
        draft.leave(key, value, f"no objective {value} here; there are dpo, ipo, orpo, kto, simpo")


def sections_first(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The same keys with `names` in front: those that later rules look at."""
    front = {name: values[name] for name in names if name in values}
    return {**front, **values}
