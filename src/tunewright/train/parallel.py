"""Several processes that train one model: who takes which rows, and how they come to one result.

Every rank knows all rows of a step and takes its share of them; gradients are summed over ranks
before the update and divided by the target weight of *all* rows, so the number of ranks does not
enter the mathematics. The sum is made once per step, after accumulation, however the rows were cut.
Replicated parameters (DDP) are summed here; sharded ones (FSDP2) in sharding.py.

What ranks tell each other beside tensors is JSON; nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import psutil
import torch
import torch.distributed as dist
from torch import Tensor

from tunewright.errors import RunError
from tunewright.store import host_name

BUCKET_ELEMENTS = 1 << 24
"""Gradients are summed in buckets of about so many numbers: large enough to fill a link."""
LONGEST_WAIT = timedelta(hours=2)
"""For a rank alone at work, such as rank 0 that reads the data. Stalls are found sooner."""

Beat = Callable[["Ranks", bool], None]
"""Told where a rank begins to wait for the others (True), and where it goes on (False)."""


class Shards(Protocol):
    """What a rank holds where no rank holds everything; see sharding.py."""

    ranges: dict[str, tuple[int, int]]

    def collect(self) -> None: ...  # noqa: D102
    def whole(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]: ...  # noqa: D102


class Ranks:
    """A group of processes; this class is the group of one, in which nothing is exchanged."""

    rank = 0
    size = 1
    step = 0
    stage: Literal["starting", "step", "between"] = "starting"
    """Where this rank is, for those who watch: `between` are evaluations and checkpoints."""
    sharding: Shards | None = None
    """Set where parameters are sharded over the ranks."""

    def __init__(self, beat: Beat = lambda ranks, waiting: None) -> None:
        """beat: learns where this rank waits for others, and where it works."""
        self.beat = beat

    @property
    def is_first(self) -> bool:
        """True on the one rank that speaks, writes and decides."""
        return self.rank == 0

    def share(self, costs: Sequence[int]) -> list[int]:
        """Numbers of the rows that this rank takes, in their order."""
        return share_rows(costs, self.size)[self.rank]

    def sum_numbers(self, numbers: Sequence[float]) -> list[float]:
        """Sums over all ranks, in fp64."""
        return list(numbers)

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks; the bits are the same on every rank."""

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is true on some rank."""
        return flags

    def join_norms(self, norm: float) -> float:
        """The norm of all gradients from that of this rank's; the same where all ranks hold all."""
        if self.sharding is None:
            return norm
        return math.sqrt(self.sum_numbers([norm * norm])[0])

    def gather(self, thing: Any) -> list[Any]:
        """The JSON values that the ranks hand in, by rank."""
        return [thing]

    def tell(self, thing: Any = None) -> Any:
        """What rank 0 hands in, on every rank."""
        return thing

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Make each tensor on every rank what it is on rank 0."""

    def wait(self) -> None:
        """Until all ranks are here."""

    def leave(self) -> None:
        """End the group; what follows is done alone."""


ALONE = Ranks()


class Group(Ranks):
    """The ranks of a running torch.distributed group with a gloo backend for the CPU."""

    def __init__(self, beat: Beat = lambda ranks, waiting: None) -> None:
        super().__init__(beat)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def sum_numbers(self, numbers: Sequence[float]) -> list[float]:
        """Sums over all ranks, in fp64."""
        held = torch.tensor(numbers, dtype=torch.float64)
        self._together(lambda: dist.all_reduce(held))
        return [float(number) for number in held]

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks, bucket by bucket."""
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            self._together(lambda flat=flat: dist.all_reduce(flat))  # type: ignore[misc]
            at = 0
            for tensor in bucket:
                tensor.copy_(flat[at : at + tensor.numel()].view_as(tensor))
                at += tensor.numel()

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is true on some rank."""
        return tuple(count > 0 for count in self.sum_numbers([float(flag) for flag in flags]))

    def gather(self, thing: Any) -> list[Any]:
        """The JSON values that the ranks hand in, by rank."""
        data = torch.frombuffer(bytearray(json.dumps(thing).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        self._together(lambda: dist.all_gather(sizes, torch.tensor([data.numel()])))
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: data.numel()] = data
        parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        self._together(lambda: dist.all_gather(parts, padded))
        pairs = zip(parts, sizes, strict=True)
        return [json.loads(part[: int(size)].numpy().tobytes()) for part, size in pairs]

    def tell(self, thing: Any = None) -> Any:
        """What rank 0 hands in, on every rank."""
        return self.gather(thing if self.is_first else None)[0]

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Make each tensor on every rank what it is on rank 0."""
        for tensor in tensors:
            self._together(lambda tensor=tensor: dist.broadcast(tensor.detach(), 0))  # type: ignore[misc]

    def wait(self) -> None:
        """Until all ranks are here."""
        self._together(dist.barrier)

    def leave(self) -> None:
        """End the group, once every rank is done with it."""
        self.wait()
        dist.destroy_process_group()

    def _together(self, act: Callable[[], Any]) -> None:
        """Run a collective. Raises RunError where another rank is gone: its end tells the cause."""
        self.beat(self, True)
        try:
            act()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise LostRankError(
                f"rank {self.rank} on {host_name()}: another rank is gone ({reason})"
            ) from error
        self.beat(self, False)


