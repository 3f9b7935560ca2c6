"""ONNX files of encoders, with free batch and token axes, for onnxruntime and its kin."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import ModelError
from tunewright.model.load import Base, longest_input, quiet

MODEL_FILE = "model.onnx"
INPUTS = ("input_ids", "attention_mask")
LARGE_BYTES = 1_900_000_000
"""Above this the format keeps weights in a second file."""


def save_onnx(base: Base, folder: Path) -> None:
    """Write model.onnx, tokenizer and config into `folder`.

    ids and mask in, logits out; of models that embed, token states (last_hidden_state).

    Raises ModelError for decoders, and where the exporter is not installed or fails.
    """
    if base.kind != "encoder":
        raise ModelError(
            f"onnx: {base.plain.config.model_type} is not an encoder; use --to gguf or --to merged"
        )
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError:
        raise ModelError("onnx: not installed; pip install 'tunewright[export]'") from None
    example = base.tokenizer(
        ["a few words to trace with", "and some"], padding=True, return_tensors="pt"
    )
    batch = torch.export.Dim("batch")
    tokens = torch.export.Dim("tokens", max=longest_input(base) or 512)
    axes = {name: {0: batch, 1: tokens} for name in INPUTS}
    large = base.num_parameters * 4 > LARGE_BYTES
    with warnings.catch_warnings(), quiet(), _silent_loggers():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                _Outputs(base.plain).eval(),
                tuple(example[name] for name in INPUTS),
                folder / MODEL_FILE,
                input_names=list(INPUTS),
                output_names=["last_hidden_state" if base.task == "embed" else "logits"],
                dynamic_shapes=axes,
                external_data=large,
                verbose=False,
            )
        except Exception as error:  # the exporter fails in many ways for odd architectures
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"onnx: {base.plain.config.model_type} cannot be exported ({first[:120]}); use "
                "--to merged"
            ) from error
        base.tokenizer.save_pretrained(folder)
        base.plain.config.save_pretrained(folder)


def open_onnx(folder: Path) -> Any:
    """An onnxruntime session on an exported folder. Raises ModelError where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise ModelError("onnx: not installed; pip install 'tunewright[export]'") from None
    return onnxruntime.InferenceSession(
        str(folder / MODEL_FILE), providers=["CPUExecutionProvider"]
    )


@contextmanager
def _silent_loggers() -> Iterator[None]:
    """torch's exporter warns of every library that it could have used and that is not there."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def outputs_of(found: Any) -> Tensor:
    """Logits of a model's output, or the token states of one without a head."""
    values: Tensor = found.logits if "logits" in found else found.last_hidden_state
    return values


class _Outputs(nn.Module):
    """ids and mask in, logits or states out; nothing else of transformers' output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return outputs_of(self.model(input_ids=input_ids, attention_mask=attention_mask))
