"""A plan past this machine: layout, memory, communication, use and failures on hundreds of GPUs.

Arithmetic only. Rates come from data sheets, and one share of the peak per kind of device was set
by one published run each (CALIBRATED_ON); the other runs in PUBLISHED are what it is held against.

Sources: 6 operations per weight and token (Kaplan et al. 2020); tensor and sequence parallelism,
and the pipeline's bubble (Narayanan et al. 2021, Korthikanti et al. 2022); FSDP's exchange (Zhao
et al. 2023); the time between checkpoints (Young 1974, Daly 2006).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tunewright.cost.devices import Device
from tunewright.cost.shape import ModelShape, read_shape

HOST_GPUS = 8
SHARE_OF_PEAK = {"A100-80GB": 0.68, "H100-80GB": 0.565}
"""Of the data sheet's rate, what the matrix products of one layer reach; see CALIBRATED_ON."""
OTHER_SHARE = 0.56
LINK_IN = {"A100-80GB": 300e9, "H100-80GB": 450e9}
"""Bytes/s of each GPU to others of its host (NVLink, one direction, data sheets)."""
LINK_OUT = 50e9
"""Bytes/s of each GPU's own card to other hosts: 400 Gbit/s, as Llama 3's clusters have."""
LINK_SHARE = 0.75
"""Of a link's rate, what collectives reach."""
FIXED_BYTES = 4e9
"""Context, buffers of the collectives, and what the allocator cannot use."""
FULLEST = 0.94
WIDTH = 2
"""Bytes of a bf16 value."""
STATE_BYTES = 12
"""fp32 master and two moments of a trained weight; also what a checkpoint holds of it."""
FAILURES_PER_GPU_HOUR = 419 / (54 * 24 * 16_384)
"""Llama 3: 419 unexpected interruptions in 54 days on 16,384 H100, one in 51,000 GPU hours."""
RESTART_S = 600.0
"""From a failure to the first new step: found, placed again, read."""
STORE_BYTES_PER_S = 2e9
"""Written by each host to shared storage."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is trained: method full or lora; batch_tokens: of one step over all GPUs, in rows of
    row_tokens, micro_rows of them at a time. recompute: share of the forward pass that is made
    again in the backward pass. interleave: stages of the pipeline that each GPU holds.
    """

    method: str = "full"
    rank: int = 16
    row_tokens: int = 8192
    batch_tokens: int = 4_194_304
    micro_rows: int = 1
    recompute: float = 1.0
    interleave: int = 1


@dataclass(frozen=True, slots=True)
class Layout:
    """Ways that a model is cut: tensor parallel within hosts, pipeline stages, data parallel."""

    tensor: int
    pipeline: int
    data: int

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.tensor * self.pipeline * self.data

    @property
    def text(self) -> str:
        """As people write it."""
        cut = "fsdp" if self.pipeline == 1 else "dp"
        return f"{cut} {self.data} x tp {self.tensor} x pp {self.pipeline}"


@dataclass(frozen=True, slots=True)
class Forecast:
    """One layout on one cluster. Bytes and seconds are of one GPU and one step.

    comm_s: what the links are busy for; exposed_s: what of it no computation hides. mfu: useful
    operations over the peak. lost: share of the time that goes to checkpoints, failures, restarts.
    """

    layout: Layout
    memory_bytes: float
    fits: bool
    comm_bytes: float
    comm_s: float
    exposed_s: float
    bubble: float
    step_s: float
    mfu: float
    failure_every_h: float
    checkpoint_every_s: float
    lost: float

    @property
    def tokens_share(self) -> float:
        """Of the peak, what ends in learned tokens once failures are counted."""
        return self.mfu * (1.0 - self.lost)


