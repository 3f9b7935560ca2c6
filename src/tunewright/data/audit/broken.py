"""Texts that something went wrong with: wrong encoding, HTML left in, control codes."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from tunewright.data.audit.material import AuditMaterial
from tunewright.data.audit.passes import Wording, note_rows, texts_of
from tunewright.records import Example, Finding

_TAG = re.compile(
    r"</[a-z][a-z0-9]{0,10}\s*>|<(?:br|hr|p|div|span|td|tr|th|table|ul|ol|li|img|font|strong|em"
    r"|h[1-6]"
    r"|html|body|head|script|style|blockquote)\b[^<>]{0,300}/?>"
    r"|<(?:a|b|i|u|input|form|button|label|iframe|link|meta)\s[a-z-]+\s*=[^<>]{1,300}>",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:[a-zA-Z]{2,8}|#\d{2,6}|#[xX][0-9a-fA-F]{2,5});")
# Control codes other than tab and line ends; C1 codes are what is left of Windows-1252.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f]")
_NOTE_CHARS = 24

WORDINGS = {
    "mojibake": Wording(
        "hold text that was decoded with the wrong encoding",
        remedy="save them again as UTF-8; a model learns the garble",
    ),
    "replacement_characters": Wording(
        "hold U+FFFD, the mark of a character that was lost", remedy="fetch them again from source"
    ),
    "control_characters": Wording("hold control characters", remedy="take them out"),
    "html_remnants": Wording(
        "hold HTML tags or entities", remedy="take them out", subject_from=0.2
    ),
}


def find_broken_text(material: AuditMaterial) -> list[Finding]:
    """Rows with mojibake, lost characters, control codes or HTML remnants."""
    return note_rows(material, "looking for broken text", _look, WORDINGS)


def _look(example: Example) -> Iterator[tuple[str, str]]:
    for _, text in texts_of(example):
        if not text.isascii():
            garbled = find_mojibake(text)
            if garbled:
                yield "mojibake", repr(garbled[:_NOTE_CHARS])
            if "\ufffd" in text:
                yield "replacement_characters", ""
        if _CONTROL.search(text):
            yield "control_characters", ""
        remnant = find_html(text)
        if remnant:
            yield "html_remnants", repr(remnant[:_NOTE_CHARS])


def find_mojibake(text: str) -> str:
    """The first stretch of UTF-8 that was read as another encoding; empty where there is none.

    By ftfy's table of improbable pairs, and only where undoing the mistake gives other text.
    """
    from ftfy import fix_encoding
    from ftfy.badness import BADNESS_RE

    match = BADNESS_RE.search(text)
    return match.group() if match and fix_encoding(text) != text else ""


def find_html(text: str) -> str:
    """The first HTML tag or entity in a text; empty where there is none."""
    if "<" in text:
        tag = _TAG.search(text)
        if tag:
            return tag.group()
    if "&" in text:
        for entity in _ENTITY.finditer(text):
            if html.unescape(entity.group()) != entity.group():
                return entity.group()
    return ""
