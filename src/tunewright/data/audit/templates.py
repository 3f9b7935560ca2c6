"""Traces of prompt templates in the rows: special tokens inside texts, markers that never close,
placeholders that nobody filled, completions that lack the end mark of the others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from tunewright.data.audit.material import AuditMaterial
from tunewright.data.audit.passes import (
    Noted,
    Wording,
    answers_of,
    note_rows,
    texts_of,
    watched,
)
from tunewright.records import Example, Finding

# Markers of the common templates; those of the tokenizer at hand come by argument.
_MARKERS = re.compile(
    r"<\|[A-Za-z0-9_]{2,30}\|>|<｜[^<>｜]{2,30}｜>|\[/?INST\]|<</?SYS>>|</?s>(?!\w)"
    r"|<(?:start_of_turn|end_of_turn|bos|eos|pad|unk|sep|cls|mask)>|\[(?:CLS|SEP|MASK|PAD|UNK"
    r"|EOS|BOS)\]"
)
_STRIKE = re.compile(r"<s>[^<]{1,200}</s>")  # HTML's strike-through, not a beginning and end
_PAIRS = (
    ("<think>", "</think>"),
    ("<|im_start|>", "<|im_end|>"),
    ("[INST]", "[/INST]"),
    ("<<SYS>>", "<</SYS>>"),
    ("<start_of_turn>", "<end_of_turn>"),
    ("<tool_call>", "</tool_call>"),
    ("<|start_header_id|>", "<|end_header_id|>"),
    ("<answer>", "</answer>"),
)
_FENCE = re.compile(r"^\s{0,3}```", re.MULTILINE)
_PLACEHOLDER = re.compile(
    r"\{\{ ?[A-Za-z_][\w .-]{0,40} ?\}\}"
    r"|\[(?:your|insert|enter|company|customer|recipient|client|sender"
    r"|product)(?: [A-Za-z]+){0,3}\]"
    r"|<(?:insert|your)[ _][\w ]{1,30}>",
    re.IGNORECASE,
)
_END_MARK = re.compile(r"(</?\w{1,12}>|<\|\w{2,30}\|>|#{2,}|[A-Z_]{3,12}|\[[A-Z]{2,8}\])\s*$")
MIN_ANSWERS = 20
USUAL_SHARE = 0.8

WORDINGS = {
    "special_tokens": Wording(
        "hold special tokens inside their text",
        remedy="a tokenizer may read them as the real ones and end the text there; take them out",
    ),
    "open_template": Wording("open a marker that they never close", remedy="complete or drop them"),
    "unfilled_placeholder": Wording(
        "hold a placeholder that nobody filled", remedy="fill or drop them", subject_from=0.05
    ),
}


def find_template_traces(
    material: AuditMaterial, *, special_tokens: Sequence[str] = ()
) -> list[Finding]:
    """Rows with special tokens in their text, open markers or unfilled placeholders.

    special_tokens: those of the tokenizer at hand, beside the common ones.
    """
    own = [token for token in special_tokens if len(token) > 2 and not token.isspace()]
    known = re.compile("|".join(map(re.escape, own))) if own else None
    look = partial(_look, known)
    return note_rows(material, "looking for template traces", look, WORDINGS)


def _look(known: re.Pattern[str] | None, example: Example) -> Iterator[tuple[str, str]]:
    for _, text in texts_of(example):
        if "<" in text or "[" in text or known:
            plain = _STRIKE.sub("", text) if "<s>" in text else text
            marker = _MARKERS.search(plain) or (known.search(plain) if known else None)
            if marker:
                yield "special_tokens", marker.group()
        if "{{" in text or "[" in text or "<" in text:
            placeholder = _PLACEHOLDER.search(text)
            if placeholder:
                yield "unfilled_placeholder", placeholder.group()
    for text in answers_of(example) if example.messages else (example.input,):
        opened = find_open_marker(text)
        if opened:
            yield "open_template", opened


def find_open_marker(text: str) -> str:
    """The first marker that a text opens more often than it closes; empty where all are closed."""
    if "<" in text or "[" in text:
        for opening, closing in _PAIRS:
            if text.count(opening) > text.count(closing):
                return opening
    if "```" in text and len(_FENCE.findall(text)) % 2:
        return "```"
    return ""


def find_missing_ends(material: AuditMaterial) -> list[Finding]:
    """Completions that lack the end mark (" END", "###", "</s>") with which the others end."""
    if material.layout.task not in ("generate", "chat"):
        return []
    marks: Counter[str] = Counter()
    total = 0
    for example in watched(material, "looking at how completions end"):
        total += 1
        mark = _END_MARK.search(str(example.output or "")[-40:])
        marks[mark.group(1) if mark else ""] += 1
    usual, times = max(
        ((mark, times) for mark, times in marks.items() if mark),
        key=lambda m: m[1],
        default=("", 0),
    )
    if total < MIN_ANSWERS or times < USUAL_SHARE * total or times == total:
        return []
    noted = Noted()
    for example in watched(material, "looking for missing ends"):
        if not str(example.output or "").rstrip().endswith(usual):
            noted.add("missing_end", example)
    what = f"lack the end mark {usual!r} that {times:,} of {total:,} completions have"
    return noted.findings({"missing_end": Wording(what, remedy="add it")}, total)
