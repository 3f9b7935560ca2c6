"""Checkpoints as models: the tuned model's folder with the weights of an earlier step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tunewright.errors import RunError
from tunewright.jobs.folder import JobFolder
from tunewright.journal import Journal
from tunewright.model.catalog import MANIFEST
from tunewright.model.safety import find_weights, weights_sha256
from tunewright.store import read_json, write_json
from tunewright.train.resume import load_checkpoint

MASTER = "master."


def make_checkpoint_models(
    folder: JobFolder, steps: list[int], journal: Journal
) -> list[tuple[int, Path]]:
    """A model folder for each of these checkpoints that can stand alone: (step, folder)."""
    made = []
    for step in steps:
        target = folder.checkpoint_models / f"step-{step}"
        try:
            if not (target / MANIFEST).exists():
                _make(folder, step, target)
            made.append((step, target))
        except (RunError, KeyError, ValueError) as error:
            journal.warn(f"the checkpoint of step {step} is not offered as a model: {error}")
    return made


def _make(folder: JobFolder, step: int, target: Path) -> None:
    weights = load_checkpoint(folder.run.checkpoints / f"step-{step:08d}").tensors
    masters = {
        _plain(name.removeprefix(MASTER)): tensor
        for name, tensor in weights.items()
        if name.startswith(MASTER)
    }
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder.run.model, temporary)
    try:
        for path in temporary.glob("*.safetensors"):
            _replace(path, masters)
        if masters:
            raise ValueError(f"{next(iter(masters))} has no place in the model's files")
        manifest = read_json(temporary / MANIFEST)
        manifest["weights_sha256"] = weights_sha256(find_weights(temporary))
        # Confidences were fitted to other weights.
        write_json(temporary / MANIFEST, {**manifest, "checkpoint_step": step})
        shutil.rmtree(target, ignore_errors=True)
        os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(path: Path, masters: dict[str, torch.Tensor]) -> None:
    """Put the masters that this file has a place for into it, and take them from the table."""
    with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
        about: Mapping[str, Any] = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, tensor in tensors.items():
        new = masters.pop(_plain(name), None)
        if new is not None:
            if new.shape != tensor.shape:
                raise ValueError(f"{name} has another shape than in the checkpoint")
            tensors[name] = new.to(tensor.dtype).contiguous()
    save_file(tensors, path, metadata=dict(about))


def _plain(name: str) -> str:
    """A parameter's name as the file has it: without PEFT's name of the adapter."""
    return name.replace(".default.", ".").removesuffix(".default")
