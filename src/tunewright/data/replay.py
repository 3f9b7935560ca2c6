"""Old rows that are learned again beside new ones, so that old skills stay; balanced by class."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from tunewright.records import Example


def choose_replay(rows: Sequence[Example], share: float, *, seed: int = 17) -> list[Example]:
    """About `share` of the rows, as many from each class as there are, rarer classes whole.

    Which rows is a matter of their content and the seed alone, so a larger share holds a smaller
    one. Rows whose output is no label are one class. At least one row of each class while share is
    above 0.
    """
    wanted = round(share * len(rows))
    if share <= 0 or not rows:
        return []
    if wanted >= len(rows):
        return list(rows)
    classes: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        classes[row.output if isinstance(row.output, str) else ""].append(row)
    for members in classes.values():
        members.sort(key=lambda row: _order(row.id, seed))
    left = max(wanted, len(classes))
    chosen: set[str] = set()
    by_size = sorted(classes.values(), key=len)
    for number, members in enumerate(by_size):
        take = min(len(members), max(1, round(left / (len(by_size) - number))))
        chosen.update(row.id for row in members[:take])
        left -= take
    return [row for row in rows if row.id in chosen]


def is_held_out(row: Example, share: float, *, seed: int = 17) -> bool:
    """True for about `share` of all rows, by the text alone: the same request always stays out."""
    return _fraction(row.input, seed) < share


def _fraction(text: str, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed} {' '.join(text.split()).lower()}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big") / 2**64


def _order(name: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
