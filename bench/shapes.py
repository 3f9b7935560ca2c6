"""Models of a given shape with random weights, for benchmarks of speed: made on the spot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SHAPES: dict[str, dict[str, Any]] = {
    "15m": {
        "hidden_size": 288, "num_hidden_layers": 6, "num_attention_heads": 6,
        "num_key_value_heads": 6, "intermediate_size": 768, "vocab_size": 32_000,
    },
    "135m": {
        "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49_152,
    },
}  # fmt: skip


def make_shape(name: str, folder: Path, seed: int = 0) -> Path:
    """A Llama-shaped model folder with random weights and a byte-level tokenizer."""
    config = transformers.LlamaConfig(
        **SHAPES[name], max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(config)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: i for i, text in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        model_max_length=2048,
    )  # fmt: skip
    path = folder / name
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def shared_data(name: str) -> Path:
    """A folder of the shared data, which is no part of the project. Exits where it is missing."""
    root = os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[2] / "shared" / "data"
    path = Path(root) / name
    if not path.exists():
        raise SystemExit(f"{path}: not here; set TUNEWRIGHT_DATA")
    return path
