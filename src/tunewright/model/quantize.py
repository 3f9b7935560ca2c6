"""Frozen weights in 4 or 8 bits (QLoRA, Dettmers et al. 2023), through bitsandbytes.

NF4 with double quantisation, or LLM.int8; products are computed in the model's own precision. The
embeddings, the output layer and new heads stay as they are. torchao was looked at and left: its
4-bit kernels want devices that we have not seen, and PEFT adapts fewer methods to it.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import ModelError
from tunewright.model.peft_quietly import peft

BITS = {"nf4": 4, "int8": 8}
# Heads that a task adds, by the names that transformers gives them: they learn, so they stay whole.
_WHOLE = (
    "lm_head", "classifier", "score", "pooler", "head", "classification_head", "bert.pooler",
    "roberta.pooler", "xlm-roberta.pooler", "electra.pooler", "deberta.pooler",
)  # fmt: skip
# What bitsandbytes writes beside a packed weight.
_PACKING = (
    ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".quant_state.",
    ".SCB", ".weight_format",
)  # fmt: skip


def check_quantization(quantization: str, device: torch.device) -> None:
    """Raise ModelError, with the remedy, where this machine cannot hold weights so."""
    if quantization == "none":
        return
    if quantization not in BITS:
        raise ModelError(
            f"adapter.quantization: {quantization!r} unknown; use none, {', '.join(BITS)}"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"adapter.quantization: {quantization} needs bitsandbytes; pip install bitsandbytes, "
            "or set adapter.method: lora"
        )
    here = device.type
    able = here in ("cuda", "xpu") or (
        here == "cpu" and platform.machine().lower() in ("x86_64", "amd64")
    )
    if not able:
        raise ModelError(
            f"adapter.quantization: {quantization} works on CUDA, XPU and x86 processors, not on "
            f"{here} ({platform.machine()}); set adapter.method: lora, or training.device"
        )


def load_options(quantization: str, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """More arguments of from_pretrained; {} for weights as they are."""
    if quantization == "none":
        return {}
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=BITS[quantization] == 4,
        load_in_8bit=BITS[quantization] == 8,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(_WHOLE),
    )  # type: ignore[no-untyped-call]
    return {"quantization_config": settings, "device_map": {"": device}}


def keep_one_layout(model: nn.Module) -> None:
    """Stop bitsandbytes from laying packed weights out anew at the first evaluation.

    On processors with AVX512-BF16 it does so for inference, and what then runs has no gradient: a
    run that evaluates in between would train wrongly, or fail (seen in 0.50.2).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def is_packed(module: nn.Module) -> bool:
    """Whether a layer's weight is held in 4 or 8 bits."""
    if hasattr(module, "base_layer"):  # what PEFT puts around it
        return False
    weight = getattr(module, "weight", None)
    return getattr(weight, "quant_state", None) is not None or type(weight).__name__ == "Int8Params"


def count_parameters(model: nn.Module) -> int:
    """Weights of a model, packed ones counted as what they stand for."""
    counted = 0
    for parameter in model.parameters():
        shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
        counted += parameter.numel() if shape is None else math.prod(shape)
    return counted


def plain_config(config: Any) -> Any:
    """A copy of a model's config that says nothing of packing: for weights that are spelled out."""
    plain = copy.deepcopy(config)
    if hasattr(plain, "quantization_config"):
        del plain.quantization_config
    return plain


def unpacked(module: Any) -> Tensor:
    """The weight of a packed layer in float32, as its forward pass sees it."""
    import bitsandbytes

    weight = module.weight
    if getattr(weight, "quant_state", None) is not None:
        plain = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        return plain.float()
    scale = weight.SCB if weight.SCB is not None else module.state.SCB
    return torch.as_tensor(weight.data.float() * (scale.float().unsqueeze(1) / 127.0))


def without_packing(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """State with packed weights spelled out in float32, under the names of plain layers."""
    out = {n: t for n, t in state.items() if not any(mark in n for mark in _PACKING)}
    for name, module in model.named_modules():
        if is_packed(module):
            out[f"{name}.weight"] = unpacked(module)
    return out


def packed_bytes(module: Any) -> int:
    """Bytes of a layer's weight with what belongs to its quantisation."""
    weight = module.weight
    size = weight.numel() * weight.element_size()
    state = getattr(weight, "quant_state", None)
    if state is not None:
        size += sum(t.nbytes for t in state.as_dict(packed=True).values() if torch.is_tensor(t))
    scale = getattr(weight, "SCB", None)
    return int(size + (scale.nbytes if scale is not None else 0))


def start_from_error(model: Any, files: tuple[Path, ...], prefix: str) -> None:
    """LoftQ's start: every B A the best low-rank stand-in for what packing lost.

    One round of the paper's alternation, on weights that are packed already (as PEFT's
    replace_lora_weights_loftq does on CUDA). files: the checkpoint with the whole weights; prefix:
    the backbone's name, which some checkpoints leave out. Raises ModelError for a missing weight.
    """
    from safetensors import safe_open

    places: dict[str, Path] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            places.update(dict.fromkeys(file.keys(), path))
    for name, module in model.named_modules():
        if not isinstance(module, peft.tuners.lora.LoraLayer) or not is_packed(module.base_layer):
            continue
        plain = f"{name.removeprefix('base_model.model.')}.weight"
        key = next((k for k in (plain, plain.removeprefix(f"{prefix}.")) if k in places), None)
        if key is None:
            raise ModelError(f"{files[0]}: no weight {plain} to start loftq from; use qlora")
        with safe_open(places[key], framework="pt") as file:
            whole = file.get_tensor(key).float()
        packed = unpacked(module.base_layer)
        _set_low_rank(module, whole.to(packed.device) - packed)


def _set_low_rank(module: Any, lost: Tensor) -> None:
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    u, s, v = torch.linalg.svd(lost, full_matrices=False)
    root = s[: len(a)].sqrt() / math.sqrt(module.scaling["default"])
    with torch.no_grad():
        a.copy_(root.unsqueeze(1) * v[: len(a)])
        b.copy_(u[:, : len(a)] * root)
