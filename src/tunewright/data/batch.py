"""Order of samples, and rows to tensors.

The order is a pure function of (seed, epoch): a run resumes at any position at once, and neither
workers nor accumulation enter (RELIABILITY.md 1.3). Every row has a random stream of its own,
keyed by (seed, epoch, row id).

Shapes: B rows, T tokens, D decoder tokens, K classes, N target positions in the whole batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunewright.data.render import Row

IGNORED = -100
WINDOW_BATCHES = 50
"""Batches among which rows are sorted by length: long enough for little padding, short enough that
an epoch stays well mixed."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch on the device.

    ids_BT int64; mask_BT int64 (1 = token) or None where nothing is padded; where rows are packed,
    positions_BT and starts_R1: where each of R rows begins, then the end. For language modelling
    target_N int64 with target_weight_N, and predicts_BT bool: positions whose *hidden state*
    predicts a target, in the same order (BD for encoder-decoder models). Else target in the task's
    own shape. weight_B float32. num_tokens counts real ones.
    """

    ids_BT: Tensor
    mask_BT: Tensor | None
    target: Tensor
    weight_B: Tensor
    num_tokens: int
    positions_BT: Tensor | None = None
    starts_R1: Tensor | None = None
    predicts_BT: Tensor | None = None
    target_weight_N: Tensor | None = None
    decoder_ids_BD: Tensor | None = None
    decoder_mask_BD: Tensor | None = None
    answer_N: Tensor | None = None
    """Of preferences: the number of the answer, 0 to 2B - 1, that each target belongs to; first
    all answers, then all other ones. weight_B is of the B rows; target_weight_N is 0 or 1."""
    advantage_N: Tensor | None = None
    """Of tried answers, for every target: the answer's advantage; before_N and start_N: the token's
    log-probability when it was written, and before training."""
    before_N: Tensor | None = None
    start_N: Tensor | None = None
    reference_2B: Tensor | None = None
    liked_B: Tensor | None = None


def random_stream(seed: int, *key: int | str) -> np.random.Generator:
    """An independent random stream for a key; the same on every machine."""
    text = ":".join(str(part) for part in (seed, *key))
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def plan_epoch(
    lengths: NDArray[np.int64], batch_size: int, *, seed: int, epoch: int
) -> list[NDArray[np.int64]]:
    """Row numbers of every batch of one epoch; batches hold rows of like length, in mixed order.

    Returns ceil(n / batch_size) arrays that together hold every row once.
    """
    stream = random_stream(seed, "order", epoch)
    order = stream.permutation(lengths.size)
    window = batch_size * WINDOW_BATCHES
    batches: list[NDArray[np.int64]] = []
    for start in range(0, order.size, window):
        part = order[start : start + window]
        # A stable sort on top of the shuffle: rows of one length stay in random order.
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, part.size, batch_size)]
    return [batches[i] for i in stream.permutation(len(batches))]


def split_micro_batches(
    rows: NDArray[np.int64],
    lengths: NDArray[np.int64],
    max_tokens: int,
    *,
    packed: bool = False,
) -> list[NDArray[np.int64]]:
    """Cut one batch into parts of at most max_tokens, or one row; padding counts unless packed."""
    ordered = rows[np.argsort(lengths[rows], kind="stable")]
    parts: list[NDArray[np.int64]] = []
    start = held = 0
    for end in range(1, ordered.size + 1):
        last = int(lengths[ordered[end - 1]])
        held += last
        if end - start > 1 and (held if packed else last * (end - start)) > max_tokens:
            parts.append(ordered[start : end - 1])
            start, held = end - 1, last
    parts.append(ordered[start:])
    return parts


def make_batch(
    rows: Sequence[Row], *, pad_id: int, device: torch.device, packed: bool = False
) -> Batch:
    """Rows of one kind as tensors; `packed` joins all rows but an encoder-decoder's in one."""
    if rows[0].other is not None and rows[0].target_weights is None:
        return _texts_batch(rows, pad_id, device)
    if rows[0].other is not None:
        return _preference_batch(rows, pad_id, device, packed)
    if rows[0].advantage is not None:
        return _tried_batch(rows, pad_id, device, packed)
    if rows[0].is_seq2seq:
        return _seq2seq_batch(rows, pad_id, device)
    if packed:
        return _packed_batch(rows, device)
    if rows[0].target_weights is not None:
        return _language_batch(rows, pad_id, device)
    ids, mask = _pad([row.input_ids for row in rows], pad_id)
    return Batch(
        ids_BT=ids.to(device),
        mask_BT=None if mask is None else mask.to(device),
        target=_targets(rows, ids.shape[1]).to(device),
        weight_B=torch.tensor([row.weight for row in rows], dtype=torch.float32, device=device),
        num_tokens=sum(row.input_ids.size for row in rows),
    )


