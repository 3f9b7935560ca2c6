"""A stacked decoder at work: prompts in, tokens on, rows out; a slot of the cache for each row.

Rows fill the slots from the first on without a hole: the last one moves where another has left.

Shapes as in stacked.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tunewright.model.low_rank import Route, make_route
from tunewright.model.stacked import Layer, Stack

SMALLEST_CAPACITY = 64
PASS_TOKENS = 4096
"""Prompt tokens in one pass; a longer prompt takes several."""
SHARED_FROM = 16
"""Tokens that prompts must have in common before their keys and values are shared."""
MOST_PREFIXES = 8

Attend = Callable[[int, Layer, Tensor], Tensor]


@dataclass(slots=True)
class Prefix:
    """Keys and values of a beginning that prompts share, kv_2JPD per layer."""

    ids: tuple[int, ...]
    adapter: str | None
    layers: list[Tensor]


class SlotDecoder:
    """Next-token logits for rows that come and go.

    add(prompts, adapters) -> logits_BV of the new rows. step(ids) -> logits_BV of all rows.
    remove(places) -> the old places of the rows that stay, in their new order.
    """

    joins = True

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.lengths: list[int] = []
        self.wishes: list[str | None] = []
        self.route: Route | None = None
        self.kv: list[Tensor] = []
        self.num_slots = self.capacity = 0
        self.prefixes: list[Prefix] = []
        self._plan: tuple[Tensor, Tensor] | None = None

    @torch.inference_mode()
    def add(self, prompts: Sequence[Sequence[int]], adapters: Sequence[str | None]) -> Tensor:
        """Take up rows after those that are there; logits_BV at each prompt's last token."""
        first = len(self.lengths)
        longest = max(map(len, prompts))
        self._make_room(first + len(prompts), longest + 1)
        self._share(prompts, adapters)
        started = [self._start(ids, name, first + i) for i, (ids, name)
                   in enumerate(zip(prompts, adapters, strict=True))]  # fmt: skip
        logits: list[Tensor | None] = [None] * len(prompts)
        for group in _passes(prompts, started):
            slots = [first + place for place in group]
            last = self._read(
                [prompts[place] for place in group], started[group[0]], slots,
                [adapters[place] for place in group],
            )  # fmt: skip
            for place, row in zip(group, last, strict=True):
                logits[place] = row
        self.lengths += [len(ids) for ids in prompts]
        self._set_wishes([*self.wishes, *adapters])
        return torch.stack([row for row in logits if row is not None])

    @torch.inference_mode()
    def step(self, ids: Sequence[int]) -> Tensor:
        """Give every row the token that was chosen for it; logits_BV of the next ones."""
        stack, rows = self.stack, len(self.lengths)
        longest = max(self.lengths) + 1
        self._make_room(rows, longest)
        position_B, write = self._write_plan()
        masks: dict[int | None, Tensor] = {}
        columns_T = torch.arange(longest, device=stack.device)

        def mask_of(window: int | None) -> Tensor:
            if window not in masks:
                seen_BT = columns_T <= position_B.unsqueeze(1)
                if window is not None:
                    seen_BT &= columns_T > position_B.unsqueeze(1) - window
                mask_BT = torch.zeros_like(seen_BT, dtype=stack.dtype).masked_fill_(
                    ~seen_BT, float("-inf")
                )
                masks[window] = mask_BT[:, None, None, :]
            return masks[window]

        def attend(number: int, layer: Layer, q_NHD: Tensor) -> Tensor:
            k_BJTD, v_BJTD = self.kv[number][:, :rows, :, :longest].unbind(0)
            q_BJGD = q_NHD.reshape(rows, stack.num_key_heads, -1, stack.head_size)
            mask = mask_of(layer.window)
            return _attend_one(q_BJGD, k_BJTD, v_BJTD, mask, layer).reshape(rows, -1)

        ids_B = torch.tensor(ids, device=stack.device)
        x_BE = self._pass(ids_B, position_B, write, attend, self.route)
        self.lengths = [length + 1 for length in self.lengths]
        position_B += 1
        write += 1
        return stack.head(stack.final_norm(x_BE))

    @torch.inference_mode()
    def remove(self, places: Sequence[int]) -> list[int]:
        """Let rows go; returns the old place of each row that stays, in the new order."""
        rows, gone = len(self.lengths), set(places)
        keep = rows - len(gone)
        order = list(range(keep))
        movers = [place for place in range(keep, rows) if place not in gone]
        holes = sorted(place for place in gone if place < keep)
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        if movers:
            longest = max(self.lengths[place] for place in movers)
            to = torch.tensor(holes, device=self.stack.device)
            come = torch.tensor(movers, device=self.stack.device)
            for kv in self.kv:
                kv[:, to, :, :longest] = kv[:, come, :, :longest]
        self.lengths = [self.lengths[place] for place in order]
        self._set_wishes([self.wishes[place] for place in order])
        return order

    def clear(self) -> None:
        """Forget all rows and give their memory back."""
        self.lengths, self.kv, self.prefixes = [], [], []
        self.num_slots = self.capacity = 0
        self._set_wishes([])

    def _set_wishes(self, wishes: list[str | None]) -> None:
        self.wishes, self._plan = wishes, None
        self.route = make_route(wishes, self.stack.device)

    def _pass(
        self, ids_N: Tensor, position_N: Tensor, write: Tensor, attend: Attend, route: Route | None
    ) -> Tensor:
        """Hidden states after all layers; keys and values go to `write` places of the cache."""
        stack = self.stack
        heads, keys = stack.num_heads, stack.num_key_heads
        size, count = stack.head_size, len(ids_N)
        turns = {kind: table(position_N) for kind, table in stack.ropes.items()}
        x_NE = stack.embed(ids_N)
        for number, layer in enumerate(stack.layers):
            qkv = layer.qkv(layer.before_attention(x_NE), route).view(count, -1, size)
            qk, v_NJD = qkv[:, : heads + keys], qkv[:, heads + keys :]
            if layer.q_norm is not None and layer.k_norm is not None:
                qk = torch.cat([layer.q_norm(qk[:, :heads]), layer.k_norm(qk[:, heads:])], dim=1)
            if layer.rope is not None:
                qk = _turn(qk, *turns[layer.rope])
            both = torch.stack((qk[:, heads:], v_NJD)).view(-1, size)
            self.kv[number].view(-1, size).index_copy_(0, write.view(-1), both)
            mixed = layer.out(attend(number, layer, qk[:, :heads]), route)
            x_NE = x_NE + (mixed if layer.after_attention is None else layer.after_attention(mixed))
            gate, up = layer.up(layer.before_mlp(x_NE), route).chunk(2, dim=-1)
            wide = layer.down(layer.act(gate).mul_(up), route)
            x_NE = x_NE + (wide if layer.after_mlp is None else layer.after_mlp(wide))
        return x_NE

    def _read(
        self,
        prompts: Sequence[Sequence[int]],
        start: int,
        slots: Sequence[int],
        adapters: Sequence[str | None],
    ) -> Tensor:
        """Run prompts of one group from `start` on; logits_BV of their last tokens."""
        if len(prompts) > 1:
            return self._prefill([ids[start:] for ids in prompts], start, slots, adapters)
        (ids,) = prompts
        for at in range(start, len(ids), PASS_TOKENS):
            logits = self._prefill([ids[at : at + PASS_TOKENS]], at, slots, adapters)
        return logits

    def _prefill(
        self,
        parts: Sequence[Sequence[int]],
        start: int,
        slots: Sequence[int],
        adapters: Sequence[str | None],
    ) -> Tensor:
        """One pass over the parts of rows that stand at `start`, without padding but in attention.

        Padding stands on the right there, where causal attention never looks at it.
        """
        stack = self.stack
        device = stack.device
        counts = [len(part) for part in parts]
        rows, width, total = len(parts), max(counts), sum(counts)
        ids_N = torch.tensor([i for part in parts for i in part], device=device)
        count_B = torch.tensor(counts, device=device)
        end_B = count_B.cumsum(0)
        row_N = torch.repeat_interleave(torch.arange(rows, device=device), count_B)
        inner_N = torch.arange(total, device=device) - (end_B - count_B)[row_N]
        slot_B = torch.tensor(slots, device=device)
        write = self._places(slot_B[row_N], inner_N + start)
        padded_N = row_N * width + inner_N
        spread = torch.zeros(rows * width, dtype=torch.long, device=device)
        spread[padded_N] = torch.arange(total, device=device)
        route = make_route([name for name, n in zip(adapters, counts, strict=True)
                            for _ in range(n)], device)  # fmt: skip
        window_masks: dict[int | None, Tensor | None] = {}
        whole = slots == list(range(slots[0], slots[0] + rows))

        def attend(number: int, layer: Layer, q_NHD: Tensor) -> Tensor:
            kv = self.kv[number][:, :, :, : start + width]
            kv = kv[:, slots[0] : slots[0] + rows] if whole else kv[:, slot_B]
            q = q_NHD.reshape(total, -1)[spread].view(rows, width, stack.num_heads, -1)
            if layer.window not in window_masks:
                window_masks[layer.window] = _causal(start, width, layer.window, device)
            out = _attend_many(q.transpose(1, 2), kv[0], kv[1], window_masks[layer.window], layer)
            return out.transpose(1, 2).reshape(rows * width, -1)[padded_N]

        x_NE = self._pass(ids_N, inner_N + start, write, attend, route)
        return stack.head(stack.final_norm(x_NE[end_B - 1]))

    def _write_plan(self) -> tuple[Tensor, Tensor]:
        """(positions_B, places of the cache) where the next token of every row goes."""
        if self._plan is None:
            position_B = torch.tensor(self.lengths, device=self.stack.device)
            slot_B = torch.arange(len(self.lengths), device=self.stack.device)
            self._plan = position_B, self._places(slot_B, position_B)
        return self._plan

    def _places(self, slot_N: Tensor, position_N: Tensor) -> Tensor:
        """Rows of the flattened cache, (2, N, J): keys and values of each token and head."""
        keys = self.stack.num_key_heads
        head_J = torch.arange(keys, device=slot_N.device)
        place_NJ = (slot_N.unsqueeze(1) * keys + head_J) * self.capacity + position_N.unsqueeze(1)
        return torch.stack((place_NJ, place_NJ + self.num_slots * keys * self.capacity))

    def _make_room(self, slots: int, positions: int) -> None:
        """Grow the cache where rows or positions need it, by half at least."""
        if slots <= self.num_slots and positions <= self.capacity:
            return
        if slots > self.num_slots:
            slots = max(slots, self.num_slots + self.num_slots // 2)
        if positions > self.capacity:
            positions = max(positions, SMALLEST_CAPACITY, self.capacity + self.capacity // 2)
        slots, positions = max(slots, self.num_slots), max(positions, self.capacity)
        stack, used = self.stack, len(self.lengths)
        shape = (2, slots, stack.num_key_heads, positions, stack.head_size)
        old, self.kv = self.kv, []
        for number in range(len(stack.layers)):
            # Zeros, not whatever lay there: 0 times NaN would spoil what a mask hides.
            new = torch.zeros(shape, dtype=stack.dtype, device=stack.device)
            if used:
                new[:, :used, :, : self.capacity] = old[number][:, :used]
            self.kv.append(new)
            if old:
                old[number] = new  # so that only one layer is held twice at a time
        self.num_slots, self.capacity, self._plan = slots, positions, None

    def _share(self, prompts: Sequence[Sequence[int]], adapters: Sequence[str | None]) -> None:
        """Read a beginning that all new prompts have in common once, and keep it."""
        if len(prompts) < 2 or len(set(adapters)) > 1:
            return
        low, high = min(map(tuple, prompts)), max(map(tuple, prompts))
        common = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b),
                      min(len(low), len(high)))  # fmt: skip
        common = min(common, min(map(len, prompts)) - 1)
        if common < SHARED_FROM or self._longest_prefix(low, adapters[0], common) is not None:
            return
        slot = len(self.lengths)
        ids = low[:common]
        self._read([ids], 0, [slot], adapters[:1])
        kept = [kv[:, slot, :, :common].clone() for kv in self.kv]
        self.prefixes = [Prefix(ids, adapters[0], kept), *self.prefixes][:MOST_PREFIXES]

    def _longest_prefix(
        self, ids: Sequence[int], adapter: str | None, least: int = 1
    ) -> Prefix | None:
        """The longest kept beginning of these ids that leaves at least one to read."""
        fitting = [
            p for p in self.prefixes
            if least <= len(p.ids) < len(ids) and p.adapter == adapter
            and tuple(ids[: len(p.ids)]) == p.ids
        ]  # fmt: skip
        return max(fitting, key=lambda p: len(p.ids), default=None)

    def _start(self, ids: Sequence[int], adapter: str | None, slot: int) -> int:
        """Copy what is known of a prompt into its slot; returns how many tokens that is."""
        prefix = self._longest_prefix(ids, adapter)
        if prefix is None:
            return 0
        for kv, kept in zip(self.kv, prefix.layers, strict=True):
            kv[:, slot, :, : len(prefix.ids)] = kept
        return len(prefix.ids)


