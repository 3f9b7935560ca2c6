"""Tuned models of finished jobs among what is served, as soon as they are asked for."""

from __future__ import annotations

from dataclasses import replace

from tunewright.errors import TunewrightError
from tunewright.hosting import Hosting, Served, find_served
from tunewright.jobs.home import Home
from tunewright.jobs.models import get_model, list_models
from tunewright.jobs.paging import Record

TUNED = "ft:"
MAX_BASES = 200
"""Names of bases that are remembered; a pattern stands for any number."""


def offer(hosting: Hosting, home: Home, name: str | None = None) -> None:
    """Add the model of that name, or all there are; take away what was deleted meanwhile.

    Names of bases that the settings know are offered too, so that clients can ask the untuned one.
    """
    if name is not None:
        _offer_one(hosting, home, name)
        return
    rows = {row["id"]: row for row in list_models(home.database)}
    for gone in [known for known in hosting.models if known.startswith(TUNED)]:
        if gone not in rows:
            hosting.remove(gone)
    for row in rows.values():
        offer_tuned(hosting, home, row)
    for base in home.settings.models:
        if not {"*", "?", "["} & set(base):
            _add_base(hosting, home, base)


def may_see(home: Home, name: str, owner: str | None) -> bool:
    """Whether this owner may ask that model: tuned ones belong to who tuned them. None sees all."""
    if owner is None or not name.startswith(TUNED):
        return True
    try:
        get_model(home.database, name, owner=owner)
    except KeyError:
        return False
    return True


def _offer_one(hosting: Hosting, home: Home, name: str) -> None:
    if name.startswith(TUNED):
        try:
            offer_tuned(hosting, home, get_model(home.database, name))
        except KeyError:
            hosting.remove(name)
    elif name not in hosting.models and len(hosting.models) < MAX_BASES:
        _add_base(hosting, home, name)


def offer_tuned(hosting: Hosting, home: Home, row: Record) -> None:
    """Add the model of this row, where its folder is still there."""
    if row["id"] in hosting.models:
        return
    try:
        found = find_served([str(home.folder.jobs / row["folder"])])[0]
    except TunewrightError:  # its folder was removed by hand
        return
    hosting.add(replace(found, id=row["id"], created_at=row["created_at"]))


def _add_base(hosting: Hosting, home: Home, name: str) -> None:
    base = home.settings.base_of(name)
    if base is None or name in hosting.models:
        return
    try:
        found: Served = find_served([base])[0]
    except (TunewrightError, OSError, ValueError):
        return
    hosting.add(replace(found, id=name))