def model_inputs(batch: Batch) -> dict[str, Tensor]:
    """Keyword arguments of a transformers forward."""
    inputs: dict[str, Tensor] = {"input_ids": batch.ids_BT}
    if batch.mask_BT is not None:
        inputs["attention_mask"] = batch.mask_BT
    if batch.positions_BT is not None:
        inputs["position_ids"] = batch.positions_BT
    if batch.decoder_ids_BD is not None:
        inputs["decoder_input_ids"] = _shift_right(batch.decoder_ids_BD)
        if batch.decoder_mask_BD is not None:
            inputs["decoder_attention_mask"] = torch.cat(
                [torch.ones_like(batch.decoder_mask_BD[:, :1]), batch.decoder_mask_BD[:, :-1]], 1
            )
    return inputs


def _shift_right(ids_BD: Tensor) -> Tensor:
    # The first place is for the token that the model starts from; generate.target_logits fills it.
    return torch.cat([torch.zeros_like(ids_BD[:, :1]), ids_BD[:, :-1]], dim=1)


def hide_tokens(
    row: Row, share: float, mask_id: int, special: frozenset[int], *, seed: int, epoch: int
) -> Row:
    """The row with a random share of its ordinary tokens replaced by the mask token.

    The choice follows from (seed, epoch, row id) alone, so workers and resume do not change it.
    """
    if share <= 0.0:
        return row
    hidden = random_stream(seed, "hide", epoch, row.id).random(row.input_ids.size) < share
    keep = np.isin(row.input_ids, np.fromiter(special, dtype=np.int64, count=len(special)))
    ids = np.where(hidden & ~keep, np.int32(mask_id), row.input_ids).astype(np.int32)
    return replace(row, input_ids=ids)


