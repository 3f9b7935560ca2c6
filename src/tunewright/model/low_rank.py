"""Low-rank additions beside frozen layers: read from PEFT, and many of them mixed in one batch.

Every row of a batch may follow another adapter. The A and B of all adapters in use stand side by
side in one matrix each, and a mask keeps every row to its own ranks: two products more per layer,
however many adapters take part.

Shapes: N rows, I inputs, O outputs, R ranks (of all adapters in use, side by side).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from tunewright.errors import ModelError
from tunewright.model import safety

OWN = ""
"""Name of the adapter that the model itself carries; rows that name no other follow it."""
_MOST_MIXES = 32
_UNUSUAL = ("use_dora", "lora_bias", "alora_invocation_tokens", "trainable_token_indices")


@dataclass(frozen=True, slots=True)
class LowRank:
    """One adapter. parts: by module path, (A_RI, B_OR), the scale already inside B."""

    name: str
    parts: Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Route:
    """Which adapter each row of a step follows.

    names: adapters in use. place_N1: each row's place among them; None where all rows follow the
    only one. -1 stands for none.
    """

    names: tuple[str, ...]
    place_N1: Tensor | None


def make_route(wishes: Sequence[str | None], device: torch.device) -> Route | None:
    """The route of rows that wish for these adapters; None where no row wants any."""
    names = tuple(sorted({name for name in wishes if name is not None}))
    if not names:
        return None
    if len(names) == 1 and None not in wishes:
        return Route(names, None)
    place = {name: index for index, name in enumerate(names)} | {None: -1}
    places = torch.tensor([place[name] for name in wishes], device=device)
    return Route(names, places.unsqueeze(1))


class Mixer:
    """What adapters add to some layers that read the same input.

    sizes: outputs of each layer, which stand side by side in the result. adapters: by name, filled
    and emptied by whoever owns the dictionary.
    """

    def __init__(
        self, paths: Sequence[str], sizes: Sequence[int], adapters: Mapping[str, LowRank]
    ) -> None:
        self.paths, self.sizes, self.adapters = tuple(paths), tuple(sizes), adapters
        self._mixes: dict[tuple[str, ...], tuple[Tensor, Tensor, Tensor] | None] = {}

    def forget(self) -> None:
        """The adapters have changed: build anew."""
        self._mixes.clear()

    def add_to(self, out_NO: Tensor, x_NI: Tensor, route: Route) -> Tensor:
        """out_NO plus what each row's adapter adds to it."""
        mix = self._mix(route.names, x_NI)
        if mix is None:
            return out_NO
        a_RI, b_RO, owner_R = mix
        inner_NR = F.linear(x_NI, a_RI)
        if route.place_N1 is not None:
            inner_NR = inner_NR * (route.place_N1 == owner_R)
        return torch.addmm(out_NO, inner_NR, b_RO)

    def _mix(self, names: tuple[str, ...], like: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        if names not in self._mixes:
            if len(self._mixes) >= _MOST_MIXES:
                self._mixes.clear()
            self._mixes[names] = self._build(names, like)
        return self._mixes[names]

    def _build(self, names: tuple[str, ...], like: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        starts = [sum(self.sizes[:index]) for index in range(len(self.sizes))]
        downs, ups, owners = [], [], list[int]()
        for number, name in enumerate(names):
            for path, start in zip(self.paths, starts, strict=True):
                part = self.adapters[name].parts.get(path)
                if part is None:
                    continue
                a_RI, b_OR = (tensor.to(like) for tensor in part)
                up = like.new_zeros(len(a_RI), sum(self.sizes))
                up[:, start : start + len(b_OR)] = b_OR.T
                downs.append(a_RI)
                ups.append(up)
                owners += [number] * len(a_RI)
        if not downs:
            return None
        owner_R = torch.tensor(owners, device=like.device)
        return torch.cat(downs).contiguous(), torch.cat(ups).contiguous(), owner_R


def peel(module: nn.Module) -> tuple[nn.Module, tuple[Tensor, Tensor] | None] | None:
    """(the plain layer inside, its active addition (A_RI, B_OR) or None) of a layer of any kind.

    None where what the layer does cannot be written as W + B A (DoRA, AdaLoRA and other variants).
    """
    base = getattr(module, "base_layer", None)
    if base is None:
        return module, None
    if not hasattr(module, "lora_A") or getattr(module, "lora_variant", None):
        return None
    if getattr(module, "merged", False) or getattr(module, "disable_adapters", False):
        return base, None
    names = [name for name in module.active_adapters if name in module.lora_A]  # type: ignore[union-attr,operator]
    layers: Any = module
    if any(not isinstance(layers.lora_A[name], nn.Linear) for name in names):  # AdaLoRA
        return None
    if any(layers.use_dora.get(name) or layers.lora_bias.get(name) for name in names):
        return None
    if not names:
        return base, None
    downs = [layers.lora_A[name].weight for name in names]
    ups = [layers.lora_B[name].weight * layers.scaling[name] for name in names]
    return base, (torch.cat(downs).detach(), torch.cat(ups, dim=1).detach())


def read_low_rank(folder: Path, name: str, paths: Sequence[str]) -> LowRank:
    """The adapter in a folder of PEFT's format, for layers at these paths of the plain model.

    Raises ModelError where it is of another kind, or belongs to layers that are not there.
    """
    from safetensors.torch import load_file

    config = safety.read_model_json(folder / "adapter_config.json")
    odd = [key for key in _UNUSUAL if config.get(key)]
    if config.get("peft_type") != "LORA" or odd or config.get("modules_to_save"):
        what = odd[0] if odd else config.get("peft_type")
        raise ModelError(
            f"{folder}: {what} cannot be mixed with other adapters in one batch; merge it first"
        )
    tensors = load_file(folder / "adapter_model.safetensors")
    known = set(paths)
    parts: dict[str, tuple[Tensor, Tensor]] = {}
    for key, a_RI in tensors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        path = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        if path not in known:
            raise ModelError(f"{folder}: made for a layer {path} that the base model does not have")
        b_OR = tensors[key.replace(".lora_A.", ".lora_B.")]
        parts[path] = (a_RI, b_OR * _scale(config, path))
    return LowRank(name, parts)


def _scale(config: Mapping[str, Any], path: str) -> float:
    """alpha / r of one layer, whose rank and alpha may be named apart."""
    r = _of_layer(config.get("rank_pattern"), path, config["r"])
    alpha = _of_layer(config.get("alpha_pattern"), path, config["lora_alpha"])
    return float(alpha) / (math.sqrt(r) if config.get("use_rslora") else float(r))


def _of_layer(patterns: Mapping[str, Any] | None, path: str, usual: Any) -> Any:
    for ending, value in (patterns or {}).items():
        if path == ending or path.endswith(f".{ending}"):
            return value
    return usual


class MixedLayers:
    """Adapters mixed into a whole model of any architecture, by hooks on its linear layers.

    Set `route` before a forward pass whose batch dimension holds the rows.
    """

    def __init__(self, model: nn.Module, adapters: Mapping[str, LowRank]) -> None:
        self.route: Route | None = None
        self.handles = []
        self.mixers: list[Mixer] = []
        for path, module in model.named_modules():
            if isinstance(module, (nn.Linear, Conv1D)):
                width = module.nf if isinstance(module, Conv1D) else module.out_features
                mixer = Mixer([path.removesuffix(".base_layer")], [width], adapters)
                self.mixers.append(mixer)
                self.handles.append(module.register_forward_hook(self._hook(mixer)))

    def _hook(self, mixer: Mixer) -> Any:
        def add(_: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
            if self.route is None:
                return out
            x, route = inputs[0], self.route
            if route.place_N1 is not None and x.dim() == 3:
                spread = route.place_N1.expand(-1, x.shape[1]).reshape(-1, 1)
                route = Route(route.names, spread)
            flat = mixer.add_to(out.flatten(0, -2), x.flatten(0, -2), route)
            return flat.view_as(out)

        return add

    def remove(self) -> None:
        """Take the hooks out of the model."""
        for handle in self.handles:
            handle.remove()
