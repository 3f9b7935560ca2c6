"""Weights of a transformers model from checked files: read, holes found, new parts begun."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import safetensors
import torch

from tunewright.errors import ModelError, TunewrightError
from tunewright.model import safety
from tunewright.model.catalog import ModelSource
from tunewright.model.device import is_out_of_memory

HEAD_STD = 0.02
"""Standard deviation of a new head, as BERT, GPT-2 and Llama initialise theirs."""


def from_scratch(
    auto: Any, config: Any, dtype: torch.dtype, attn: str, seed: int, trust_remote_code: bool
) -> Any:
    """A model of this config's shape with random weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options: dict[str, Any] = {"trust_remote_code": True} if trust_remote_code else {}
        return _with_attention(
            lambda kind: auto.from_config(config, attn_implementation=kind, **options), attn
        ).to(dtype)


def from_weights(
    auto: Any,
    source: ModelSource,
    config: Any,
    dtype: torch.dtype,
    attn: str,
    trust: bool,
    more: Mapping[str, Any],
) -> tuple[Any, tuple[str, ...]]:
    """(model, names of parameters that the files lack or hold in another size).

    auto: a transformers auto class. attn: attention wished for. more: options of quantization.
    Raises ModelError where the files cannot be loaded.
    """

    def load(kind: str) -> Any:
        return auto.from_pretrained(
            source.path, config=config, dtype=dtype, attn_implementation=kind,
            use_safetensors=True, local_files_only=True, output_loading_info=True,
            ignore_mismatched_sizes=True, trust_remote_code=trust, **more,
        )  # fmt: skip

    try:
        with torch.random.fork_rng(devices=[]):
            model, info = _with_attention(load, attn)
    except Exception as error:  # loading touches files, configs and memory in library code
        if is_out_of_memory(error) or isinstance(error, TunewrightError):
            raise
        raise ModelError(
            f"{source.path}: weights cannot be loaded ({safety.first_line(error)}); "
            "download them again"
        ) from error
    odd = [item if isinstance(item, str) else item[0] for item in info["mismatched_keys"]]
    missing = {*info["missing_keys"], *odd}
    return model, tuple(sorted(missing - _embed_from_output(source, model, missing)))


def _embed_from_output(source: ModelSource, model: Any, missing: set[str]) -> set[str]:
    """Fill tied word embeddings from `lm_head.weight`, where files hold them under that name alone.

    A causal model ties them by itself; one with a head for labels has no place for the output's
    name and would begin with random words. Returns the parameter that was filled.
    """
    words = model.get_input_embeddings()
    weight = getattr(words, "weight", None)
    name = next((n for n, p in model.named_parameters() if p is weight and n in missing), None)
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    if name is None or weight is None or not tied:
        return set()
    for path in sorted(source.path.glob("*.safetensors")):
        with safetensors.safe_open(path, framework="pt") as file:
            if "lm_head.weight" not in file.keys():  # noqa: SIM118  it is no mapping
                continue
            if tuple(file.get_slice("lm_head.weight").get_shape()) == tuple(weight.shape):
                with torch.no_grad():
                    weight.copy_(file.get_tensor("lm_head.weight"))
                return {name}
    return set()


def _with_attention(load: Any, attn: str) -> Any:
    """Load with the wished attention; architectures without it get plain attention."""
    try:
        return load(attn)
    except (ValueError, ImportError) as error:
        if "does not support" not in str(error) and "attn_implementation" not in str(error):
            raise
        return load("eager")


def check_missing(source: ModelSource, model: Any, missing: Sequence[str], *, headed: bool) -> None:
    """A new head is fine; a hole in the backbone is not. Raises ModelError.

    headed: the task brings a head of its own, so that only the backbone must be whole.
    """
    prefix = f"{model.base_model_prefix}."
    holes = [n for n in missing if (not headed or n.startswith(prefix)) and "pooler" not in n]
    if holes:
        raise ModelError(
            f"{source.path}: weights lack {holes[0]} or hold it in another size "
            f"({len(holes)} tensors); config.json and weights do not belong together"
        )


def label_sized(model: Any, num_labels: int) -> list[str]:
    """Parameters of the head's last layer: made for other labels, they mean nothing here."""
    prefix = f"{model.base_model_prefix}."
    outside = [(n, p) for n, p in model.named_parameters() if not n.startswith(prefix)]
    return [name for name, p in outside if p.shape[0] == num_labels]


def init_fresh(model: Any, names: Sequence[str], seed: int) -> None:
    """Normal(0, HEAD_STD) matrices, zero biases, unit norms; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters())
    for name in sorted(set(names) & set(parameters)):
        tensor = parameters[name].data
        if tensor.dim() > 1:
            noise = torch.empty(tensor.shape, dtype=torch.float32)
            tensor.copy_(noise.normal_(0.0, HEAD_STD, generator=generator))
        else:
            tensor.fill_(0.0 if name.endswith("bias") else 1.0)


def keep_known_rows(
    model: Any,
    source: ModelSource,
    fresh: Sequence[str],
    before: Sequence[str],
    now: Mapping[int, str] | None,
) -> frozenset[str]:
    """Give a new head the rows of labels that the head in the files knew; which labels those are.

    fresh: parameters that were begun anew. before, now: what the outputs stand for, in order.
    """
    places = {name: number for number, name in enumerate(before)}
    shared = [(new, places[name]) for new, name in (now or {}).items() if name in places]
    if not shared or not fresh:
        return frozenset()
    parameters = dict(model.named_parameters())
    kept = False
    for name, old in _tensors_of(source, fresh):
        new = parameters.get(name)
        if new is None or old.shape[0] != len(before) or old.shape[1:] != new.shape[1:]:
            continue
        with torch.no_grad():
            for to, whence in shared:
                new[to] = old[whence].to(new.dtype)
        kept = True
    return frozenset(before[whence] for _, whence in shared) if kept else frozenset()


def _tensors_of(source: ModelSource, names: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of those that the files hold, under the plain names in an adapter's too."""
    for path in source.weights:
        with safetensors.safe_open(path, framework="pt") as file:
            for stored in file.keys():  # noqa: SIM118  it is no mapping
                name = stored.removeprefix("base_model.model.")
                if name in names:
                    yield name, file.get_tensor(stored)
