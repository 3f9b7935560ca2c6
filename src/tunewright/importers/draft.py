"""A recipe in the making, and the fate of every key of the other tool's config.

An importer is a table of rules, one for each key that the other tool knows. A rule puts the value
where it belongs here, says that Tunewright always does so, or says why it is not carried over. Keys
without a rule are listed as not carried over, so that nothing is dropped in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["mapped", "always", "unset", "not carried"]
SECRET = re.compile(r"token$|api_key$|password$|secret$", re.IGNORECASE)
NOTHING: tuple[Any, ...] = (None, "", [], {})


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one key.

    mapped: `to` is our key (or an option of the command line), `became` its value.
    always: Tunewright does this whatever a recipe says; `note` tells how.
    unset: the value asks for nothing.
    not carried: `note` gives the reason.
    """

    key: str
    value: Any
    outcome: Outcome
    to: str = ""
    became: Any = None
    note: str = ""


class NotCarriedError(ValueError):
    """Raised by a conversion for a value that has no counterpart; the text is the reason."""


@dataclass
class Draft:
    """Recipe values by dotted key, and the fate of each key read so far."""

    values: dict[str, Any] = field(default_factory=dict)
    fates: list[Fate] = field(default_factory=list)
    run_dir: str | None = None

    def put(self, key: str, value: Any, to: str, became: Any, note: str = "") -> None:
        """Carry a key over. Where two keys claim one of ours, the first stands."""
        if to in self.values and self.values[to] != became:
            self.leave(key, value, f"{to} is {self.values[to]!r} already, by an earlier key")
            return
        self.values[to] = became
        self.fates.append(Fate(key, shown(key, value), "mapped", to, became, note))

    def always(self, key: str, value: Any, note: str) -> None:
        """A key whose wish is always fulfilled here."""
        self.fates.append(Fate(key, shown(key, value), "always", note=note))

    def unset(self, key: str, value: Any) -> None:
        """A key that asks for nothing."""
        self.fates.append(Fate(key, shown(key, value), "unset"))

    def leave(self, key: str, value: Any, note: str) -> None:
        """A key that is not carried over."""
        self.fates.append(Fate(key, shown(key, value), "not carried", note=note))

    def carry(self, values: Mapping[str, Any], rules: Mapping[str, Rule], prefix: str = "") -> None:
        """Apply a rule to every key; sections without a rule of their own are walked through."""
        for name, value in values.items():
            key = f"{prefix}{name}"
            rule = rules.get(key)
            if rule is not None and value not in NOTHING:
                rule(self, key, value)
            elif value in NOTHING:
                self.unset(key, value)
            elif isinstance(value, Mapping):
                self.carry(value, rules, f"{key}.")
            else:
                self.leave(key, value, "no counterpart here")

    def take_back(self, our_key: str, reason: str) -> None:
        """Remove a value that the recipe cannot hold; the keys behind it are not carried over."""
        refused = self.values.pop(our_key)
        self.fates = [
            Fate(fate.key, fate.value, "not carried", note=f"{our_key} {refused!r}: {reason}")
            if fate.to == our_key
            else fate
            for fate in self.fates
        ]

    def nested(self) -> dict[str, Any]:
        """The values as sections, as a recipe file has them."""
        made: dict[str, Any] = {}
        for dotted, value in self.values.items():
            *path, last = dotted.split(".")
            section = made
            for part in path:
                section = section.setdefault(part, {})
            section[last] = value
        return made


Rule = Callable[[Draft, str, Any], None]
Convert = Callable[[Any], Any]


def shown(key: str, value: Any) -> Any:
    """The value as it may be shown: secrets never."""
    return "(hidden)" if SECRET.search(key) and value not in NOTHING else value


def to(our_key: str, convert: Convert | None = None, note: str = "") -> Rule:
    """Carry the value over to `our_key`, converted."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        try:
            became = convert(value) if convert else value
        except NotCarriedError as error:
            draft.leave(key, value, str(error))
            return
        except (TypeError, ValueError):
            draft.leave(key, value, f"{value!r} is no value for {our_key}")
            return
        if became is None:
            draft.unset(key, value)
        else:
            draft.put(key, value, our_key, became, note)

    return rule


def done_anyway(note: str) -> Rule:
    """Tunewright does this whatever a recipe says; who wished otherwise is told."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        if value is False:
            draft.leave(key, value, f"always on here: {note}")
        else:
            draft.always(key, value, note)

    return rule


def either_way(note: str) -> Rule:
    """On or off, it comes to the same here."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        draft.always(key, value, note)

    return rule


def not_carried(note: str) -> Rule:
    """No counterpart, for this reason; `false` asks for nothing."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        if value is False:
            draft.unset(key, value)
        else:
            draft.leave(key, value, note)

    return rule


def run_dir(draft: Draft, key: str, value: Any) -> None:
    """An output folder: an option of the command here, not a key of the recipe."""
    draft.run_dir = str(value)
    draft.fates.append(Fate(key, value, "mapped", "--run-dir", str(value)))
