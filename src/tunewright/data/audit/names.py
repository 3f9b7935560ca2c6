"""Names of people that a text may hold: always "possible", never promised.

Recognisers of names are wrong more often than right on business texts (EVIDENCE.md section 2), so
only the plainest forms count: a person introduces or signs himself, or is addressed with a title.
"""

from __future__ import annotations

import re

_NAME = r"[A-ZÀ-ÖØ-Þ][\w'’-]{1,20}"
_INTRODUCED = re.compile(
    rf"(?:[Mm]y name is|[Mm]y name's|[Tt]his is|[Ii]ch hei(?:ß|ss)e|[Mm]ein Name ist"
    rf"|[Jj]e m'appelle|[Mm]e llamo|[Mm]i chiamo|[Mm]eu nome é"
    rf"|[Ii]k heet) ({_NAME}(?: {_NAME}){{1,2}})"
)
_TITLED = re.compile(
    rf"\b(?:Mr|Mrs|Ms|Miss|Dr|Prof|Herr|Frau|Mme|Monsieur|Madame|Señor|Señora|Sr|Sra)\.? "
    rf"({_NAME}(?: {_NAME})?)"
)
_SIGNED = re.compile(
    rf"(?:[Rr]egards|[Ss]incerely|[Cc]heers|[Tt]hanks|[Tt]hank you|Grüße|Grüßen|[Cc]ordialement"
    rf"|[Ss]aludos|[Bb]est)[,!.]?\s*\n+\s*({_NAME}(?: {_NAME}){{0,2}})\s*(?:\n|$)"
)
_NOT_NAMES = frozenset(
    [
        "The",
        "This",
        "That",
        "Your",
        "Our",
        "Customer",
        "Support",
        "Team",
        "Sir",
        "Madam",
        "Service",
        "Department",
        "Right",
        "Just",
        "Very",
        "Absolutely",
        "Still",
        "Now",
        "Sent",
        "Not",
        "Really",
        "So",
        "All",
        "Everyone",
        "Wrong",
    ]
)


def find_names(text: str) -> list[tuple[int, int]]:
    """(start, end) of each stretch that may be a person's name."""
    found = []
    for pattern in (_INTRODUCED, _TITLED, _SIGNED):
        for match in pattern.finditer(text):
            if match.group(1).split()[0] not in _NOT_NAMES:
                found.append(match.span(1))
    return found
