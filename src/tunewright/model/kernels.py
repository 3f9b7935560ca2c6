"""Elementwise passes, attention and cross-entropy of the fast training path.

kernels.c holds them for bf16 on processors with AVX512-BF16; it is compiled at first use, kept in
the user's cache folder under a name that hashes source, compiler and processor, and loaded with
ctypes. Where that cannot be (no compiler, another processor, fp32, a GPU), the same functions run
in plain torch: slower, equal within rounding.

Shapes: N tokens of all rows one after the other, H width, I inner width, A query heads, G key
heads, D head width, R rows, V vocabulary. starts_R1: where each row begins, and the end.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunewright.model.device import has_avx512_bf16
from tunewright.model.safety import cache_folder

SOURCE = Path(__file__).with_name("kernels.c")
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
_COMPILE_LIMIT_S = 60.0


@cache
def compiled() -> tuple[ctypes.CDLL | None, str]:
    """(the compiled kernels or None, why): built at the first call, in about two seconds."""
    if not has_avx512_bf16():
        return None, "the processor has no AVX512-BF16"
    if os.environ.get("TUNEWRIGHT_KERNELS", "").lower() in ("off", "0"):
        return None, "TUNEWRIGHT_KERNELS=off"
    compiler = shutil.which(os.environ.get("CC", "")) or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None, "no C compiler on this machine"
    try:
        return ctypes.CDLL(str(_build(compiler))), f"compiled with {Path(compiler).name}"
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"{Path(compiler).name} could not build them ({type(error).__name__})"


def can_run(tensor: Tensor) -> bool:
    """True where the compiled kernels take this tensor: bf16 on a processor that has them."""
    return (
        tensor.dtype == torch.bfloat16 and tensor.device.type == "cpu" and compiled()[0] is not None
    )


def _build(compiler: str) -> Path:
    """Path of the shared library; compiled aside and renamed, so that two runs may race."""
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, check=True, timeout=_COMPILE_LIMIT_S
    ).stdout
    flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0]
    parts = (SOURCE.read_bytes(), version, flags.encode(), " ".join(_FLAGS).encode())
    name = hashlib.sha256(b"\0".join(parts)).hexdigest()[:24] + ".so"
    folder = _cache_folder()
    library = folder / name
    if library.exists():
        return library
    handle, aside = tempfile.mkstemp(suffix=".so", dir=folder)
    os.close(handle)
    try:
        subprocess.run(
            [compiler, *_FLAGS, "-o", aside, str(SOURCE), "-lm"],
            capture_output=True,
            check=True,
            timeout=_COMPILE_LIMIT_S,
        )
        os.replace(aside, library)
    finally:
        Path(aside).unlink(missing_ok=True)
    return library


def _cache_folder() -> Path:
    """A folder that only this user writes to: code is loaded from it."""
    folder = cache_folder() / "kernels"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise OSError(f"{folder} belongs to another user")
    return folder


_FLOAT, _LONG, _INT = ctypes.c_float, ctypes.c_int64, ctypes.c_int


def _call(name: str, *values: Any) -> None:
    """Call a kernel: tensors by address, ints as int64, floats as float32, threads last."""
    library = compiled()[0]
    assert library is not None
    arguments = [
        ctypes.c_void_p(v.data_ptr())
        if isinstance(v, Tensor)
        else _INT(v)
        if isinstance(v, bool)
        else _LONG(v)
        if isinstance(v, int)
        else _FLOAT(v)
        for v in values
    ]
    getattr(library, name)(*arguments, _INT(torch.get_num_threads()))


def rms_norm(x_NH: Tensor, weight_H: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """(x scaled to unit root mean square times weight, 1 / rms in fp32 as (N,))."""
    if can_run(x_NH):
        y_NH = torch.empty_like(x_NH)
        rstd_N = torch.empty(x_NH.shape[0], dtype=torch.float32)
        _call("rms_norm", x_NH, weight_H, y_NH, rstd_N, *x_NH.shape, float(epsilon))
        return y_NH, rstd_N
    wide = x_NH.float()
    rstd_N = torch.rsqrt(wide.pow(2).mean(-1) + epsilon)
    return weight_H * (wide * rstd_N[:, None]).to(x_NH.dtype), rstd_N


def rms_norm_backward(
    dy_NH: Tensor, x_NH: Tensor, weight_H: Tensor, rstd_N: Tensor, skip_NH: Tensor
) -> Tensor:
    """Gradient of x, which went through the norm (dy) and past it (skip); overwrites dy."""
    if can_run(x_NH):
        _call("rms_norm_backward", dy_NH, x_NH, weight_H, rstd_N, skip_NH, dy_NH, *x_NH.shape)
        return dy_NH
    wide, scale = x_NH.float(), rstd_N[:, None]
    inner = dy_NH.float() * weight_H.float()
    back = (inner * wide).sum(-1, keepdim=True) * scale**3 / x_NH.shape[1]
    return (inner * scale - wide * back + skip_NH.float()).to(x_NH.dtype)


def rotate(x_NAD: Tensor, cos_NR: Tensor, sin_NR: Tensor, *, back: bool = False) -> Tensor:
    """Rotary positions on heads, in place; R = D / 2, cos and sin fp32. back: the inverse."""
    sign = -1.0 if back else 1.0
    if can_run(x_NAD):
        _call("rotate", x_NAD, cos_NR, sin_NR, *x_NAD.shape, sign)
        return x_NAD
    lower, upper = x_NAD.float().chunk(2, dim=-1)
    cosine, sine = cos_NR[:, None], sin_NR[:, None] * sign
    turned = torch.cat([lower * cosine - upper * sine, upper * cosine + lower * sine], dim=-1)
    return x_NAD.copy_(turned)


def silu_mul(gate_NI: Tensor, up_NI: Tensor) -> Tensor:
    """silu(gate) times up."""
    if can_run(gate_NI):
        y_NI = torch.empty_like(gate_NI)
        _call("silu_mul", gate_NI, up_NI, y_NI, gate_NI.numel())
        return y_NI
    return F.silu(gate_NI) * up_NI


def silu_mul_backward(
    dy_NI: Tensor, gate_NI: Tensor, up_NI: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(gradient of gate, gradient of up, silu(gate) times up again); may overwrite all three."""
    if can_run(gate_NI):
        _call("silu_mul_backward", dy_NI, gate_NI, up_NI, gate_NI.numel())
        return gate_NI, up_NI, dy_NI
    share = torch.sigmoid(gate_NI)
    silu = gate_NI * share
    slope = share * (1 + gate_NI * (1 - share))
    return dy_NI * up_NI * slope, dy_NI * silu, silu * up_NI


