"""Rows that hold personal data or secrets, by kind; the values themselves are never repeated."""

from __future__ import annotations

from collections.abc import Iterator

from tunewright.data.audit.material import AuditMaterial
from tunewright.data.audit.passes import Wording, note_rows, texts_of
from tunewright.data.audit.personal import KINDS, find_personal
from tunewright.records import Example, Finding

PREFIX = "personal_data_"
_REMEDY = "--redact puts placeholders in their place"
_CALL_BACK = "a model can repeat what it learned, so call it back and take it out (--redact)"
WORDINGS = {
    f"{PREFIX}{kind}": Wording(
        f"hold {'an' if words[0] in 'aeioAI' else 'a'} {words}",
        "info" if kind == "name" else "warn",
        remedy=_CALL_BACK if kind in ("private_key", "key", "password") else _REMEDY,
    )
    for kind, words in KINDS.items()
}


def find_personal_data(material: AuditMaterial, *, names: bool = True) -> list[Finding]:
    """Rows with e-mail addresses, telephone numbers, keys and the like; one Finding a kind.

    names: also what may be a person's name, as info.
    """

    def look(example: Example) -> Iterator[tuple[str, str]]:
        for _, text in texts_of(example):
            for mark in find_personal(text, names=names):
                yield f"{PREFIX}{mark.kind}", ""

    return note_rows(material, "looking for personal data", look, WORDINGS)
