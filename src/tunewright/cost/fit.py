"""Will it fit? The verdict with its interval, and what to change, each change with its figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from tunewright.cost.memory import Memory, Work, forecast_memory, with_micro_batch
from tunewright.cost.shape import ModelShape

FitWord = Literal["FIT", "UNCERTAIN", "NO"]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to change: what to set, what it would need then, and the verdict for that."""

    what: str
    overrides: tuple[str, ...]
    peak_bytes: int
    high_bytes: int
    verdict: FitWord
    price: str
    """What it costs otherwise, in words."""


def judge_fit(memory: Memory, room_bytes: int) -> FitWord:
    """FIT when even the upper end of the interval fits, NO when not even the lower end does."""
    if memory.high_bytes <= room_bytes:
        return "FIT"
    return "NO" if memory.low_bytes > room_bytes else "UNCERTAIN"


def find_changes(
    shape: ModelShape,
    work: Work,
    room_bytes: int,
    device_kind: str,
    *,
    count: int = 1,
    scale: float = 1.0,
    quantizable: bool = False,
) -> list[Change]:
    """What would need less, in the order of how little it costs; what changes nothing is left out.

    scale: how far measurements moved this forecast. quantizable: 4-bit weights can be had. Ends
    with all of them together.
    """

    def need(changed: Work) -> Memory:
        return scaled(forecast_memory(shape, changed, device_kind, count=count), scale)

    now = need(work)
    found: list[Change] = []
    together, settings = work, []
    for what, overrides, change, price in _ideas(work, quantizable):
        changed = change(work)
        memory = need(changed)
        if memory.peak_bytes > 0.97 * now.peak_bytes:
            continue
        found.append(_change(what, overrides, memory, room_bytes, price))
        if judge_fit(need(together), room_bytes) != "FIT":
            together = change(together)
            settings += [key for key in overrides if key not in settings]
    if len(settings) > 1 and together != work:
        found.append(
            _change("all of these", tuple(settings), need(together), room_bytes, "all of the above")
        )
    return found


def scaled(memory: Memory, scale: float) -> Memory:
    """The forecast as measurements moved it."""
    if scale == 1.0:
        return memory
    return replace(
        memory,
        peak_bytes=round(memory.peak_bytes * scale),
        low_bytes=round(memory.low_bytes * scale),
        high_bytes=round(memory.high_bytes * scale),
    )


def _change(
    what: str, overrides: tuple[str, ...], memory: Memory, room_bytes: int, price: str
) -> Change:
    verdict = judge_fit(memory, room_bytes)
    return Change(what, overrides, memory.peak_bytes, memory.high_bytes, verdict, price)


_Idea = tuple[str, tuple[str, ...], Callable[[Work], Work], str]


def _ideas(work: Work, quantizable: bool) -> Iterator[_Idea]:
    """Changes that this version can make, the cheapest first."""
    half = max(work.row_tokens, work.tokens // 2)
    if half < work.tokens:
        yield (
            "half the micro-batch",
            (f"training.max_batch_tokens={half}",),
            lambda w: with_micro_batch(w, half),
            "same result, a little slower",
        )
    if work.row_tokens < work.tokens // 2:
        one = work.row_tokens
        yield (
            "one row at a time",
            (f"training.max_batch_tokens={one}",),
            lambda w: with_micro_batch(w, one),
            "same result, slower",
        )
    if not work.checkpointing:
        yield (
            "recompute activations",
            ("training.activation_checkpointing=on",),
            lambda w: replace(w, checkpointing=True),
            "same result, about a third slower",
        )
    if work.method == "full":
        yield (
            "an adapter instead of all weights",
            ("adapter.method=lora",),
            lambda w: replace(w, method="lora", num_parameters=w.num_parameters),
            "usually as good on up to some ten thousand rows",
        )
    elif work.precision == "fp32":
        yield (
            "bf16 instead of fp32",
            ("training.precision=bf16",),
            lambda w: replace(w, precision="bf16"),
            "masters stay fp32; the last digits of the loss differ",
        )
    if quantizable and work.method != "full" and work.quantization == "none":
        yield (
            "4-bit weights",
            ("adapter.quantization=nf4",),
            lambda w: replace(w, quantization="nf4"),
            "a small loss of quality, slower steps",
        )
    shorter = max(8, work.row_tokens // 2)
    yield (
        "rows half as long",
        (f"training.max_length={shorter}",),
        lambda w: replace(
            w,
            row_tokens=shorter,
            tokens=max(shorter, w.tokens // 2),
            outputs=max(1, w.outputs // 2),
        ),
        "what is cut is not learned",
    )