def attention(
    q_NAD: Tensor, k_NGD: Tensor, v_NGD: Tensor, starts_R1: Tensor, scale: float, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """(output as q, log of the sum of exponentials (N, A) fp32): each row sees only itself."""
    if can_run(q_NAD) and q_NAD.shape[2] % 16 == 0:
        out = torch.empty_like(q_NAD)
        lse = torch.empty(q_NAD.shape[:2], dtype=torch.float32)
        _call("attention", q_NAD, k_NGD, v_NGD, starts_R1, *_sizes(q_NAD, k_NGD, starts_R1),
              float(scale), causal, out, lse)  # fmt: skip
        return out, lse
    outs, sums = [], []
    for q, k, v in _rows(starts_R1, q_NAD, k_NGD, v_NGD):
        probabilities, lse = _probabilities(q, k, scale, causal)
        outs.append(torch.einsum("aqk,kad->qad", probabilities, _spread(v, q).float()))
        sums.append(lse.t())
    return torch.cat(outs).to(q_NAD.dtype), torch.cat(sums)


def attention_backward(
    dout: Tensor, q_NAD: Tensor, k_NGD: Tensor, v_NGD: Tensor, out: Tensor, lse_NA: Tensor,
    starts_R1: Tensor, scale: float, *, causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k and v."""
    if can_run(q_NAD) and q_NAD.shape[2] % 16 == 0:
        dq, dk, dv = torch.empty_like(q_NAD), torch.empty_like(k_NGD), torch.empty_like(v_NGD)
        _call("attention_backward", dout, q_NAD, k_NGD, v_NGD, out, lse_NA, starts_R1,
              *_sizes(q_NAD, k_NGD, starts_R1), float(scale), causal, dq, dk, dv)  # fmt: skip
        return dq, dk, dv
    parts = []
    for d, q, k, v, o in _rows(starts_R1, dout, q_NAD, k_NGD, v_NGD, out):
        probabilities, _ = _probabilities(q, k, scale, causal)
        wide, (_, heads, width) = d.float(), k.shape
        share = q.shape[1] // heads
        dprob = torch.einsum("qad,kad->aqk", wide, _spread(v, q).float())
        delta = (wide * o.float()).sum(-1).t()[:, :, None]
        dscore = probabilities * (dprob - delta) * scale
        dq_row = torch.einsum("aqk,kad->qad", dscore, _spread(k, q).float())
        dk_row = (
            torch.einsum("aqk,qad->kad", dscore, q.float()).view(-1, heads, share, width).sum(2)
        )
        dv_row = (
            torch.einsum("aqk,qad->kad", probabilities, wide).view(-1, heads, share, width).sum(2)
        )
        parts.append((dq_row, dk_row, dv_row))
    dq, dk, dv = (torch.cat(column).to(q_NAD.dtype) for column in zip(*parts, strict=True))
    return dq, dk, dv


def _sizes(q_NAD: Tensor, k_NGD: Tensor, starts_R1: Tensor) -> tuple[int, int, int, int]:
    return starts_R1.numel() - 1, q_NAD.shape[1], k_NGD.shape[1], q_NAD.shape[2]


def _rows(starts_R1: Tensor, *tensors: Tensor) -> Any:
    lengths = starts_R1.diff().tolist()
    return zip(*(torch.split(tensor, lengths) for tensor in tensors), strict=True)


def _spread(x_TGD: Tensor, q_TAD: Tensor) -> Tensor:
    """One key head for each query head."""
    return x_TGD.repeat_interleave(q_TAD.shape[1] // x_TGD.shape[1], dim=1)


def _probabilities(q: Tensor, k: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    scores = torch.einsum("qad,kad->aqk", q.float(), _spread(k, q).float()) * scale
    if causal:
        future = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    lse = scores.logsumexp(-1)
    return (scores - lse[:, :, None]).exp(), lse


def cross_entropy_and_gradient(
    logits_NV: Tensor, target_N: Tensor, weight_N: Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """(losses_N fp32, weight times the gradient of each logit); may reuse the logits."""
    if can_run(logits_NV):
        losses_N = torch.empty(logits_NV.shape[0], dtype=torch.float32)
        _call("cross_entropy", logits_NV, target_N, weight_N, losses_N, *logits_NV.shape,
              float(label_smoothing))  # fmt: skip
        return losses_N, logits_NV
    wide = logits_NV.float()
    losses_N = F.cross_entropy(wide, target_N, reduction="none", label_smoothing=label_smoothing)
    gradient = wide.softmax(-1) - label_smoothing / wide.shape[1]
    place = torch.arange(target_N.numel(), device=target_N.device)
    gradient[place, target_N] -= 1.0 - label_smoothing
    return losses_N, (gradient * weight_N[:, None]).to(logits_NV.dtype)
