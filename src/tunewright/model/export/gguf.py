"""GGUF files of Llama-shaped models, for llama.cpp and what builds on it.

Written through the `gguf` package of the format's makers. Source of the layout: the GGUF
specification and llama.cpp's tensor names. Queries and keys of the llama architecture are stored
with their rotary halves interleaved, as llama.cpp rotates neighbours and transformers rotates
halves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tunewright.errors import ModelError
from tunewright.model.export.gguf_words import write_vocabulary
from tunewright.model.export.merged import plain_state
from tunewright.model.load import Base, end_ids

GGUF_TYPES = ("f32", "f16", "q8_0")
GgufType = Literal["f32", "f16", "q8_0"]
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""model_type of transformers to the architecture's name in the format."""
BLOCK = 32
"""Values that share one scale in q8_0."""


def save_gguf(base: Base, path: Path, *, precision: GgufType = "f16") -> None:
    """Write the model, its adapter merged in fp32, with tokenizer and chat template.

    Raises ModelError for other architectures, odd rotary scaling, or a tokenizer that the format
    cannot say.
    """
    gguf = load_gguf_package()
    config = base.plain.config
    check_architecture(base)
    wrong_window = _narrow_window(config)
    if wrong_window:
        raise ModelError(
            f"gguf: the format has no sliding window of {wrong_window} for {config.model_type}, "
            "longer texts would be read otherwise; --to merged instead"
        )
    writer = gguf.GGUFWriter(path, ARCHITECTURES[config.model_type])
    _write_shape(writer, config, base.reference)
    extra = _write_rope(writer, config)
    write_vocabulary(writer, base, end_ids(base))
    names = gguf.get_tensor_name_map(_arch(gguf, config), config.num_hidden_layers)
    types = gguf.GGMLQuantizationType
    for name, tensor in {**_tensors(base), **extra}.items():
        stored = name if name in extra else names.get_name(name, (".weight", ".bias"))
        if stored is None:
            raise ModelError(f"gguf: tensor {name} has no name in the format; --to merged instead")
        values = tensor.float().numpy()
        kind = _kind(values, precision)
        raw = gguf.quants.quantize(np.ascontiguousarray(values), getattr(types, kind))
        writer.add_tensor(stored, raw, raw_dtype=getattr(types, kind))
    file_types = {"f32": 0, "f16": 1, "q8_0": 7}
    writer.add_file_type(file_types[precision])
    writer.add_quantization_version(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def find_wrong_shape(path: Path, config: Any) -> list[str]:
    """Entries of a written file that disagree with the model's config, in words; [] when none."""
    gguf = load_gguf_package()
    fields = gguf.GGUFReader(path).fields
    name = ARCHITECTURES[config.model_type]
    rope: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    wanted = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": _head_dim(config),
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": float(rope.get("rope_theta", 10_000.0)),
    }
    found = []
    for key, value in wanted.items():
        field = fields.get(f"{name}.{key}")
        stored = field.contents() if field is not None else None
        if stored is None or not math.isclose(float(stored), float(value), rel_tol=1e-5):
            found.append(f"{key} is {stored}, not {value}")
    return found


def _narrow_window(config: Any) -> int | None:
    """A sliding window that is narrower than the context, of an architecture stored as llama."""
    window = getattr(config, "sliding_window", None)
    uses = getattr(config, "use_sliding_window", True)
    return window if window and uses and window < config.max_position_embeddings else None


def load_gguf_package() -> Any:
    """The `gguf` package. Raises ModelError with the remedy where it is not installed."""
    try:
        import gguf
    except ImportError:
        raise ModelError("gguf: not installed; pip install 'tunewright[export]'") from None
    return gguf


def check_architecture(base: Base) -> None:
    """Raise ModelError unless the format is written for this architecture here."""
    kind = base.plain.config.model_type
    if kind not in ARCHITECTURES:
        raise ModelError(
            f"gguf: architecture {kind} is not written here; {', '.join(ARCHITECTURES)} are; "
            "--to merged gives a folder that other converters read"
        )


def _arch(gguf: Any, config: Any) -> Any:
    return getattr(gguf.MODEL_ARCH, ARCHITECTURES[config.model_type].upper())


def _write_shape(writer: Any, config: Any, reference: str) -> None:
    head_dim = _head_dim(config)
    writer.add_name(Path(reference).name or reference)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)


def _head_dim(config: Any) -> int:
    given = getattr(config, "head_dim", None)
    return int(given or config.hidden_size // config.num_attention_heads)


def _write_rope(writer: Any, config: Any) -> dict[str, Tensor]:
    """Rotary settings; returns the tensor that carries Llama 3's scaling, where there is one."""
    rope: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    theta = float(rope.get("rope_theta", getattr(config, "rope_theta", 10_000.0)))
    writer.add_rope_freq_base(theta)
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return {}
    if kind == "linear":
        writer.add_rope_scaling_type(load_gguf_package().RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
        return {}
    if kind == "llama3":
        return {"rope_freqs.weight": llama3_factors(_head_dim(config), theta, rope)}
    raise ModelError(f"gguf: rotary scaling {kind!r} is not written here; --to merged instead")


def llama3_factors(head_dim: int, theta: float, rope: Mapping[str, Any]) -> Tensor:
    """(head_dim / 2,) divisors of the rotary frequencies.

    Source: Llama 3.1's scaling by wavelength, as in the `llama3` rope type of transformers.
    """
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    original, factor = float(rope["original_max_position_embeddings"]), float(rope["factor"])
    frequency = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    wavelength = 2 * math.pi / frequency
    smooth = (original / wavelength - low) / (high - low)
    between = 1.0 / ((1.0 - smooth) / factor + smooth)
    factors = torch.where(wavelength > original / low, torch.full_like(between, factor), between)
    factors = torch.where(wavelength < original / high, torch.ones_like(factors), factors)
    return factors.float()


def _tensors(base: Base) -> dict[str, Tensor]:
    """Weights by their transformers names, queries and keys in llama.cpp's order."""
    config = base.plain.config
    state = plain_state(base)
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    if ARCHITECTURES[config.model_type] != "llama":
        return state
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    out = {}
    for name, tensor in state.items():
        parts = name.split(".")
        count = heads.get(parts[-2]) if len(parts) > 1 else None
        out[name] = interleave(tensor, count) if count else tensor
    return out


def interleave(tensor: Tensor, num_heads: int) -> Tensor:
    """Rows of each head from (first half, second half) to neighbours."""
    per_head = tensor.shape[0] // num_heads
    split = tensor.reshape(num_heads, 2, per_head // 2, *tensor.shape[1:])
    return split.swapaxes(1, 2).reshape(tensor.shape)


def _kind(values: np.ndarray[Any, Any], precision: GgufType) -> str:
    """Vectors stay in fp32; a matrix whose rows are no multiple of a block stays in fp16."""
    if values.ndim == 1:
        return "F32"
    if precision == "q8_0" and values.shape[-1] % BLOCK:
        return "F16"
    return precision.upper()
