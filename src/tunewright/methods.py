"""What may be trained: every adapter method with its options, typed and documented once, here.

The functions that build them (model/adapters/) take these very records, so a recipe is checked to
the last key before torch is imported; docs/decisions/0007 says why this is a table of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Rank = Annotated[int, Field(ge=1, le=4096)]
Chance = Annotated[float, Field(ge=0.0, lt=1.0)]


class Options(BaseModel):
    """Options of one method; frozen, and strict about their keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=()
    )


class LowRank(Options):
    """LoRA and what is built on it: W + scale * B A."""

    dora: bool = False
    """Learn the length of each weight column apart from its direction."""
    rslora: bool = False
    """Scale by alpha / sqrt(r) in place of alpha / r, which keeps high ranks learning."""
    b_rate_ratio: Annotated[float, Field(ge=1.0, le=1000.0)] = 1.0
    """Learning rate of B over that of A."""
    init: Literal["zero", "gaussian", "orthogonal", "pissa", "eva", "loftq"] = "zero"
    """How A and B start: see the methods of these names; zero is LoRA's own."""


class Dora(LowRank):
    """LoRA on the direction of the weights, with their length learned apart."""

    dora: bool = True
    """Learn the length of each weight column apart from its direction."""


class RsLora(LowRank):
    """LoRA with rank-stabilised scale."""

    rslora: bool = True
    """Scale by alpha / sqrt(r) in place of alpha / r, which keeps high ranks learning."""


class LoraPlus(LowRank):
    """LoRA whose B learns faster than its A."""

    b_rate_ratio: Annotated[float, Field(ge=1.0, le=1000.0)] = 16.0
    """Learning rate of B over that of A."""


class Pissa(LowRank):
    """LoRA on the largest singular directions; saved as plain LoRA of twice the rank."""

    init: Literal["pissa"] = "pissa"
    """A and B start as the largest singular directions of W, which W itself gives up."""
    pissa_iterations: Annotated[int, Field(ge=0, le=64)] = 0
    """Rounds of a randomised decomposition, faster on wide models; 0: the exact one."""


class Eva(LowRank):
    """LoRA whose A starts from the directions in which the training rows vary."""

    init: Literal["eva"] = "eva"
    """A starts as the main directions of what each layer reads."""
    eva_rho: Annotated[float, Field(ge=1.0, le=8.0)] = 1.0
    """A layer gets at most rho times r; above 1, ranks move to the layers that vary most."""
    eva_rows: Annotated[int, Field(ge=8)] = 512
    """Most training rows that are looked at."""


class Loftq(LowRank):
    """QLoRA whose A and B start by mending the error of the 4-bit base."""

    init: Literal["loftq"] = "loftq"
    """B A starts as the best low-rank stand-in for what 4 bits lost."""


class AdaLora(Options):
    """LoRA as P diag(L) Q whose ranks move, during training, to where they count."""

    final_r: Rank | Literal["auto"] = "auto"
    """Mean rank per layer at the end, below r, the rank at the start; auto: two thirds of it."""
    warm_share: Chance = 0.1
    """Share of the steps before ranks begin to fall."""
    final_share: Chance = 0.4
    """Share of the steps, at the end, in which ranks stand still."""
    allocate_steps: Annotated[int, Field(ge=1)] = 1
    """Steps between two decisions on ranks."""
    orthogonality: Annotated[float, Field(ge=0.0)] = 0.5
    """Weight of the penalty that keeps P and Q orthogonal."""


class Vera(Options):
    """Fixed random A and B shared by all layers; only two vectors per layer are learned."""

    d_initial: Annotated[float, Field(gt=0)] = 0.1
    """Where the vector on the inner side starts."""


class Oft(Options):
    """Weights turned by an orthogonal matrix made of blocks."""

    block_size: Annotated[int, Field(ge=2)] = 8
    """Width of a block; lowered where it does not divide the layers' widths."""
    constrained: bool = False
    """Keep the turn within a small distance of none at all."""


class Boft(Options):
    """Weights turned by a product of sparse orthogonal matrices, as in a fast Fourier transform."""

    block_size: Annotated[int, Field(ge=2)] = 4
    """Width of a block; lowered where it does not divide the layers' widths."""
    factors: Annotated[int, Field(ge=1, le=8)] = 1
    """Sparse factors; 1 is OFT."""


