"""Peak memory of training, item by item, by arithmetic alone; no torch, no weights.

What a layer keeps for the backward pass was counted with autograd's own hooks for each family
(bench/plan_memory.py checks it against measured peaks). What an allocator holds beyond what lives
is a measured factor: COEFFICIENTS below is the one place where such factors stand;
bench/plan_fit.py fits them, bench/LOG.md says how right they are.

Letters: h hidden size, a width of all heads, i intermediate size, w bytes of a value, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tunewright.cost.shape import ModelShape

BYTES = {"fp32": 4, "bf16": 2}
FAST_LOGITS = 12_000_000
"""Logits that model/decoder.py makes at a time."""
NF4_BYTES = 0.5 + 0.0635
"""Of one weight in nf4: four bits, and block scales quantised twice (Dettmers et al. 2023)."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is trained, and the widest micro-batch of it.

    tokens: of the widest micro-batch, padding included, in rows of at most row_tokens. outputs:
    positions whose outputs exist at one time. num_outputs: vocabulary or classes.
    num_parameters: those of the whole model, when counted; else the shape's own count.
    """

    method: str = "full"
    rank: int = 16
    quantization: str = "none"
    precision: str = "bf16"
    tokens: int = 1024
    row_tokens: int = 128
    outputs: int = 512
    num_outputs: int = 32_000
    language: bool = True
    micro_batches: int = 1
    checkpointing: bool = False
    ema: bool = False
    dropout: bool = False
    padded: bool = True
    num_parameters: int | None = None
    num_head: int = 0
    extra_layers: int = 0
    packed_moments: bool = False
    """The optimiser's two moments are held in 8 bits."""
    fast: bool = False
    """Layers run by model/decoder.py or encoder.py: packed rows, little kept."""


@dataclass(frozen=True, slots=True)
class Waste:
    """Bytes that a process holds beside what must live: fixed_bytes, and a factor for each part.

    activation, logits: bytes held for one that must live at the worst moment.
    """

    fixed_bytes: float
    activation: float
    logits: float


@dataclass(frozen=True, slots=True)
class Coefficients:
    """What arithmetic cannot know, measured on one kind of device, by path (see `path_of`).

    low, high: factors of the interval.
    """

    waste: Mapping[str, Waste]
    low: float
    high: float
    note: str = ""

    def of(self, path: str) -> Waste:
        """The factors of a path, or the general ones."""
        return self.waste.get(path, self.waste["*"])


