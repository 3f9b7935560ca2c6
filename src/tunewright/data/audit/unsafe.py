"""Completions that a model should not learn to write: slurs, abuse, threats, dangerous recipes.

A tier of words and patterns, no classifier: it finds the blunt cases and says which pattern met.
The words stand shifted by thirteen letters, so that nobody has to read them here.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from tunewright.data.audit.material import AuditMaterial
from tunewright.data.audit.passes import Wording, answers_of, note_rows
from tunewright.records import Example, Finding

_ABUSE = str.split(
    "shpx shpxvat shpxre shpxrq zbgureshpxre fuvg ohyyfuvg ovgpu phag nffubyr jnaxre gjng qvpxurnq "
    "onfgneq juber fyhg ceirefb cevpx pbpxfhpxre qrtrarengr"
)
# Left out are slurs that are also everyday words: breeds of cats, dams, cracks in armour.
_SLURS = str.split(
    "avttre avttn snttbg snt genaal ergneq ergneqrq xvxr fcvp jrgonpx tbbx cnxv "
    "gbjryurnq fnaqavttre wvtnobb orare enturnq mvccreurnq fgbbcvq"
)
_THREATS = (
    r"\bkill (?:your ?self|urself|yourselves)\b|\bkys\b"
    r"|\b(?:i|we) (?:will|'ll|am going to|are going to|gonna) (?:kill|murder|rape|stab"
    r"|shoot) (?:you|him|her|them|your)\b"
    r"|\byou (?:should|deserve to|ought to) (?:die|be (?:killed|shot|raped|hanged))\b"
    r"|\bgo (?:die|hang yourself)\b|\bslit your (?:wrists|throat)\b"
)
_HATE = (
    r"\b(?:all|those|these|every) (?:jews|muslims|christians|blacks|whites|gays|immigrants|women"
    r"|men|asians"
    r"|refugees|foreigners)\b[^.!?\n]{0,40}\b(?:should|must|need to|deserve to) (?:die"
    r"|be (?:killed|exterminated"
    r"|deported|gassed|shot|eliminated))\b"
    r"|\b(?:jews|muslims|blacks|gays|immigrants|women|foreigners) are (?:vermin|subhuman|animals"
    r"|parasites|scum)\b"
)
_DANGER = (
    r"\b(?:make|build|assemble|construct) (?:a |an |your own )?(?:pipe |nail |dirty |car "
    r"|fertili[sz]er )?(?:bomb|ied"
    r"|explosive device|molotov(?: cocktail)?|silencer|ghost gun)\b"
    r"|\b(?:cook|synthesi[sz]e|make|produce) (?:crystal )?(?:meth|methamphetamine|sarin|ricin"
    r"|nerve gas|vx gas|fentanyl"
    r"|mustard gas)\b"
    r"|\b(?:painless|best|easiest|quickest) (?:way|method)s? to (?:kill yourself|commit suicide"
    r"|end your life)\b"
)
_REFUSING = re.compile(
    r"\b(?:can(?:'|no|')?t|cannot|won't|will not|unable to|not able to|don't|do not|never"
    r"|illegal|against)\b[^.!?\n]{0,80}$",
    re.IGNORECASE,
)
WORDINGS = {
    "unsafe_slur": Wording("have a completion with a slur", remedy="drop or rewrite them"),
    "unsafe_threat": Wording("have a completion that threatens or urges self-harm",
                             remedy="drop them"),
    "unsafe_hate": Wording("have a completion that calls for harm to a group", remedy="drop them"),
    "unsafe_danger": Wording("have a completion that explains something dangerous",
                             remedy="read and drop them"),
    "unsafe_abuse": Wording("have a completion with abusive words", "info",
                            remedy="keep them only if that is the tone you want"),
}  # fmt: skip


def _words(shifted: list[str]) -> re.Pattern[str]:
    plain = "|".join(codecs.decode(word, "rot13") for word in shifted)
    return re.compile(rf"(?<![\w-])(?:{plain})(?:s|es)?(?![\w-])", re.IGNORECASE)


_PATTERNS: dict[str, re.Pattern[str]] = {
    "unsafe_slur": _words(_SLURS),
    "unsafe_threat": re.compile(_THREATS, re.IGNORECASE),
    "unsafe_hate": re.compile(_HATE, re.IGNORECASE),
    "unsafe_danger": re.compile(_DANGER, re.IGNORECASE),
    "unsafe_abuse": _words(_ABUSE),
}


def find_unsafe_answers(material: AuditMaterial) -> list[Finding]:
    """Rows whose completion meets a word or pattern of the unsafe tier."""
    if material.layout.task not in ("generate", "chat"):
        return []
    return note_rows(material, "looking for unsafe completions", _look, WORDINGS)


def _look(example: Example) -> Iterator[tuple[str, str]]:
    for text in answers_of(example):
        for kind in tell_unsafe(text):
            yield kind, ""


def tell_unsafe(text: str) -> list[str]:
    """The kinds of unsafe writing in a text; a refusal that names what it refuses is none."""
    kinds = []
    for kind, pattern in _PATTERNS.items():
        for match in pattern.finditer(text):
            quoted = kind in ("unsafe_danger", "unsafe_threat", "unsafe_hate")
            if not (quoted and _REFUSING.search(text[max(0, match.start() - 120) : match.start()])):
                kinds.append(kind)
                break
    return kinds
