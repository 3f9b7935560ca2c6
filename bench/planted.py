"""Data with a planted truth, and a base so small that a training takes a second.

The base is a one-layer BERT over whole words. Its word embeddings are planted: words of one topic
lie around one centre, as pre-training would put them, so it can generalise from words that it saw
in training to words that it did not, which counting words cannot.
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np

WORDS = 9600
"""Shared evenly by the topics: too many for a thousand rows to show each of them."""
FILLERS = 60


def word(topic: int, number: int) -> str:
    """A name whose letters do not tell the topic, lest character n-grams read it off."""
    return hashlib.sha256(f"{topic} {number}".encode()).hexdigest()[:10]


def make_base(folder: Path, *, topics: int = 4, spread: float = 0.5, hidden: int = 64) -> Path:
    """The base, as Hugging Face lays it out. spread: of words around their topic's centre."""
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"f{i}" for i in range(FILLERS))]
    words = [*names, *(word(t, i) for t in range(topics) for i in range(WORDS // topics))]
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
    model = transformers.BertModel(config)
    with torch.no_grad():
        table = model.embeddings.word_embeddings.weight
        centres = torch.randn(topics, hidden).repeat_interleave(WORDS // topics, 0)
        table[len(names) :] = centres + spread * torch.randn(centres.shape)
        table[5 : len(names)] = 0.1 * torch.randn(FILLERS, hidden)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    # As a sentence encoder says it: its states are to be averaged.
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return folder


def write_rows(
    path: Path,
    *,
    num_rows: int,
    topics: int,
    noise: float = 0.0,
    shuffled: bool = False,
    seed: int = 1,
) -> Path:
    """A csv of text and label: two words of the label's topic among six that say nothing.

    noise: share of labels drawn at random. shuffled: every label belongs to some other text.
    """
    dice = np.random.default_rng(seed)
    labels = dice.integers(0, topics, num_rows)
    drawn = dice.integers(0, topics, num_rows)
    told = np.where(dice.random(num_rows) < noise, drawn, labels)
    told = dice.permutation(told) if shuffled else told
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for label, shown in zip(labels, told, strict=True):
            words = [f"f{i}" for i in dice.integers(0, FILLERS, 6)]
            words += [word(label, i) for i in dice.integers(0, WORDS // topics, 2)]
            writer.writerow([" ".join(dice.permutation(words)), f"label-{shown:02d}"])
    return path