def forecast(shape: ModelShape, device: Device, layout: Layout, job: Job) -> Forecast:
    """What one layout comes to. device: one GPU of the cluster."""
    weights = shape.num_parameters(with_output=True)
    trained = weights if job.method == "full" else shape.num_lora(job.rank)
    rows = max(1, round(job.batch_tokens / job.row_tokens / layout.data))
    peak = device.flops_per_s
    rate = peak * SHARE_OF_PEAK.get(device.name, OTHER_SHARE)
    useful = rows * job.row_tokens * flops_per_token(shape, job) / (layout.tensor * layout.pipeline)
    forward = 2.0 * weights * rows * job.row_tokens / (layout.tensor * layout.pipeline)
    again = forward * job.recompute
    micro = -(-rows // job.micro_rows)
    compute_s = (useful + again) / rate
    tensor_bytes = _tensor_bytes(shape, layout, job, rows)
    tensor_s = tensor_bytes / (LINK_IN.get(device.name, LINK_OUT) * LINK_SHARE)
    data_bytes = _data_bytes(weights, trained, layout, micro)
    data_s = data_bytes / _data_rate(device, layout)
    # The exchange of one layer runs beside the computation of the next, but for the first and last.
    hidden_s = compute_s * (1.0 - 1.0 / shape.layers)
    exposed_s = tensor_s + max(data_s - hidden_s, data_s / shape.layers)
    bubble = (layout.pipeline - 1) / (micro * job.interleave + layout.pipeline - 1)
    step_s = (compute_s + exposed_s) / (1.0 - bubble)
    memory = memory_bytes(shape, layout, job)
    every_h = 1.0 / (FAILURES_PER_GPU_HOUR * layout.gpus)
    save_s = trained * STATE_BYTES / (STORE_BYTES_PER_S * max(1, layout.gpus // HOST_GPUS))
    interval_s = checkpoint_interval_s(save_s, every_h * 3600)
    return Forecast(
        layout=layout,
        memory_bytes=memory,
        fits=memory <= FULLEST * device.memory_bytes,
        comm_bytes=tensor_bytes + data_bytes,
        comm_s=tensor_s + data_s,
        exposed_s=exposed_s,
        bubble=bubble,
        step_s=step_s,
        mfu=useful / (step_s * peak),
        failure_every_h=every_h,
        checkpoint_every_s=interval_s,
        lost=lost_share(save_s, interval_s, every_h * 3600),
    )


def best_layout(
    shape: ModelShape, device: Device, gpus: int, job: Job, *, built_only: bool = False
) -> Forecast:
    """The layout that fits and learns fastest; where none fits, the one that lacks least.

    built_only: those that `train` runs itself, which are FSDP alone.
    """
    found = [
        forecast(shape, device, layout, replace(job, micro_rows=micro))
        for layout in layouts(shape, gpus, job)
        for micro in (1, 2, 4, 8)
        if micro * layout.data <= max(1, job.batch_tokens // job.row_tokens)
    ]
    if built_only:
        found = [one for one in found if one.layout.tensor == one.layout.pipeline == 1]
    fitting = [one for one in found if one.fits]
    if fitting:
        return max(fitting, key=lambda one: one.mfu)
    return min(found, key=lambda one: one.memory_bytes)


def loads_whole(shape: ModelShape, device: Device) -> bool:
    """True where one GPU holds all weights for a moment, as `train` needs before it cuts them."""
    weights = shape.num_parameters(with_output=True) * WIDTH
    return weights + FIXED_BYTES <= FULLEST * device.memory_bytes


def layouts(shape: ModelShape, gpus: int, job: Job) -> Iterator[Layout]:
    """Every cut of a model over so many GPUs that gives each data rank a row."""
    rows = max(1, job.batch_tokens // job.row_tokens)
    for tensor in (1, 2, 4, 8):
        for pipeline in (1, 2, 4, 8, 16):
            data, rest = divmod(gpus, tensor * pipeline)
            if rest == 0 and 1 <= data <= rows and pipeline <= shape.layers:
                yield Layout(tensor, pipeline, data)


def flops_per_token(shape: ModelShape, job: Job) -> float:
    """Useful operations of learning from one token; causal attention sees half of a row."""
    matrices = shape.num_active_linear + shape.vocab_size * shape.hidden_size
    attention = 6.0 * job.row_tokens * shape.attention_width * shape.layers
    if job.method == "full":
        return 6.0 * matrices + attention
    return 4.0 * matrices + 6.0 * shape.num_lora(job.rank) + attention


def memory_bytes(shape: ModelShape, layout: Layout, job: Job) -> float:
    """Peak bytes on one GPU."""
    weights = shape.num_parameters(with_output=True)
    trained = weights if job.method == "full" else shape.num_lora(job.rank)
    model, data = layout.tensor * layout.pipeline, layout.data
    # FSDP spreads all of it; with a pipeline all but the weights themselves (ZeRO-2).
    weights_spread = data if layout.pipeline == 1 else 1
    held = weights * WIDTH / model / weights_spread + trained * (4 + STATE_BYTES) / model / data
    layer = shape.num_linear / shape.layers * WIDTH / layout.tensor
    gathered = 3.0 * layer if weights_spread > 1 else 0.0
    tokens = job.row_tokens * job.micro_rows
    # Inputs of both halves and of their norms; query, key, value and what comes of them; gate, up
    # and their product.
    h, i, a = shape.hidden_size, shape.intermediate_size, shape.attention_width
    wide = 4.0 * h + 2.0 * a + 2.0 * shape.kv_width + (3.0 if shape.gated else 2.0) * i
    inside = tokens * WIDTH * wide / layout.tensor
    stage = shape.layers / layout.pipeline
    inputs = tokens * h * WIDTH / layout.tensor
    kept = (job.recompute * inputs + (1.0 - job.recompute) * inside) * stage * layout.pipeline
    logits = tokens * shape.vocab_size * (WIDTH + 4.0) / layout.tensor
    return held + gathered + kept + inside + logits + FIXED_BYTES


def checkpoint_interval_s(save_s: float, failure_every_s: float) -> float:
    """The best time between checkpoints (Daly 2006, his higher-order form of Young's)."""
    if save_s >= 2.0 * failure_every_s:
        return failure_every_s
    ratio = save_s / (2.0 * failure_every_s)
    young = math.sqrt(2.0 * save_s * failure_every_s)
    return young * (1.0 + math.sqrt(ratio) / 3.0 + ratio / 9.0) - save_s


def lost_share(save_s: float, interval_s: float, failure_every_s: float) -> float:
    """Share of the time spent on saving, on work done twice, and on starting again."""
    saving = save_s / (interval_s + save_s)
    again = (interval_s / 2.0 + RESTART_S) / failure_every_s
    return min(1.0, saving + again)


def _tensor_bytes(shape: ModelShape, layout: Layout, job: Job, rows: int) -> float:
    """Four sums of a layer's activations, and two more where they are made again."""
    if layout.tensor == 1:
        return 0.0
    one = job.row_tokens * shape.hidden_size * WIDTH * 2.0 * (layout.tensor - 1) / layout.tensor
    sums = 4 + 2 * job.recompute
    return one * sums * rows * shape.layers / layout.pipeline


def _data_bytes(weights: int, trained: int, layout: Layout, micro: int) -> float:
    """FSDP gathers weights twice and sums gradients once per micro-batch; else both once a step."""
    if layout.data == 1:
        return 0.0
    share = (layout.data - 1) / layout.data / (layout.tensor * layout.pipeline)
    if layout.pipeline == 1:
        return share * micro * (2 * WIDTH * weights + 4 * trained)
    return share * (WIDTH + 4) * trained


def _data_rate(device: Device, layout: Layout) -> float:
    """Bytes/s of a data-parallel exchange. Of a group that fills hosts, each byte enters a host
    once, over all of its cards.
    """
    if layout.gpus <= HOST_GPUS:
        return LINK_IN.get(device.name, LINK_OUT) * LINK_SHARE
    together = max(1, HOST_GPUS // (layout.tensor * layout.pipeline))
    fastest = LINK_IN.get(device.name, LINK_OUT)
    return min(fastest, LINK_OUT * together) * LINK_SHARE


def _llama(layers: int, hidden: int, inner: int, heads: int) -> ModelShape:
    return read_shape(
        {
            "model_type": "llama", "hidden_size": hidden, "num_hidden_layers": layers,
            "intermediate_size": inner, "num_attention_heads": heads, "num_key_value_heads": 8,
            "vocab_size": 128_256, "max_position_embeddings": 131_072,
        }
    )  # fmt: skip


def _plain(kind: str, layers: int, hidden: int, heads: int, words: int) -> ModelShape:
    return read_shape(
        {
            "model_type": kind, "hidden_size": hidden, "num_hidden_layers": layers,
            "num_attention_heads": heads, "vocab_size": words, "ffn_dim": 4 * hidden,
            "max_position_embeddings": 2048,
        }
    )  # fmt: skip


SHAPES: dict[str, ModelShape] = {
    "8B": _llama(32, 4096, 14_336, 32),
    "70B": _llama(80, 8192, 28_672, 64),
    "405B": _llama(126, 16_384, 53_248, 128),
}
"""Of Llama 3's three sizes, for a plan without a recipe."""


@dataclass(frozen=True, slots=True)
class Published:
    """A run that others reported: its cut, and the share of the peak that they measured."""

    name: str
    shape: ModelShape
    device: str
    layout: Layout
    job: Job
    mfu: float
    source: str


_LLAMA = replace(Job(batch_tokens=16 << 20), recompute=0.0, interleave=4)
PUBLISHED: Sequence[Published] = (
    Published("Llama 3 8B, torchtitan", SHAPES["8B"], "A100-80GB", Layout(1, 1, 64),
              Job(batch_tokens=64 * 8192, recompute=0.5), 0.582,
              "torchtitan docs/performance.md (2024): 64 A100, selective op recomputation"),
    Published("Llama 3 70B, torchtitan", SHAPES["70B"], "A100-80GB", Layout(1, 1, 64),
              Job(batch_tokens=64 * 8192), 0.517,
              "torchtitan docs/performance.md (2024): 64 A100, full recomputation"),
    Published("BLOOM 176B", _plain("bloom", 70, 14_336, 112, 250_880), "A100-80GB",
              Layout(4, 12, 8), Job(row_tokens=2048, batch_tokens=2048 * 2048), 150 / 312,
              "BigScience (2022): 384 A100, about 150 TFLOP/s each"),
    Published("OPT 175B", _plain("opt", 96, 12_288, 96, 50_272), "A100-80GB",
              Layout(8, 1, 124), Job(row_tokens=2048, batch_tokens=2_000_000, micro_rows=8),
              147 / 312,
              "Zhang et al. (2022): 992 A100, up to 147 TFLOP/s each"),
    Published("Llama 3 405B, 8,192 GPUs", SHAPES["405B"], "H100-80GB", Layout(8, 16, 64),
              _LLAMA, 0.43, "Grattafiori et al. (2024), table 4"),
    Published("Llama 3 405B, 16,384 GPUs", SHAPES["405B"], "H100-80GB", Layout(8, 16, 128),
              _LLAMA, 0.41, "Grattafiori et al. (2024), table 4"),
    Published("MegaScale 175B, 12,288 GPUs", _plain("opt", 96, 12_288, 96, 64_000), "A100-80GB",
              Layout(8, 8, 192),
              Job(row_tokens=2048, batch_tokens=6144 * 2048, recompute=0.0, interleave=6), 0.552,
              "Jiang et al. (2024): 12,288 GPUs, batch of 6,144 rows"),
)  # fmt: skip
CALIBRATED_ON = ("Llama 3 70B, torchtitan", "Llama 3 405B, 8,192 GPUs")


def hold_against(run: Published, device: Device) -> float:
    """The share of the peak that is forecast for a published run."""
    return forecast(run.shape, device, run.layout, run.job).mfu
