"""The shape of a model read from its config.json: layers, widths, weights. No torch, no weights.

Enough to count every weight of the usual dense and mixture-of-experts transformers, and to say what
a token leaves behind in a layer. Counts are checked against transformers in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tunewright.errors import ModelError

Kind = Literal["encoder", "decoder", "encoder-decoder"]
# Attention with biases on query, key and value only.
_QKV_BIAS = frozenset({"qwen2", "qwen2_moe"})
_ENCODERS = frozenset(
    {
        "albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie",
        "eurobert", "modernbert", "mpnet", "nomic_bert", "roberta", "xlm-roberta",
        "xlm-roberta-xl",
    }
)  # fmt: skip
_ENCODER_DECODERS = frozenset({"t5", "mt5", "umt5", "bart", "mbart", "pegasus", "marian", "led"})
# Decoders whose blocks have biases everywhere and a plain two-matrix MLP.
_PLAIN_DECODERS = frozenset(
    {"gpt2", "gpt_neo", "gpt_neox", "opt", "phi", "gptj", "bloom", "falcon"}
)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What memory and time depend on.

    intermediate_size: width of one MLP (of one expert). layers of a decoder beside an encoder are
    decoder_layers. linears: (in, out) of every weight matrix of one layer, experts included.
    """

    model_type: str
    kind: Kind
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    max_positions: int
    gated: bool
    biased: bool
    tied: bool
    decoder_layers: int = 0
    num_experts: int = 0
    experts_per_token: int = 0
    dropout: float = 0.0
    type_vocab_size: int = 0
    learned_positions: bool = False

    @property
    def layers(self) -> int:
        """All blocks, those of encoder and decoder together."""
        return self.num_layers + self.decoder_layers

    @property
    def attention_width(self) -> int:
        """Width of all query heads side by side."""
        return self.num_heads * self.head_size

    @property
    def kv_width(self) -> int:
        """Width of all key (or value) heads side by side."""
        return self.num_kv_heads * self.head_size

    def linears(self) -> list[tuple[int, int, int]]:
        """(inputs, outputs, how many) of the weight matrices of the whole backbone."""
        hidden, wide, narrow = self.hidden_size, self.attention_width, self.kv_width
        attention = [(hidden, wide, 1), (hidden, narrow, 2), (wide, hidden, 1)]
        experts = max(1, self.num_experts)
        up = 2 if self.gated else 1
        mlp = [
            (hidden, self.intermediate_size, up * experts),
            (self.intermediate_size, hidden, experts),
        ]
        router = [(hidden, self.num_experts, 1)] if self.num_experts else []
        every = [(i, o, n * self.layers) for i, o, n in (*attention, *mlp, *router)]
        cross = [(i, o, n * self.decoder_layers) for i, o, n in attention]
        return [*every, *cross] if self.decoder_layers else every

    @property
    def num_linear(self) -> int:
        """Weights of the backbone's matrices."""
        return sum(i * o * n for i, o, n in self.linears())

    @property
    def num_active_linear(self) -> int:
        """Of those, the ones that a single token is multiplied by."""
        if not self.num_experts:
            return self.num_linear
        share = self.experts_per_token / self.num_experts
        of_experts = (
            (3 if self.gated else 2)
            * self.hidden_size
            * self.intermediate_size
            * self.num_experts
            * self.layers
        )
        return round(self.num_linear - of_experts * (1.0 - share))

    @property
    def num_embedding(self) -> int:
        """Weights that are looked up: words, positions, segments."""
        positions = self.max_positions if self.learned_positions else 0
        return (self.vocab_size + positions + self.type_vocab_size) * self.hidden_size

    def num_parameters(self, *, with_output: bool) -> int:
        """All weights. with_output: the output layer over the vocabulary is there too."""
        norms = (3 if self.decoder_layers else 2) * self.layers + 1
        small = norms * self.hidden_size * (2 if self.biased else 1)
        if self.biased:
            small += sum(o * n for _, o, n in self.linears())
        elif self.model_type in _QKV_BIAS:
            small += self.layers * (self.attention_width + 2 * self.kv_width)
        output = self.vocab_size * self.hidden_size if with_output and not self.tied else 0
        return self.num_linear + self.num_embedding + small + output

    def num_lora(self, rank: int) -> int:
        """Weights that LoRA of this rank adds to every linear layer of the backbone."""
        return sum((i + o) * rank * n for i, o, n in self.linears())