def batches_by_length(
    rows: Sequence[Row], max_tokens: int, max_rows: int = 512
) -> Iterator[NDArray[np.int64]]:
    """Row numbers in batches of like length, for evaluation; longest last."""
    lengths = np.array([row.num_tokens for row in rows], dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    for part in split_micro_batches(order, lengths, max_tokens) if order.size else []:
        for start in range(0, part.size, max_rows):
            yield part[start : start + max_rows]


def _pad(rows: Sequence[NDArray[np.int32]], pad_id: int) -> tuple[Tensor, Tensor | None]:
    longest = max(row.size for row in rows)
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for number, row in enumerate(rows):
        ids[number, : row.size] = row
        mask[number, : row.size] = 1
    full = bool(mask.all())
    return torch.from_numpy(ids), None if full else torch.from_numpy(mask)


def _targets(rows: Sequence[Row], longest: int) -> Tensor:
    first = rows[0].target
    if isinstance(first, float):
        return torch.tensor([row.target for row in rows], dtype=torch.float32)
    if isinstance(first, np.ndarray) and first.dtype == np.int32:
        tags = np.full((len(rows), longest), IGNORED, dtype=np.int64)
        for number, row in enumerate(rows):
            assert isinstance(row.target, np.ndarray)
            tags[number, : row.target.size] = row.target
        return torch.from_numpy(tags)
    if isinstance(first, np.ndarray):
        return torch.from_numpy(np.stack([np.asarray(row.target) for row in rows]))
    return torch.tensor([row.target for row in rows], dtype=torch.int64)


def _language_batch(rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
    ids, mask = _pad([row.input_ids for row in rows], pad_id)
    predicts = torch.zeros(ids.shape, dtype=torch.bool)
    weight, target = [], []
    for number, row in enumerate(rows):
        assert row.target_weights is not None
        # Token t is predicted by the hidden state at t - 1; the first token by nothing.
        positions = np.flatnonzero(row.target_weights[1:])
        predicts[number, torch.from_numpy(positions)] = True
        weight.append(row.target_weights[1:][positions] * row.weight)
        target.append(row.input_ids[1:][positions])
    return Batch(
        ids_BT=ids.to(device),
        mask_BT=None if mask is None else mask.to(device),
        target=_joined(target, torch.int64, device),
        predicts_BT=predicts.to(device),
        target_weight_N=_joined(weight, torch.float32, device),
        weight_B=torch.tensor([row.weight for row in rows], dtype=torch.float32, device=device),
        num_tokens=sum(row.input_ids.size for row in rows),
    )


def _tried_batch(rows: Sequence[Row], pad_id: int, device: torch.device, packed: bool) -> Batch:
    """Answers that the model itself tried, with what is known of each target token."""
    flat = [replace(row, advantage=None, before=None, start=None) for row in rows]
    batch = make_batch(flat, pad_id=pad_id, device=device, packed=packed)
    counts = [np.count_nonzero(row.target_weights[1:]) for row in rows]  # type: ignore[index]
    gains = np.repeat(np.array([row.advantage for row in rows], dtype=np.float32), counts)
    known: dict[str, Tensor] = {"advantage_N": torch.from_numpy(gains).to(device)}
    for name in ("before", "start"):
        parts = [getattr(row, name) for row in rows]
        if all(part is not None for part in parts):
            known[f"{name}_N"] = _joined(parts, torch.float32, device)
    return replace(batch, **known)  # type: ignore[arg-type]


def _texts_batch(rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
    """Every row's texts one below the other: all firsts, all seconds, then all thirds there are."""
    seconds = [row.other for row in rows if row.other is not None]
    thirds = [row.other for row in seconds if row.other is not None]
    flat = [*rows, *seconds, *thirds]
    ids, mask = _pad([row.input_ids for row in flat], pad_id)
    return Batch(
        ids_BT=ids.to(device),
        mask_BT=None if mask is None else mask.to(device),
        target=torch.zeros(len(rows), dtype=torch.int64, device=device),
        weight_B=torch.tensor([row.weight for row in rows], dtype=torch.float32, device=device),
        num_tokens=sum(row.input_ids.size for row in flat),
    )


def _preference_batch(
    rows: Sequence[Row], pad_id: int, device: torch.device, packed: bool
) -> Batch:
    """Both answers of every row, the first ones before all other ones."""
    others = [row.other for row in rows if row.other is not None]
    flat = [replace(row, other=None, liked=None, weight=1.0) for row in rows] + others
    batch = make_batch(flat, pad_id=pad_id, device=device, packed=packed)
    counts = [
        np.count_nonzero(r.target_weights if r.is_seq2seq else r.target_weights[1:])  # type: ignore[index,arg-type]
        for r in flat
    ]
    answer = torch.from_numpy(np.repeat(np.arange(len(flat)), counts)).to(device)
    references = [row.reference for row in rows]
    reference = None
    if all(len(pair) == 2 for pair in references):
        both = [pair[0] for pair in references] + [pair[1] for pair in references]
        reference = torch.tensor(both, dtype=torch.float32, device=device)
    liked = None
    if rows[0].liked is not None:
        liked = torch.tensor([bool(row.liked) for row in rows], device=device)
    weights = torch.tensor([row.weight for row in rows], dtype=torch.float32, device=device)
    return replace(batch, answer_N=answer, reference_2B=reference, liked_B=liked, weight_B=weights)


def _packed_batch(rows: Sequence[Row], device: torch.device) -> Batch:
    """All rows in one sequence; positions start anew at each, which keeps attention apart."""
    ids = np.concatenate([row.input_ids for row in rows]).astype(np.int64)
    positions = np.concatenate([np.arange(row.input_ids.size) for row in rows])
    starts = np.cumsum([0, *(row.input_ids.size for row in rows)], dtype=np.int64)
    if rows[0].target_weights is not None:
        targets = _packed_targets(rows, starts, device)
    else:
        targets = {"target": _targets(rows, 0).to(device)}
    return Batch(
        ids_BT=torch.from_numpy(ids)[None].to(device),
        mask_BT=None,
        positions_BT=torch.from_numpy(positions)[None].to(device),
        starts_R1=torch.from_numpy(starts).to(device),
        weight_B=torch.tensor([row.weight for row in rows], dtype=torch.float32, device=device),
        num_tokens=int(ids.size),
        **targets,  # type: ignore[arg-type]
    )


def _packed_targets(
    rows: Sequence[Row], starts: NDArray[np.int64], device: torch.device
) -> dict[str, Tensor]:
    predicts = torch.zeros(1, int(starts[-1]), dtype=torch.bool)
    weight, target = [], []
    for row, start in zip(rows, starts, strict=False):
        assert row.target_weights is not None
        places = np.flatnonzero(row.target_weights[1:])
        predicts[0, torch.from_numpy(start + places)] = True
        weight.append(row.target_weights[1:][places] * row.weight)
        target.append(row.input_ids[1:][places])
    return {
        "target": _joined(target, torch.int64, device),
        "predicts_BT": predicts.to(device),
        "target_weight_N": _joined(weight, torch.float32, device),
    }


def _seq2seq_batch(rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
    ids, mask = _pad([row.input_ids for row in rows], pad_id)
    answers, answer_mask = _pad([np.asarray(row.target) for row in rows], pad_id)
    weight = torch.zeros(answers.shape, dtype=torch.float32)
    for number, row in enumerate(rows):
        assert row.target_weights is not None
        weight[number, : row.target_weights.size] = torch.from_numpy(
            row.target_weights * np.float32(row.weight)
        )
    predicts = weight > 0
    return Batch(
        ids_BT=ids.to(device),
        mask_BT=None if mask is None else mask.to(device),
        target=answers[predicts].to(device),
        predicts_BT=predicts.to(device),
        target_weight_N=weight[predicts].to(device),
        weight_B=torch.tensor([row.weight for row in rows], dtype=torch.float32, device=device),
        num_tokens=sum(row.num_tokens for row in rows),
        decoder_ids_BD=answers.to(device),
        decoder_mask_BD=None if answer_mask is None else answer_mask.to(device),
    )


def _joined(
    parts: Sequence[NDArray[np.generic]], dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.from_numpy(np.concatenate(parts)).to(device=device, dtype=dtype)
