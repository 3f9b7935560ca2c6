"""The safetensors format, written piece by piece so that hashing needs no second read.

Layout: header length (8 bytes, little-endian), JSON header, raw data. The result loads in the
safetensors library; names and the order of the given mapping are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Types that a file can hold, by their safetensors names."""
_NAMED_DTYPES = {name: dtype for dtype, name in DTYPES.items()}


def tensor_chunks(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """The bytes of a safetensors file; never more than one tensor is copied at a time.

    Raises TypeError for a dtype that DTYPES lacks, before anything is yielded.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name}: {tensor.dtype} has no place in a checkpoint")
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data starts aligned
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        flat = tensor.detach().to("cpu").contiguous().flatten()
        if flat.numel():
            yield flat.view(torch.uint8).numpy().data


def tensors_in(data: bytearray) -> dict[str, Tensor]:
    """Tensors of a safetensors file; they share the memory of `data`.

    Raises ValueError, KeyError, TypeError or RuntimeError when it is not one.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {name: _tensor(data, start, about) for name, about in header.items()}


def _tensor(data: bytearray, start: int, about: Mapping[str, Any]) -> Tensor:
    dtype, shape = _NAMED_DTYPES[about["dtype"]], about["shape"]
    begin, end = about["data_offsets"]
    if begin == end:  # frombuffer refuses an empty one
        return torch.empty(shape, dtype=dtype)
    count = (end - begin) // dtype.itemsize
    flat = torch.frombuffer(data, dtype=dtype, count=count, offset=start + begin)
    return flat.reshape(shape)