COEFFICIENTS: dict[str, Coefficients] = {
    # Fitted by bench/plan_fit.py on thirteen recipes, 2026-11-25; see bench/LOG.md.
    "cpu": Coefficients(
        waste={
            "fast-decoder-bf16": Waste(128e6, 0.83, 1.23),
            "fast-decoder-fp32": Waste(120e6, 0.82, 1.50),
            "torch-decoder-bf16": Waste(104e6, 1.92, 1.98),
            "torch-decoder-fp32": Waste(105e6, 1.43, 1.34),
            "torch-encoder-fp32": Waste(121e6, 0.99, 1.61),
            "*": Waste(110e6, 1.6, 1.6),
        },
        low=0.85,
        high=1.18,
        note="glibc keeps freed blocks, and cannot reuse a block for another aligned one of its "
        "own size",
    ),
    # torch's CUDA allocator rounds and splits blocks: 3 to 10 % beyond what lives; the context is
    # outside of what torch counts. Not measured here, so the interval is wide.
    "cuda": Coefficients(
        waste={"*": Waste(0.7e9, 1.08, 1.08)},
        low=0.85,
        high=1.2,
        note="not measured on this kind of device",
    ),
}


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by item, in the order of a report; `peak` is what they come to at the worst moment.

    held: there all the time. passing: there during a step. disk_bytes: one checkpoint.
    """

    held: Mapping[str, int]
    passing: Mapping[str, int]
    peak_bytes: int
    low_bytes: int
    high_bytes: int
    checkpoint_bytes: int
    model_bytes: int
    num_parameters: int
    num_trained: int
    per_device: int = 1
    notes: tuple[str, ...] = field(default=())


def forecast_memory(
    shape: ModelShape, work: Work, device_kind: str = "cpu", *, count: int = 1
) -> Memory:
    """Peak bytes above a process with its libraries just imported, on each of `count` devices.

    Several devices shard weights, gradients and optimiser state (FSDP); activations stay whole.
    """
    factors = COEFFICIENTS.get(device_kind, COEFFICIENTS["cuda"])
    width = BYTES[work.precision]
    everything = _num_parameters(shape, work)
    trained = num_trained(shape, work)
    held = _held(shape, work, everything, trained, width)
    waste = factors.of(path_of(shape, work))
    kept = activation_bytes(shape, work)
    logits = logit_bytes(work)
    # The gradients of a step's only micro-batch stay in the model's own precision.
    gradients = trained * (width if work.micro_batches == 1 else 4)
    temporary = (waste.activation - 1.0) * kept + (waste.logits - 1.0) * logits
    temporary = max(0, round(temporary + waste.fixed_bytes))
    shared = {name: -(-size // count) for name, size in held.items()}
    passing = {
        "gradients": -(-gradients // count),
        "activations": kept,
        "logits": logits,
        "temporary buffers": temporary,
    }
    peak = sum(shared.values()) + sum(passing.values())
    return Memory(
        held=shared,
        passing=passing,
        peak_bytes=peak,
        low_bytes=round(peak * factors.low),
        high_bytes=round(peak * factors.high),
        checkpoint_bytes=trained * (12 + (4 if work.ema else 0)) + 65_536,
        model_bytes=_model_bytes(shape, work, everything, trained),
        num_parameters=everything,
        num_trained=trained,
        per_device=count,
        notes=(factors.note,) if factors.note else (),
    )


def path_of(shape: ModelShape, work: Work) -> str:
    """Which code runs: "fast-decoder-bf16", "torch-encoder-fp32-checkpointing"."""
    code = "fast" if work.fast else "torch"
    end = "-checkpointing" if work.checkpointing else ""
    return f"{code}-{shape.kind}-{work.precision}{end}"


def num_trained(shape: ModelShape, work: Work) -> int:
    """Weights that learn: all of them, or the low-rank additions and a new head."""
    if work.method == "full":
        return _num_parameters(shape, work)
    return shape.num_lora(work.rank) + work.num_head


def _num_parameters(shape: ModelShape, work: Work) -> int:
    if work.num_parameters is not None:
        return work.num_parameters
    counted = shape.num_parameters(with_output=work.language) + work.num_head
    if work.extra_layers:
        counted += round(work.extra_layers * shape.num_linear / shape.layers)
    return counted


def _held(
    shape: ModelShape, work: Work, everything: int, trained: int, width: int
) -> dict[str, int]:
    weights = float(everything * width)
    if work.quantization in ("nf4", "fp4"):
        weights -= shape.num_linear * (width - NF4_BYTES)
    elif work.quantization == "int8":
        weights -= shape.num_linear * (width - 1.0)
    adapter = trained * width if work.method != "full" else 0
    # Where weights are fp32 they are their own masters, unless an average takes their place.
    masters = trained * 4 if width != 4 or work.ema else 0
    items = {
        "weights": round(weights),
        "adapter": adapter,
        "master weights": masters,
        "optimiser moments": trained * (2 if work.packed_moments else 8),
        "moving average": trained * 4 if work.ema else 0,
    }
    return {name: size for name, size in items.items() if size}


def _model_bytes(shape: ModelShape, work: Work, everything: int, trained: int) -> int:
    """What is written as model/: fp32 adapters, or the weights in their own precision."""
    if work.method == "full":
        return everything * BYTES[work.precision]
    return trained * 4


def layer_bytes_per_token(shape: ModelShape, work: Work) -> float:
    """What one layer keeps of one token until the backward pass."""
    w = BYTES[work.precision]
    if work.fast:
        return _fast_layer_bytes(shape, work, w)
    h, a, i = shape.hidden_size, shape.attention_width, shape.intermediate_size
    full = work.method == "full"
    row = work.row_tokens
    lora = 0.0 if full else 7.0 * work.rank * w
    experts = max(1, shape.experts_per_token) if shape.num_experts else 1
    mlp = (4.0 if shape.gated else 2.0) * i * w * experts
    if shape.gated:
        # Two norms keep their input in fp32 and one number each; the weight of a norm that learns
        # wants what it multiplied. Then the inputs of attention, of its output and of the MLP;
        # query, key and value; and fp32 sums of exponentials per head.
        norms = 2 * (4.0 * h + 4) + (2.0 * h * w if full else 0.0)
        streams = 2.0 * h * w + a * w
        attention = 3.0 * a * w + 4.0 * shape.num_heads
        mask = float(row) * w if work.padded else 0.0
        return norms + streams + attention + mask + mlp + lora
    # Plain blocks: dropouts keep a mask of the width of a value; norms keep input and output.
    dropped = 2.0 if work.dropout else 0.0
    streams = (5.0 + dropped) * h * w
    if work.dropout:
        # With dropout attention is computed in the open, in fp32: query, key, value upcast, the
        # probabilities, their dropped copy and its mask, each T x T for every head.
        attention = 3.0 * a * 4 + 3.0 * shape.num_heads * row * 4
    else:
        attention = 3.0 * a * w + 4.0 * shape.num_heads
    return streams + attention + mlp + lora


def _fast_layer_bytes(shape: ModelShape, work: Work, w: int) -> float:
    """As model/decoder.py and model/encoder.py keep them.

    Of a decoder: input and middle, query, key, value and their output, gate and up, the low-rank
    inner values; one number per head and norm in fp32.
    """
    if shape.kind == "encoder":  # input, query, key, value, output, two sums, middle; before GELU
        wide = 8.0 * shape.hidden_size + shape.intermediate_size
        return w * wide + 4.0 * shape.num_heads + 16.0
    wide = 2.0 * shape.hidden_size + 2.0 * shape.attention_width + 2.0 * shape.kv_width
    inner = 2.0 * shape.intermediate_size + 7.0 * work.rank
    return w * (wide + inner) + 4.0 * shape.num_heads + 8.0


def activation_bytes(shape: ModelShape, work: Work) -> int:
    """What all layers keep for the backward pass of the widest micro-batch."""
    per_layer = layer_bytes_per_token(shape, work) * work.tokens
    layers = shape.layers + work.extra_layers
    if not work.checkpointing:
        return round(per_layer * layers)
    inputs = work.tokens * shape.hidden_size * BYTES[work.precision] * layers
    return round(inputs + per_layer)


def logit_bytes(work: Work) -> int:
    """Outputs at the worst moment: in the model's precision, in fp32, and their gradient."""
    w = BYTES[work.precision]
    if work.fast and work.language:
        at_once = min(work.outputs * work.num_outputs, FAST_LOGITS)
        # Logits and their gradient; where no fused kernel is for fp32, copies of both.
        return round(at_once * (2.0 * w if w == 2 else 4.0 * w))
    return round(work.outputs * work.num_outputs * (w + 8.0))


def with_micro_batch(work: Work, tokens: int) -> Work:
    """The same work in micro-batches of at most `tokens`, but never less than one row."""
    smaller = max(work.row_tokens, min(work.tokens, tokens))
    share = smaller / work.tokens
    return replace(work, tokens=smaller, outputs=max(1, round(work.outputs * share)))