def read_shape(config: Mapping[str, Any], place: str = "config.json") -> ModelShape:
    """The shape that a config.json describes, as a mapping. Raises ModelError naming what lacks."""
    text = config.get("text_config")
    values = {**config, **text} if isinstance(text, Mapping) else dict(config)
    model_type = str(values.get("model_type", ""))
    kind = _kind(values, model_type)
    hidden = _number(values, place, "hidden_size", "n_embd", "d_model", "dim")
    layers = _number(values, place, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    heads = _number(values, place, "num_attention_heads", "n_head", "num_heads", "n_heads")
    wide = _maybe(values, "moe_intermediate_size") if _experts(values) else None
    wide = wide or _maybe(
        values, "intermediate_size", "n_inner", "d_ff", "ffn_dim", "encoder_ffn_dim", "hidden_dim"
    )
    vocabulary = _number(values, place, "vocab_size")
    return ModelShape(
        model_type=model_type,
        kind=kind,
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=wide or 4 * hidden,
        num_heads=heads,
        num_kv_heads=_maybe(values, "num_key_value_heads") or heads,
        head_size=_maybe(values, "head_dim", "d_kv") or hidden // heads,
        vocab_size=vocabulary,
        max_positions=_maybe(values, "max_position_embeddings", "n_positions") or 1 << 20,
        gated=_is_gated(values, model_type),
        biased=(kind == "encoder" and model_type != "modernbert") or model_type in _PLAIN_DECODERS,
        tied=bool(values.get("tie_word_embeddings", _tied_by_default(kind, model_type))),
        decoder_layers=_decoder_layers(values, layers) if kind == "encoder-decoder" else 0,
        num_experts=_experts(values),
        experts_per_token=_maybe(values, "num_experts_per_tok", "num_experts_per_token") or 0,
        dropout=_dropout(values),
        type_vocab_size=_maybe(values, "type_vocab_size") or 0 if kind == "encoder" else 0,
        learned_positions=_has_positions(kind, model_type),
    )


def _kind(values: Mapping[str, Any], model_type: str) -> Kind:
    if values.get("is_encoder_decoder") or model_type in _ENCODER_DECODERS:
        return "encoder-decoder"
    if model_type in _ENCODERS:
        return "encoder"
    names = values.get("architectures") or ()
    masked = any("MaskedLM" in str(name) for name in names)
    return "encoder" if masked else "decoder"


def _is_gated(values: Mapping[str, Any], model_type: str) -> bool:
    if model_type in ("t5", "mt5", "umt5"):
        return "gated" in str(values.get("feed_forward_proj", "relu"))
    if model_type == "modernbert":
        return True
    return model_type not in _ENCODERS | _PLAIN_DECODERS | _ENCODER_DECODERS


def _tied_by_default(kind: Kind, model_type: str) -> bool:
    """What transformers takes where a config.json is silent."""
    plain = kind != "decoder" or model_type in _PLAIN_DECODERS - {"phi", "gpt_neox", "gptj"}
    return plain or model_type.startswith("gemma")


def _decoder_layers(values: Mapping[str, Any], layers: int) -> int:
    return _maybe(values, "num_decoder_layers", "decoder_layers") or layers


def _experts(values: Mapping[str, Any]) -> int:
    return _maybe(values, "num_local_experts", "num_experts", "n_routed_experts") or 0


def _has_positions(kind: Kind, model_type: str) -> bool:
    rotary = {"modernbert", "eurobert", "nomic_bert"}
    return (kind == "encoder" and model_type not in rotary) or model_type in ("gpt2", "opt")


def _dropout(values: Mapping[str, Any]) -> float:
    names = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop", "dropout_rate")
    found = [values[name] for name in names if isinstance(values.get(name), int | float)]
    return float(max(found, default=0.0))


def _maybe(values: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = values.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _number(values: Mapping[str, Any], place: str, *names: str) -> int:
    value = _maybe(values, *names)
    if value is None:
        raise ModelError(
            f"{place}: {names[0]} is missing or not a positive number; is this a model's config?"
        )
    return value
