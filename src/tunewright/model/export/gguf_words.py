"""The vocabulary part of a GGUF file: tokens, merges, special tokens, chat template.

Two kinds of tokenizer are written: byte-level BPE ("gpt2" in the format) and sentencepiece-like
BPE with byte fallback ("llama"). llama.cpp cuts text before the merges by a rule that is known by
name; the name is found from the tokenizer's own expression.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tunewright.errors import ModelError
from tunewright.model.load import Base

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUTS = {LLAMA3: "llama-bpe", LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"): "qwen2"}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def write_vocabulary(writer: Any, base: Base, ends: Sequence[int]) -> None:
    """Write the tokenizer. ends: ids that end an answer, the first being the usual one.

    Raises ModelError for a tokenizer that the format cannot say.
    """
    tokenizer = base.tokenizer
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    model = core["model"]
    if model.get("type") != "BPE":
        raise ModelError(
            f"gguf: a {model.get('type')} tokenizer is not written here; --to merged instead"
        )
    tokens, types = _tokens(core, base)
    if model.get("byte_fallback"):
        if types.count(BYTE) < 256:
            raise ModelError(
                "gguf: this tokenizer has no tokens for single bytes, and llama.cpp breaks off at "
                "the first character that it does not know; --to merged instead"
            )
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores([-float(number) for number in range(len(tokens))])
        writer.add_add_space_prefix(_adds_space(core))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(find_cut(core))
        writer.add_token_merges(_merges(model))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    _write_special(writer, tokenizer, ends)
    # A template that tunewright added says how the model was trained, so it travels too.
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def find_cut(core: dict[str, Any]) -> str:
    """llama.cpp's name of the rule that cuts text before merging. Raises ModelError."""
    steps = core.get("pre_tokenizer") or {}
    parts = steps.get("pretokenizers", [steps])
    kinds = [part.get("type") for part in parts]
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        pattern = (parts[0].get("pattern") or {}).get("Regex")
        if pattern in CUTS:
            return CUTS[pattern]
    steps_said = "+".join(map(str, kinds))
    raise ModelError(
        f"gguf: llama.cpp has no name for how this tokenizer cuts text ({steps_said}); "
        "--to merged gives a folder that other converters read"
    )


def _tokens(core: dict[str, Any], base: Base) -> tuple[list[str], list[int]]:
    """Token texts and their types, filled up to the rows of the embedding."""
    vocabulary: dict[str, int] = dict(core["model"]["vocab"])
    added = {item["content"]: item for item in core.get("added_tokens", ())}
    vocabulary.update({text: item["id"] for text, item in added.items()})
    size = int(base.plain.get_input_embeddings().weight.shape[0])
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [UNUSED] * size
    unknown = core["model"].get("unk_token")
    for text, number in vocabulary.items():
        if number >= size:
            raise ModelError(f"gguf: token {text!r} has no row in the embedding of the model")
        tokens[number] = text
        types[number] = NORMAL
        if text in added:
            types[number] = CONTROL if added[text]["special"] else USER_DEFINED
        elif text == unknown:
            types[number] = UNKNOWN
        elif core["model"].get("byte_fallback") and _is_byte(text):
            types[number] = BYTE
    return tokens, types


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def _merges(model: dict[str, Any]) -> list[str]:
    return [item if isinstance(item, str) else " ".join(item) for item in model["merges"]]


def _adds_space(core: dict[str, Any]) -> bool:
    text = json.dumps([core.get("normalizer"), core.get("pre_tokenizer")])
    return '"Prepend"' in text or '"prepend_scheme": "always"' in text.replace("'", '"')


def _write_special(writer: Any, tokenizer: Any, ends: Sequence[int]) -> None:
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    end = ends[0] if ends else tokenizer.eos_token_id
    if end is not None:
        writer.add_eos_token_id(end)
    others = [number for number in ends[1:] if number != end]
    if others:
        writer.add_eot_token_id(others[0])
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(bool(ids) and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(bool(ids) and ids[-1] == tokenizer.eos_token_id)
