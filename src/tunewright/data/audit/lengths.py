"""Rows cut off, blank, or longer than the model reads. Lengths in characters, or in tokens where
the rows come rendered.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from tunewright.data.audit.material import AuditMaterial, count
from tunewright.data.audit.passes import Noted, Wording, watched
from tunewright.data.render import Row
from tunewright.records import Example, Finding

MIN_AT_CAP = 5
"""Texts of exactly the greatest length from which on a cap is suspected."""
NEIGHBOURS = 10
"""Lengths just below the greatest, which a cap leaves far emptier than itself."""
_ENDED = re.compile(r"[.!?…。！？:;)\]}»”\"'’`>]\s*$")
_HANGING = re.compile(
    r"(?:,|[^-]-|\b(?:and|or|but|the|a|an|of|to|in|with|for|that|which|because|is|are|und|oder"
    r"|der|die|das"
    r"|mit|et|ou|le|la|les|de|du|y|o|el|que))\s*$"
)
MIN_WORDS_HANGING = 6
USUAL_END_SHARE = 0.9


def find_truncated(material: AuditMaterial) -> list[Finding]:
    """Texts that look cut off: at one greatest length that many share, or in mid-sentence.

    Mid-sentence counts for completions alone, where nine of ten others end with punctuation.
    """
    talks = material.layout.task in ("generate", "chat")
    lengths: Counter[int] = Counter()
    ended = total = 0
    for example in watched(material, "measuring texts"):
        text = _text(example, talks=talks)
        lengths[len(text)] += 1
        total += 1
        ended += bool(_ENDED.search(text[-3:]))
    cap = _find_cap(lengths)
    watch_ends = talks and total and ended >= USUAL_END_SHARE * total
    if cap is None and not watch_ends:
        return []
    noted = Noted()
    for example in watched(material, "looking for texts cut off"):
        text = _text(example, talks=talks)
        if len(text) == cap and not _ENDED.search(text[-3:]):
            noted.add("truncated", example, f"cut at {cap:,} characters")
        elif watch_ends and len(text.split()) >= MIN_WORDS_HANGING and _HANGING.search(text[-12:]):
            noted.add("truncated", example, f"ends with {text[-20:]!r}")
    what = "look cut off" if cap is None else f"look cut off (many end at {cap:,} characters)"
    return noted.findings({"truncated": Wording(what, remedy="fetch them whole")}, total)


def _text(example: Example, *, talks: bool) -> str:
    return example.output if talks and isinstance(example.output, str) else example.input


def _find_cap(lengths: Counter[int]) -> int | None:
    """The greatest length, where it stands out against the lengths just below it."""
    longest = max(lengths, default=0)
    at_cap = lengths[longest]
    below = sum(lengths[longest - step] for step in range(1, NEIGHBOURS + 1)) / NEIGHBOURS
    is_cap = longest >= 20 and at_cap >= MIN_AT_CAP and at_cap >= 4 * max(below, 0.25)
    return longest if is_cap else None


def find_blank_answers(material: AuditMaterial) -> list[Finding]:
    """Completions of nothing but space; rows without any are dropped before audits see them."""
    if material.layout.task not in ("generate", "chat"):
        return []
    noted, total = Noted(), 0
    for example in watched(material, "looking for blank completions"):
        total += 1
        if isinstance(example.output, str) and not example.output.strip():
            noted.add("blank_answer", example)
    wording = Wording("have a completion of nothing but space", remedy="fill or drop them")
    return noted.findings({"blank_answer": wording}, total)


def find_lost_targets(
    rows: Iterable[Row], places: Mapping[str, str], max_length: int
) -> list[Finding]:
    """Rows longer than max_length tokens, with the count of target tokens that are not learned.

    rows: as rendered for training. places: of the examples by id.
    """
    lost: dict[str, int] = {}
    for row in rows:
        if row.lost_targets > 0:
            lost[row.id] = lost.get(row.id, 0) + row.lost_targets
    if not lost:
        return []
    ranked = sorted(lost, key=lambda row_id: -lost[row_id])
    tokens = sum(lost.values())
    message = (
        f"{count(len(lost), 'row')} lose {count(tokens, 'target token')} beyond "
        f"training.max_length "
        f"{max_length} (first: {places.get(ranked[0], ranked[0])}, {lost[ranked[0]]:,}); raise it, "
        "or shorten the rows"
    )
    return [
        Finding(
            "lost_target_tokens",
            "warn",
            message,
            rows=tuple(ranked),
            places=tuple(places.get(row_id, row_id) for row_id in ranked),
            scores=tuple(float(lost[row_id]) for row_id in ranked),
            details={"tokens": tokens, "max_length": max_length},
        )
    ]
