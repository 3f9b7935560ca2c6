"""Data with a planted truth, and a base so small that a training takes a second.

Each text holds one keyword of its label among filler words. Few keywords per label and every
label's keywords seen early make a plateau; hundreds of keywords, each seen rarely, a steep curve.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

NUM_LABELS = 4
FILLERS = 60


def make_base(folder: Path, *, num_words: int = 3000, hidden: int = 64) -> Path:
    """A random one-layer BERT that knows whole words, saved in the layout of Hugging Face."""
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*names, *(f"w{i}" for i in range(num_words)), *(f"f{i}" for i in range(FILLERS))]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )  # fmt: skip
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_max_length=64,
    )  # fmt: skip
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=hidden, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=2 * hidden, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def write_rows(
    path: Path, *, num_rows: int, keywords: int, noise: float, shuffled: bool, seed: int
) -> Path:
    """A csv of text and label. keywords: different ones per label, Zipf-distributed where many.

    noise: share of labels drawn at random. shuffled: every label belongs to some other text.
    """
    dice = np.random.default_rng(seed)
    labels = dice.integers(0, NUM_LABELS, num_rows)
    ranks = np.arange(1, keywords + 1, dtype=float)
    chances = ranks**-0.7 if keywords > 20 else np.ones(keywords)
    picks = dice.choice(keywords, num_rows, p=chances / chances.sum())
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        told = np.where(
            dice.random(num_rows) < noise, dice.integers(0, NUM_LABELS, num_rows), labels
        )
        told = dice.permutation(told) if shuffled else told
        for label, pick, shown in zip(labels, picks, told, strict=True):
            filler = [f"f{i}" for i in dice.integers(0, FILLERS, 5)]
            words = [*filler, f"w{label * keywords + pick}"]
            writer.writerow([" ".join(dice.permutation(words)), f"label-{shown}"])
    return path
