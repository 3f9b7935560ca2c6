"""Releases in a running server: which model answers for a name, swapped while requests go on.

News in the database (from this process or another) is looked for twice a second. A new version is
loaded before a name leads to it, and stays loaded as long as it does; what is under way with the
old one ends with it. A version that cannot be loaded leaves everything as it was.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tunewright.database.engine import Database
from tunewright.errors import TunewrightError
from tunewright.hosting import Hosting, find_served
from tunewright.releases.board import Release, list_releases, newest_move
from tunewright.releases.routing import Route, make_routes

LOOK_EVERY_S = 0.5
LEAVE_AFTER_S = 30.0
"""How long a version that no name leads to any more still opens: a request may have chosen it just
before the swap, and be opened after it."""


class LiveReleases:
    """What names lead to, now. `choose` may be called from any thread."""

    def __init__(self, hosting: Hosting, database: Database) -> None:
        self.hosting, self.database = hosting, database
        self.routes: Mapping[str, Route] = {}
        self.faults: dict[str, str] = {}
        self._held: dict[str, Any] = {}
        self._leaving: dict[str, float] = {}
        self._seen = -1
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Load what is live, then watch for news in a thread."""
        self.refresh()
        self._thread = threading.Thread(target=self._watch, name="releases", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(30)
        self._held.clear()

    def choose(self, name: str, who: str) -> Release | None:
        """The version that answers this asker; None when the name is no release."""
        route = self.routes.get(name)
        return route.choose(who) if route else None

    def refresh(self) -> None:
        """Take up what is new; blocks while models load."""
        with self._lock:
            seen = newest_move(self.database)
            if seen == self._seen:
                return
            wanted = make_routes(list_releases(self.database))
            self.faults = {}
            routes, held = {}, {}
            for name, route in wanted.items():
                try:
                    held.update(self._load(route))
                    routes[name] = route
                except TunewrightError as error:
                    self.faults[name] = str(error)
                    if name in self.routes:  # the old way goes on
                        routes[name] = self.routes[name]
                        held.update({item.id: self._held[item.id] for item in _parts(routes[name])
                                     if item.id in self._held})  # fmt: skip
            gone = set(self._held) - set(held)
            self.routes, self._held, self._seen = routes, held, seen
            now = time.monotonic()
            self._leaving.update(dict.fromkeys(gone, now))
            for version in held:
                self._leaving.pop(version, None)

    def _let_leave(self) -> None:
        """Forget the versions that nobody can be about to open."""
        with self._lock:
            latest = time.monotonic() - LEAVE_AFTER_S
            for version in [name for name, since in self._leaving.items() if since <= latest]:
                del self._leaving[version]
                self.hosting.remove(version)

    def _load(self, route: Route) -> dict[str, Any]:
        loaded = {}
        for release in _parts(route):
            if release.id in self._held:
                loaded[release.id] = self._held[release.id]
                continue
            (served,) = find_served([release.run])
            self.hosting.add(replace(served, id=release.id))
            try:
                loaded[release.id] = self.hosting.open(release.id)
            except Exception:
                self.hosting.remove(release.id)
                raise
        return loaded

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            self._let_leave()
            try:
                self.refresh()
            except Exception as error:  # the database may be away for a while; serving goes on
                self.faults["database"] = f"{type(error).__name__}: {error}"


def _parts(route: Route) -> list[Release]:
    return [item for item in (route.production, route.canary, route.shadow) if item is not None]
