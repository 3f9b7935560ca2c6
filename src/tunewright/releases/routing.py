"""Which version answers a request for a release: a pure function of names, stages and the asker."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tunewright.releases.board import Release


@dataclass(frozen=True, slots=True)
class Route:
    """The versions of one name that take requests."""

    production: Release | None = None
    canary: Release | None = None
    shadow: Release | None = None

    def choose(self, who: str) -> Release | None:
        """The version for this asker: the same one every time, as long as the share stands."""
        if self.canary is not None and self.canary.share is not None:
            if place_of(self.canary.name, who) < self.canary.share:
                return self.canary
            return self.production or self.canary
        return self.production


def place_of(name: str, who: str) -> float:
    """A number in [0, 1) that depends on the two texts alone.

    A larger share keeps everybody who was in a smaller one.
    """
    digest = hashlib.sha256(f"{name}\0{who}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def make_routes(releases: Iterable[Release]) -> Mapping[str, Route]:
    """By release name, for all that have a version in production or canary."""
    found: dict[str, dict[str, Release]] = {}
    for release in releases:
        if release.stage in ("production", "canary", "shadow"):
            found.setdefault(release.name, {})[release.stage] = release
    return {
        name: Route(**stages)
        for name, stages in found.items()
        if "production" in stages or "canary" in stages
    }
