"""Tokenizers: loading one with a pad token and a chat template, and what it cannot write."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import transformers

from tunewright.errors import ModelError
from tunewright.model.catalog import ModelSource
from tunewright.model.chat_template import DEFAULT_CHAT_TEMPLATE, check_template
from tunewright.model.safety import first_line

# Names under which vocabularies keep a token meant for padding, when the config forgets it.
_PAD_NAMES = ("<|finetune_right_pad_id|>", "<|finetune_right_pad|>", "<pad>", "[PAD]", "<|pad|>")
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt",
    "vocab.json", "tekken.json",
)  # fmt: skip


def has_tokenizer(source: ModelSource) -> bool:
    """Whether the folder itself holds a tokenizer."""
    return any((source.path / name).exists() for name in _TOKENIZER_FILES)


def load_tokenizer(source: ModelSource, kind: str, trust_remote_code: bool) -> tuple[Any, bool]:
    """(tokenizer with a pad token and a chat template, whether the template is ours).

    kind: as load.Kind; decoders are padded on the left. Raises ModelError.
    """
    folders = [item.path for item in (source, source.base) if item is not None]
    folder = next((f for f in folders if any((f / n).exists() for n in _TOKENIZER_FILES)), None)
    if folder is None:
        raise ModelError(
            f"{folders[-1]}: no tokenizer (tokenizer.json, tokenizer.model or vocab.txt); copy the "
            "model's tokenizer files there"
        )
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # tokenizers fail in as many ways as there are formats
        raise ModelError(
            f"{folder}: tokenizer cannot be loaded ({first_line(error)}); download it again"
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # some files fix a length; ours is chosen per run
        backend.no_truncation()
        backend.no_padding()
    _ensure_pad(tokenizer, folder)
    tokenizer.padding_side = "left" if kind == "decoder" else "right"
    tokenizer.clean_up_tokenization_spaces = False
    # Rows are cut here, so the library's warning of long ones would be a false alarm.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    if tokenizer.chat_template or kind == "encoder":
        _check_templates(tokenizer.chat_template, folder)
        return tokenizer, False
    tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
    return tokenizer, True


def _check_templates(templates: Any, folder: Path) -> None:
    """Some tokenizers bring several, by name."""
    for template in (templates or {}).values() if isinstance(templates, dict) else [templates]:
        if isinstance(template, str):
            check_template(template, str(folder))


def _ensure_pad(tokenizer: Any, folder: Path) -> None:
    """Give the tokenizer a pad token that the vocabulary has; embeddings stay as they are."""
    if tokenizer.pad_token_id is not None:
        return
    vocabulary = tokenizer.get_vocab()
    name = next((item for item in _PAD_NAMES if item in vocabulary), None)
    name = name or tokenizer.eos_token or tokenizer.unk_token
    if name is None:
        raise ModelError(
            f"{folder}: tokenizer has neither pad, eos nor unk token; name one of them"
        )
    tokenizer.pad_token = name


def unknown_pieces(tokenizer: Any, texts: Iterable[str]) -> dict[str, int]:
    """Piece of text -> how often it stands in `texts`, for pieces the tokenizer cannot represent.

    A piece is a character that yields no token at all (tokenizers without byte fallback drop it),
    or a word that becomes the unknown token. Empty when everything can be written.
    """
    rows = list(texts)
    counts = Counter(character for text in rows for character in text)
    lost = {c: n for c, n in counts.items() if _may_be_lost(c) and _vanishes(tokenizer, c)}
    for piece, count in _unknown_words(tokenizer, rows).items():
        if not any(character in lost for character in piece):
            lost[piece] = count
    return dict(sorted(lost.items(), key=lambda item: (-item[1], item[0])))


def _may_be_lost(character: str) -> bool:
    """Spaces, control characters and combining marks are normalised away on purpose."""
    return unicodedata.category(character)[0] not in "ZC" and not unicodedata.combining(character)


def _vanishes(tokenizer: Any, character: str) -> bool:
    """True when a letter's neighbours come back from the tokenizer and the character does not."""
    with_it = tokenizer(f"a{character}a", add_special_tokens=False)["input_ids"]
    without = tokenizer("aa", add_special_tokens=False)["input_ids"]
    apart = tokenizer("a a", add_special_tokens=False)["input_ids"]
    alone = tokenizer(character, add_special_tokens=False)["input_ids"]
    nothing = tokenizer(" ", add_special_tokens=False)["input_ids"]
    empty = tokenizer("", add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in alone:
        return True
    silent = alone in (nothing, empty) or not tokenizer.decode(alone).strip()
    letters = "aa" in tokenizer.decode(without)
    return silent and (not letters or with_it in (without, apart))


def _unknown_words(tokenizer: Any, rows: list[str]) -> Counter[str]:
    """Words that become the unknown token, found by character offsets (fast tokenizers)."""
    unknown = tokenizer.unk_token_id
    found: Counter[str] = Counter()
    if unknown is None or not tokenizer.is_fast:
        return found
    for start in range(0, len(rows), 1000):
        part = rows[start : start + 1000]
        if not part:
            break
        encoded = tokenizer(part, add_special_tokens=False, return_offsets_mapping=True)
        for text, ids, spans in zip(
            part, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            found.update(text[a:b] for i, (a, b) in zip(ids, spans, strict=True) if i == unknown)
    return found