class LoHa(Options):
    """The product, entry by entry, of two low-rank matrices."""


class LoKr(Options):
    """A Kronecker product of a small and a low-rank matrix."""

    decompose_factor: int = -1
    """Size of the small matrix; -1: about the square root."""
    decompose_both: bool = False
    """Make the small matrix low-rank too."""


class Ia3(Options):
    """A learned vector scales keys, values and the inside of each MLP."""


class LnTuning(Options):
    """Only the layer norms learn."""


class PromptTuning(Options):
    """Learned vectors stand before the input, as if they were tokens."""

    num_virtual_tokens: Annotated[int, Field(ge=1, le=2048)] = 20
    """How many."""
    init_text: str | None = None
    """Start from the embeddings of this text; null: from those of random tokens."""


class PrefixTuning(Options):
    """Learned keys and values stand before the input in every layer."""

    num_virtual_tokens: Annotated[int, Field(ge=1, le=2048)] = 20
    """How many."""


class Full(Options):
    """All weights learn."""


class Freeze(Options):
    """Some layers learn whole, the rest is frozen."""

    train_layers: int = 2
    """How many of the last layers learn; negative: of the first ones."""
    train_embeddings: bool = False
    """The embeddings (and an output layer tied to them) learn as well."""


@dataclass(frozen=True, slots=True)
class Method:
    """One entry. takes: which of the keys that several methods share mean something here.

    weights: it is saved as a whole model, not as an adapter. mergeable: it folds into plain
    weights. quantizable: the base may be held in 4 or 8 bits.
    """

    options: type[Options]
    takes: frozenset[str]
    weights: bool = False
    mergeable: bool = True
    quantizable: bool = False
    quantization: str = "none"
    """In which precision the base is held where the recipe does not say."""


SHARED_KEYS = (
    "r", "alpha", "dropout", "target_modules", "exclude_modules", "modules_to_save", "new_tokens",
    "quantization",
)  # fmt: skip
_PLACED = frozenset({"target_modules", "exclude_modules", "modules_to_save"})
_LOW_RANK = _PLACED | {"r", "alpha", "dropout", "new_tokens", "quantization"}
_TOKENS = frozenset({"new_tokens"})

METHODS: dict[str, Method] = {
    "full": Method(Full, _TOKENS, weights=True, mergeable=False),
    "freeze": Method(Freeze, frozenset(), weights=True, mergeable=False),
    "lora": Method(LowRank, _LOW_RANK, quantizable=True),
    "qlora": Method(LowRank, _LOW_RANK, quantizable=True, quantization="nf4"),
    "dora": Method(Dora, _LOW_RANK, quantizable=True),
    "rslora": Method(RsLora, _LOW_RANK, quantizable=True),
    "lora_plus": Method(LoraPlus, _LOW_RANK, quantizable=True),
    "pissa": Method(Pissa, _LOW_RANK - {"quantization"}),
    "eva": Method(Eva, _LOW_RANK - {"quantization"}),
    "loftq": Method(Loftq, _LOW_RANK, quantizable=True, quantization="nf4"),
    "adalora": Method(AdaLora, _PLACED | {"r", "alpha", "dropout"}),
    "vera": Method(Vera, _PLACED | {"r", "dropout"}),
    "oft": Method(Oft, _PLACED | {"dropout"}),
    "boft": Method(Boft, _PLACED | {"dropout"}),
    "loha": Method(LoHa, _PLACED | {"r", "alpha", "dropout"}),
    "lokr": Method(LoKr, _PLACED | {"r", "alpha", "dropout"}),
    "ia3": Method(Ia3, _PLACED),
    "ln_tuning": Method(LnTuning, frozenset({"modules_to_save"})),
    "prompt_tuning": Method(PromptTuning, frozenset(), mergeable=False),
    "prefix_tuning": Method(PrefixTuning, frozenset(), mergeable=False),
}
# What other tools call our methods.
ALIASES = {
    "lora+": "lora_plus",
    "loraplus": "lora_plus",
    "prompt": "prompt_tuning",
    "prefix": "prefix_tuning",
    "layernorm": "ln_tuning",
    "frozen": "freeze",
    "none": "full",
}