class LostRankError(Exception):
    """Another rank ended in the middle of an exchange; this one cannot go on."""


def join_group(beat: Beat = lambda ranks, waiting: None) -> Ranks:
    """The group that torchrun's environment describes; of one where there is none.

    Raises RunError naming rank and host where a rank runs other code than rank 0.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Ranks(beat)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    _take_interface(os.environ.get("TUNEWRIGHT_ADDRESS", ""))
    dist.init_process_group(backend, timeout=LONGEST_WAIT)
    group = Group(beat)
    check_same(group, "code", {"Tunewright's code": code_digest(), **versions()})
    return group


def _take_interface(address: str) -> None:
    """Let gloo and NCCL speak through the interface that bears this host's address.

    They would ask the resolver for the host's own name, which often leads to a loopback.
    """
    for name, found in psutil.net_if_addrs().items():
        if address and any(one.address == address for one in found):
            for library in ("GLOO", "NCCL"):
                os.environ.setdefault(f"{library}_SOCKET_IFNAME", name)


def versions() -> dict[str, str]:
    """What must be the same on every rank for the numbers to be."""
    return {"torch": str(torch.__version__), "Python": platform.python_version()}


def code_digest() -> str:
    """SHA-256 over the package's own source files."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_same(ranks: Ranks, what: str, facts: Mapping[str, str]) -> None:
    """Raise RunError, on every rank, where some rank holds other facts than rank 0."""
    held = ranks.gather({"host": host_name(), "facts": dict(facts)})
    for rank, one in enumerate(held):
        for name, value in held[0]["facts"].items():
            other = one["facts"].get(name, "missing")
            if other != value:
                raise RunError(
                    f"rank {rank} on {one['host']}: {name} is {other[:16]}, and {value[:16]} on "
                    f"rank 0 on {held[0]['host']}; give every host the same {what}"
                )


def share_rows(costs: Sequence[int], size: int) -> list[list[int]]:
    """Row numbers by rank, each in order; the ranks' costs are as even as a greedy deal makes them.

    Longest first to whoever has least (Graham 1969, LPT); ties go to the lower row and rank, so it
    is a pure function of the costs. costs: tokens of each row.
    """
    shares: list[list[int]] = [[] for _ in range(size)]
    loads = np.zeros(size, dtype=np.int64)
    for row in np.argsort(-np.asarray(costs, dtype=np.int64), kind="stable"):
        rank = int(loads.argmin())
        shares[rank].append(int(row))
        loads[rank] += int(costs[row])
    return [sorted(share) for share in shares]


def sum_gradients(ranks: Ranks, masters: Sequence[Tensor]) -> None:
    """Sum the gradients of replicated masters; what no rank has a gradient for keeps none."""
    if ranks.size == 1:
        return
    present = ranks.sum_numbers([float(master.grad is not None) for master in masters])
    touched = [m for m, count in zip(masters, present, strict=True) if count > 0]
    for master in touched:
        if master.grad is None:
            master.grad = torch.zeros_like(master)
    ranks.sum_tensors([master.grad for master in touched if master.grad is not None])


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Runs of tensors of one dtype, at most BUCKET_ELEMENTS together."""
    buckets: list[list[Tensor]] = []
    held = 0
    for tensor in tensors:
        same = buckets and buckets[-1][0].dtype == tensor.dtype
        if not same or held + tensor.numel() > BUCKET_ELEMENTS:
            buckets.append([])
            held = 0
        buckets[-1].append(tensor)
        held += tensor.numel()
    return buckets
