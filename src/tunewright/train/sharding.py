"""Weights that no rank holds whole (FSDP2), and checkpoints that any number of ranks can read.

`fully_shard` (torch's own) gathers a layer's weights just before they are used and scatters its
gradients after; here stands what our optimiser and checkpoints need around that. Each rank learns
its rows of every tensor, and writes them to a safetensors file of its own under one manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard

from tunewright.errors import DiskFull, RecipeError, RunError
from tunewright.journal import Journal
from tunewright.model.decoder import forget_decoder
from tunewright.model.encoder import forget_encoder
from tunewright.train import resume
from tunewright.train.parallel import ALONE, Ranks
from tunewright.train.resume import Checkpoint, Ranges

Named = Sequence[tuple[str, nn.Parameter]]


class Sharding:
    """The parameters of a model, a part of each on this rank."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        """model: after `fully_shard`. names: of what is trained."""
        whole = dict(model.named_parameters())
        self.sharded: list[DTensor] = []
        self.named: list[tuple[str, nn.Parameter]] = []
        self.ranges: dict[str, tuple[int, int]] = {}
        """By name, which rows of the whole tensor lie here."""
        for name in names:
            tensor: Any = whole[name]
            if not isinstance(tensor, DTensor):
                raise RecipeError(
                    f"training.parallel: fsdp does not reach {name}, which stands outside the "
                    "base model; use ddp"
                )
            # One storage under two names: an update of the local part is seen by FSDP.
            local = nn.Parameter(tensor.to_local().detach())
            self.sharded.append(tensor)
            self.named.append((name, local))
            start = _first_row(tensor)
            self.ranges[name] = (start, start + local.shape[0])

    def collect(self) -> None:
        """Hand the summed gradients of this rank's rows to the parameters that learn."""
        for tensor, (_, local) in zip(self.sharded, self.named, strict=True):
            if tensor.grad is not None:
                grad: Any = tensor.grad
                local.grad = grad.to_local()
                tensor.grad = None

    def whole(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors on the CPU from the ranks' parts; all ranks call this together."""
        found = {}
        for tensor, (name, _) in zip(self.sharded, self.named, strict=True):
            part = DTensor.from_local(
                parts[name].detach(), tensor.device_mesh, tensor.placements,
                shape=tensor.shape, stride=tensor.stride(), run_check=False,
            )  # fmt: skip
            found[name] = part.full_tensor().cpu()
        return found


def shard(model: nn.Module, named: Named, ranks: Ranks) -> Named:
    """Spread a model's weights over the ranks; returns what this rank trains, under its names."""
    if ranks.size == 1:
        return named
    device = named[0][1].device.type
    mesh = init_device_mesh(device, (ranks.size,))
    policy = MixedPrecisionPolicy(reduce_dtype=_reduce_dtype(named[0][1].dtype))
    # What is called is the model inside the adapter's wrapping, and its hooks gather the weights.
    plain: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    for layer in _layers(plain):
        _shard_one(layer, mesh, policy)
    _shard_one(plain, mesh, policy)
    # The packed layers of our own read weights past the modules, where FSDP gathers nothing.
    forget_decoder(model)
    forget_encoder(model)
    sharding = Sharding(model, [name for name, _ in named])
    ranks.sharding = sharding
    return sharding.named


def frozen_state(model: nn.Module) -> dict[str, Tensor]:
    """All of a model's parameters whole on the CPU; all ranks call this together."""
    return {
        name: parameter.full_tensor().detach().cpu()
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if isinstance(parameter, DTensor)
    }


def whole_weights(ranks: Ranks, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as one process would hold them."""
    return dict(weights) if ranks.sharding is None else ranks.sharding.whole(weights)


def choose_parallel(
    wish: Literal["auto", "ddp", "fsdp"],
    *,
    size: int,
    quantization: str,
    has_companion: bool,
    needed_bytes: float,
    room_bytes: float,
) -> tuple[Literal["none", "ddp", "fsdp"], str]:
    """(how the ranks share a model, reason). Raises RecipeError where the wish is unsound.

    needed_bytes: peak on each rank where every rank holds the whole model.
    """
    if size == 1:
        return "none", "one process"
    unsound = ""
    if quantization != "none":
        unsound = f"a base in {quantization} stays whole on every rank"
    elif has_companion:
        unsound = "this method moves ranks between layers, and needs them whole"
    if wish == "fsdp" and unsound:
        raise RecipeError(f"training.parallel: fsdp is not sound here: {unsound}; use ddp or auto")
    if wish != "auto":
        return wish, "asked for"
    if unsound:
        return "ddp", unsound
    if needed_bytes > room_bytes:
        return "fsdp", f"{needed_bytes / 1e9:.3g} GB a rank do not fit into {room_bytes / 1e9:.3g}"
    return "ddp", "the whole model fits on each rank"


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    ranks: Ranks = ALONE,
) -> None:
    """Write one checkpoint: rank 0 alone, or where weights are sharded each rank its part."""
    if ranks.sharding is None:
        if ranks.is_first:
            resume.save_checkpoint(folder, step, tensors, state, world_size=ranks.size)
        return
    if not ranks.is_first:
        _write_part(ranks, tensors, None)
        if ranks.tell()["error"]:
            raise RunError(f"{folder}: rank 0 could not write the checkpoint; see its message")
        return
    try:
        with resume.making_aside(folder, step) as aside:
            files = _write_part(ranks, tensors, str(aside))
            resume.write_manifest(aside, step, files, state, ranks.size)
            resume.publish(aside, folder, step)
    except BaseException as error:
        if not isinstance(error, _PartError):
            ranks.tell({"error": str(error) or type(error).__name__})
        raise
    ranks.tell({"error": ""})


def load_newest(folder: Path, journal: Journal, ranks: Ranks = ALONE) -> Checkpoint | None:
    """As resume.load_newest, the same checkpoint on every rank, of sharded weights the own part."""
    ranges = _ranges(ranks)
    if ranks.size == 1:
        return resume.load_newest(folder, journal)
    found = resume.load_newest(folder, journal, ranges) if ranks.is_first else None
    path = ranks.tell(str(found.path) if found is not None else None)
    if path is None or found is not None:
        return found
    return resume.load_checkpoint(Path(path), ranges)


def load_checkpoint(path: Path, ranks: Ranks = ALONE) -> Checkpoint:
    """As resume.load_checkpoint; of sharded weights, this rank's part."""
    return resume.load_checkpoint(path, _ranges(ranks))


class _PartError(DiskFull):
    """Some rank could not write its part; every rank knows."""


def _write_part(
    ranks: Ranks, tensors: Mapping[str, Tensor], aside: str | None
) -> list[dict[str, Any]]:
    """Each rank writes its rows where rank 0 says; the manifest's entries of all, in rank order."""
    told = ranks.tell(aside)
    if isinstance(told, dict):
        raise RunError(f"rank 0 could not begin the checkpoint: {told['error']}")
    place = Path(told)
    made: dict[str, Any] = {"files": [], "error": "", "full": False}
    try:
        stem = f"{resume.SHARD}{ranks.rank:05d}-of-{ranks.size:05d}"
        made["files"] = resume.write_tensors(place, tensors, stem)
    except OSError as error:
        made["error"] = f"rank {ranks.rank}: {error.strerror or error}"
    parts = ranks.gather(made)
    for part in parts:
        if part["error"]:
            raise _PartError(f"{place.parent}: {part['error']}; free space, then use --resume")
    return [entry for part in parts for entry in part["files"]]


def _ranges(ranks: Ranks) -> Ranges | None:
    return None if ranks.sharding is None else ranks.sharding.ranges


def _layers(model: nn.Module) -> list[nn.Module]:
    """The repeated layers of a transformer, each gathered by itself: those in lists of modules."""
    found: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len({type(child) for child in module}) == 1:
            inside = {id(part) for layer in found for part in layer.modules()}
            if id(module) not in inside:
                found += list(module)
    return found


def _shard_one(module: nn.Module, mesh: Any, policy: MixedPrecisionPolicy) -> None:
    fully_shard(module, mesh=mesh, mp_policy=policy)
    assert isinstance(module, FSDPModule)
    # The loss is a sum, divided once by the targets of all ranks: gradients must be sums as well.
    module.set_gradient_divide_factor(1.0)
    module.set_force_sum_reduction_for_comms(True)


def _reduce_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.itemsize < 4 else dtype


def _first_row(tensor: DTensor) -> int:
    """Number of the first row that lies here; torch gives ceil(n / ranks) rows to each in turn."""
    placement = tensor.placements[0]
    if isinstance(placement, Replicate):
        return 0
    assert isinstance(placement, Shard) and placement.dim == 0
    each = -(-tensor.shape[0] // tensor.device_mesh.size())
    return min(tensor.shape[0], each * tensor.device_mesh.get_local_rank())
