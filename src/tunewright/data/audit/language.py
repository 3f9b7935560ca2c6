"""Rows in another language than most. py3langid (BSD) tells it, offline, from byte n-grams."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from functools import lru_cache
from typing import Any

from tunewright.data.audit.material import AuditMaterial
from tunewright.data.audit.passes import Noted, Wording, watched
from tunewright.records import Example, Finding

MIN_LETTERS = 40
"""Below this a guess is worth little: names and loan words decide."""
MIN_WORDS = 5
READ_CHARS = 300
SURE = 0.95
MOSTLY = 0.7
"""Share of the rows that one language must have for the others to be odd."""
NAMES = {
    "en": "English", "de": "German", "fr": "French", "es": "Spanish", "it": "Italian",
    "nl": "Dutch", "pt": "Portuguese", "pl": "Polish", "sv": "Swedish", "da": "Danish",
    "no": "Norwegian", "nb": "Norwegian", "fi": "Finnish", "cs": "Czech", "tr": "Turkish",
    "ru": "Russian", "uk": "Ukrainian", "zh": "Chinese", "ja": "Japanese", "ko": "Korean",
    "ar": "Arabic", "he": "Hebrew", "hi": "Hindi", "el": "Greek", "ro": "Romanian",
    "hu": "Hungarian",
}  # fmt: skip


def find_other_languages(material: AuditMaterial) -> list[Finding]:
    """Rows whose text is surely in another language than seven of ten; inputs and answers apart."""
    parts = ("input", "answer") if material.layout.task in ("generate", "chat") else ("input",)
    seen: dict[str, Counter[str]] = {part: Counter() for part in parts}
    found: dict[tuple[str, str], array[int]] = defaultdict(lambda: array("q"))
    for number, example in enumerate(watched(material, "telling languages")):
        for part in parts:
            code = tell_language(_text(example, part))
            if code:
                seen[part][code] += 1
                found[part, code].append(number)
    usual = {part: _usual(counts) for part, counts in seen.items()}
    notes = {
        number: f"{NAMES.get(code, code)} {part}"
        for (part, code), numbers in reversed(found.items())
        for number in numbers
        if usual[part] and code != usual[part]
    }
    noted, findings = Noted(), []
    rarer = {
        number
        for (part, code), numbers in found.items()
        if usual[part] is None and code != seen[part].most_common(1)[0][0]
        for number in numbers
    }
    named: dict[str, str] = {}
    if notes or rarer:
        for number, example in enumerate(watched(material, "naming rows in other languages")):
            if number in notes:
                noted.add("other_language", example, notes[number])
            if number in rarer:
                named[example.place] = example.id
    languages = {NAMES.get(code, code) for code in usual.values() if code}
    if languages:
        what = f"are written in another language than most ({' and '.join(sorted(languages))})"
        wording = Wording(what, "info", remedy="keep them if they will be asked, else drop them")
        findings = noted.findings({"other_language": wording}, material.num_rows)
    for part, counts in seen.items():
        if counts and usual[part] is None:
            findings.append(_mixed(part, counts, named))
    return findings


def tell_language(text: str) -> str | None:
    """The language's ISO 639-1 code; None where the text is short or the guess is not sure."""
    text = text[:READ_CHARS]
    letters = sum(char.isalpha() for char in text)
    wide = any(ord(char) > 0x2E80 for char in text[:80])
    if letters < (8 if wide else MIN_LETTERS) or (not wide and len(text.split()) < MIN_WORDS):
        return None
    code, sure = _identifier().classify(text)
    return str(code) if sure >= SURE else None


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _text(example: Example, part: str) -> str:
    if part == "answer":
        return example.output if isinstance(example.output, str) else ""
    users = [turn.content for turn in example.messages if turn.role == "user"]
    return "\n".join(users) if users else example.input


def _usual(counts: Counter[str]) -> str | None:
    if not counts:
        return None
    code, times = counts.most_common(1)[0]
    return code if times >= MOSTLY * counts.total() else None


def _mixed(part: str, counts: Counter[str], named: dict[str, str]) -> Finding:
    """named: id by place of the rows in another language than the commonest."""
    shares = ", ".join(
        f"{NAMES.get(code, code)} {100 * times / counts.total():.0f} %"
        for code, times in counts.most_common(5)
    )
    message = f"the {part}s are in several languages: {shares}"
    rows, places = tuple(named.values()), tuple(named)
    return Finding("mixed_languages", "info", message, rows, places)
