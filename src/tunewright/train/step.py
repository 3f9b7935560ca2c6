"""One optimiser step: forward and backward over micro-batches, then one update.

Running out of memory halves the micro-batch and takes the step again; the sum over true targets is
the same however the rows are cut, so the mathematics does not change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tunewright.data.batch import Batch, make_batch, split_micro_batches
from tunewright.data.render import Row
from tunewright.errors import Refusal, UserError
from tunewright.model.device import is_out_of_memory
from tunewright.train.objectives import Objective
from tunewright.train.optimize import MasterAdamW
from tunewright.train.parallel import ALONE, Ranks, share_rows

SMALLEST_MICRO_TOKENS = 16


@dataclass(frozen=True, slots=True)
class StepResult:
    """loss: mean over the true targets of the step. tokens: real ones, padding not counted."""

    loss: float
    grad_norm: float
    tokens: int
    target_weight: float


@dataclass
class MicroBatching:
    """How a batch is cut; max_tokens shrinks when memory runs out and is part of the checkpoint."""

    max_tokens: int
    pad_id: int
    device: torch.device
    packed: bool = False

    def cut(self, rows: Sequence[Row]) -> Iterator[Batch]:
        """Micro-batches of at most max_tokens; where rows are padded, padding counts."""
        for part in self.parts(rows):
            chosen = [rows[i] for i in part]
            yield make_batch(chosen, pad_id=self.pad_id, device=self.device, packed=self.packed)

    def parts(self, rows: Sequence[Row]) -> list[NDArray[np.int64]]:
        """Row numbers of each micro-batch; none of no rows."""
        if not rows:
            return []
        lengths = np.array([row.num_tokens for row in rows], dtype=np.int64)
        everything: NDArray[np.int64] = np.arange(len(rows))
        return split_micro_batches(everything, lengths, self.max_tokens, packed=self.packed)


class NonFiniteLossError(UserError):
    """The loss or gradient became NaN or infinite; nothing was updated."""


def take_step(
    model: nn.Module,
    rows: Sequence[Row],
    cutting: MicroBatching,
    optimizer: MasterAdamW,
    objective: Objective,
    *,
    rate_factor: float,
    seed: int,
    label_smoothing: float,
    on_out_of_memory: Callable[[int], None],
    ranks: Ranks = ALONE,
) -> StepResult:
    """Learn from one batch of rows, each rank from its share of them.

    Raises NonFiniteLossError naming the rows before any update is made, and Refusal when not even
    a single row fits into memory.
    """
    target_weight = sum(row.target_weight for row in rows)
    if target_weight <= 0.0:  # nothing to learn in any of these rows
        return StepResult(0.0, 0.0, sum(row.num_tokens for row in rows), 0.0)
    while True:
        loss_sum, full = 0.0, False
        batches = _batches_of(rows, cutting, ranks)
        try:
            loss_sum = _backward(model, batches, objective, optimizer, seed, label_smoothing)
        except (RuntimeError, MemoryError) as error:
            # In a sharded model the other ranks wait inside this very step: no way back from here.
            if not is_out_of_memory(error) or ranks.sharding is not None:
                raise
            full = True
        loss_sum, num_full = ranks.sum_numbers([loss_sum, float(full)])
        if num_full == 0:
            break
        optimizer.drop_gradients()
        _halve(cutting, rows, on_out_of_memory)
    optimizer.sum_gradients(ranks)
    norm = ranks.join_norms(float(optimizer.gradient_norm(1.0 / target_weight)))
    loss = loss_sum / target_weight
    if not (math.isfinite(loss) and math.isfinite(norm)):
        optimizer.drop_gradients()
        raise NonFiniteLossError(_blame(model, rows, cutting, objective, loss, norm))
    optimizer.step(rate_factor, norm)
    tokens = sum(row.num_tokens for row in rows)
    return StepResult(loss, norm, tokens, target_weight)


def _batches_of(
    rows: Sequence[Row], cutting: MicroBatching, ranks: Ranks
) -> Iterator[tuple[Batch, float]]:
    """This rank's micro-batches, each with the factor of its loss.

    Sharded parameters are gathered layer by layer, in which every rank must take part: one with
    fewer micro-batches computes another of no weight.
    """
    shares = share_rows([row.num_tokens for row in rows], ranks.size)
    mine = [rows[i] for i in shares[ranks.rank]]
    yield from ((batch, 1.0) for batch in cutting.cut(mine))
    if ranks.sharding is not None:
        counts = [len(cutting.parts([rows[i] for i in share])) for share in shares]
        for _ in range(max(counts) - counts[ranks.rank]):
            yield from ((batch, 0.0) for batch in cutting.cut(rows[:1]))


def _backward(
    model: nn.Module,
    batches: Iterable[tuple[Batch, float]],
    objective: Objective,
    optimizer: MasterAdamW,
    seed: int,
    label_smoothing: float,
) -> float:
    # Dropout follows from the step's own seed, so no random state needs to be saved or restored.
    torch.manual_seed(seed)
    total: float | Tensor = 0.0
    for batch, factor in batches:
        loss = objective(model, batch, label_smoothing=label_smoothing)
        if factor != 1.0:
            loss = loss * factor
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.collect_gradients()
        total = total + loss.detach().double()
    return float(total)


def _halve(
    cutting: MicroBatching, rows: Sequence[Row], on_out_of_memory: Callable[[int], None]
) -> None:
    """Halve the micro-batch; outside the `except`, so that the failed step's tensors are gone."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    lengths = np.array([row.num_tokens for row in rows], dtype=np.int64)
    packed = cutting.packed
    parts = split_micro_batches(np.arange(len(rows)), lengths, cutting.max_tokens, packed=packed)
    widest = max(
        int(lengths[part].sum() if packed else lengths[part].max() * part.size) for part in parts
    )
    if widest <= max(int(lengths.max()), SMALLEST_MICRO_TOKENS):
        raise Refusal(
            f"memory: a single row of {int(lengths.max())} tokens does not fit; "
            "lower training.max_length, or take a smaller base model or adapter"
        )
    cutting.max_tokens = max(SMALLEST_MICRO_TOKENS, min(cutting.max_tokens, widest) // 2)
    on_out_of_memory(cutting.max_tokens)


def _blame(
    model: nn.Module,
    rows: Sequence[Row],
    cutting: MicroBatching,
    objective: Objective,
    loss: float,
    norm: float,
) -> str:
    """Which rows have a non-finite loss by themselves, as one line with a remedy."""
    bad = []
    with torch.no_grad():
        for row in rows:
            batch = make_batch([row], pad_id=cutting.pad_id, device=cutting.device)
            if not math.isfinite(float(objective(model, batch))):
                bad.append(row.id)
    which = "rows " + ", ".join(bad[:5]) if bad else "rows " + ", ".join(r.id for r in rows[:5])
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    return (
        f"training: loss {loss:g}, gradient norm {norm:g} at {which}{more}; nothing was updated; "
        "lower training.learning_rate, use precision fp32, or look at these rows"
    )
