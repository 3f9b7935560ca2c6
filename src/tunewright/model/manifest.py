"""tunewright.json beside a saved model: reading it, and whether the files are those it speaks of.

And whether an adapter's tensors are those that its base has places for. weights.py writes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tunewright.errors import ModelError
from tunewright.model import safety
from tunewright.model.catalog import MANIFEST, ModelSource
from tunewright.model.peft_quietly import peft

FORMAT = 1


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """tunewright.json of a saved model, or None where it was made elsewhere."""
    path = folder / MANIFEST
    return safety.read_model_json(path) if path.exists() else None


def checked_manifest(source: ModelSource) -> dict[str, Any] | None:
    """The manifest, after comparing its hashes with the files; labels are a list, task is there.

    Raises ModelError where the weights, or the base of an adapter, are not those of training.
    """
    manifest = read_manifest(source.path)
    if manifest is None:
        return None
    place = source.path / MANIFEST
    if manifest.get("format") != FORMAT or not isinstance(manifest.get("base"), dict):
        raise ModelError(f"{place}: format {manifest.get('format')!r} unknown; use the tunewright "
                         "version that wrote it")  # fmt: skip
    wanted = manifest.get("weights_sha256")
    if wanted and wanted != source.sha256:
        raise ModelError(
            f"{source.weights[0]}: sha256 {source.sha256} is not {wanted}, with which it was "
            "saved; the file was damaged or changed, restore it"
        )
    wanted = manifest["base"].get("sha256")
    if source.base and wanted and wanted != source.base.sha256:
        raise ModelError(
            f"{source.path}: trained on a base with sha256 {wanted}, but {source.base.path} has "
            f"{source.base.sha256}; restore the base that it was trained on"
        )
    labels = manifest.get("labels")
    manifest["labels"] = [str(label) for label in labels] if isinstance(labels, list) else []
    manifest["multi_label"] = bool(manifest.get("multi_label"))
    manifest.setdefault("task", None)
    return manifest


def does_not_fit(source: ModelSource, error: Exception) -> ModelError:
    """What to raise where PEFT could not put an adapter on its base."""
    return ModelError(
        f"{source.path}: adapter does not fit its base ({safety.first_line(error)}); restore "
        "both from one run"
    )


def check_tensors(adapted: Any, source: ModelSource, held: Iterable[str]) -> None:
    """Raise ModelError where the PEFT model has places that no tensor of the file was for.

    held: names of the tensors that were put on it.
    """
    wanted = set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))
    lacking = sorted(wanted - set(held))
    if lacking:
        raise ModelError(
            f"{source.weights[0]}: lacks {lacking[0]} ({len(lacking)} tensors); restore the file"
        )