def _turn(x_NHD: Tensor, cos_N1R: Tensor, sin_N1R: Tensor) -> Tensor:
    """Rotary position embedding of the first R dimensions of each head."""
    size = cos_N1R.shape[-1]
    part = x_NHD if size == x_NHD.shape[-1] else x_NHD[..., :size]
    turned = torch.addcmul(part * cos_N1R, part.roll(size // 2, -1), sin_N1R)
    return turned if part is x_NHD else torch.cat([turned, x_NHD[..., size:]], dim=-1)


def _attend_one(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, layer: Layer) -> Tensor:
    """One query per row, its heads of a group as G queries of one key head: (B, J, G, D)."""
    if q.dtype != torch.float32 and layer.softcap is None:
        mask = mask.expand(-1, 1, q.shape[2], -1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=layer.scaling)
    scores = torch.matmul(q, k.transpose(-1, -2)) * layer.scaling
    if layer.softcap is not None:
        scores = torch.tanh(scores / layer.softcap) * layer.softcap
    return torch.matmul((scores + mask).float().softmax(-1).to(v), v)


def _attend_many(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layer: Layer) -> Tensor:
    """Queries (B, H, T, D) of whole prompts; mask None is plain causal attention."""
    if layer.softcap is None:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=layer.scaling, enable_gqa=True
        )
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.tanh(torch.matmul(q, k.transpose(-1, -2)) * layer.scaling / layer.softcap)
    if mask is None:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    scores = (scores * layer.softcap).masked_fill(~mask, float("-inf"))
    return torch.matmul(scores.float().softmax(-1).to(v), v)


def _causal(start: int, width: int, window: int | None, device: torch.device) -> Tensor | None:
    """Which of start + width keys each of `width` queries sees; None where plain causal says it."""
    if start == 0 and (window is None or window >= width):
        return None
    query = torch.arange(start, start + width, device=device).unsqueeze(1)
    key = torch.arange(start + width, device=device)
    seen = key <= query
    return seen if window is None else seen & (key > query - window)


def _passes(prompts: Sequence[Sequence[int]], started: Sequence[int]) -> list[list[int]]:
    """Places of prompts in groups that run together: same start, like lengths, PASS_TOKENS."""
    order = sorted(range(len(prompts)), key=lambda i: (started[i], len(prompts[i])))
    groups: list[list[int]] = []
    tokens = 0
    for place in order:
        count = len(prompts[place]) - started[place]
        fits = (
            groups
            and started[groups[-1][0]] == started[place]
            and tokens + count <= PASS_TOKENS
            and count <= 4 * (len(prompts[groups[-1][0]]) - started[place])
        )
        if fits:
            groups[-1].append(place)
            tokens += count
        else:
            groups.append([place])
            tokens = count
    return groups
