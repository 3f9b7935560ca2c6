"""Texts as vectors of unit length: token states pooled, and the files that tell other tools how.

A folder of task embed loads in sentence-transformers (modules.json, 1_Pooling, 2_Normalize) and in
plain transformers (AutoModel), where the pooling is up to the reader.

Shapes: B texts, T tokens, H hidden.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunewright.model.load import POOLINGS, Base
from tunewright.store import write_json

MODULES = "sentence_transformers.models"
FILES = (
    "modules.json", "1_Pooling", "2_Normalize", "sentence_bert_config.json",
    "config_sentence_transformers.json",
)  # fmt: skip
"""What `save_modules` writes."""


def embed(model: nn.Module, ids_BT: Tensor, mask_BT: Tensor | None, pooling: str) -> Tensor:
    """(B, H) float32 vectors of unit length. mask_BT: 1 on tokens, None where nothing is padded."""
    states_BTH = model(input_ids=ids_BT, attention_mask=mask_BT)[0].float()
    mask_BT = torch.ones_like(ids_BT) if mask_BT is None else mask_BT
    if pooling == "cls":
        pooled_BH = states_BTH[:, 0]
    elif pooling == "last":
        last_B = mask_BT.sum(dim=1) - 1
        pooled_BH = states_BTH[torch.arange(len(last_B), device=last_B.device), last_B]
    else:
        weights_BT1 = mask_BT[..., None].float()
        pooled_BH = (states_BTH * weights_BT1).sum(1) / weights_BT1.sum(1).clamp(min=1.0)
    return F.normalize(pooled_BH, dim=1)


def copy_modules(source: Path, folder: Path) -> None:
    """What `save_modules` left in a saved model's folder, into an exported one."""
    for name in FILES:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name)
        elif (source / name).exists():
            shutil.copy(source / name, folder / name)


def save_modules(base: Base, folder: Path, extra: Mapping[str, Any]) -> None:
    """What sentence-transformers reads beside the weights: pooling, length and prompts."""
    parts = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"{MODULES}.{name}"}
        for number, (path, name) in enumerate(parts)
    ]
    prompts = extra.get("prompts") or ("", "")
    names = {"query": prompts[0], "document": prompts[1]}
    for path in ("1_Pooling", "2_Normalize"):
        (folder / path).mkdir()
    write_json(folder / "modules.json", modules)
    longest = int(extra.get("max_length") or 512)
    settings = {"max_seq_length": longest, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", settings)
    likeness = {"prompts": names, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", likeness)
    size = int(base.plain.config.get_text_config().hidden_size)
    chosen = {key: name == base.pooling for key, name in POOLINGS.items()}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": size, **chosen})
