"""What every page of ours has in common: templates, styles, scripts, and their policy's hashes."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from tunewright import figures
from tunewright.report.text import clean_text

MAX_CHARACTERS = 700


def render_page(
    template: str,
    *,
    styles: Sequence[str] = ("report.css",),
    script: str = "report.js",
    **values: Any,
) -> str:
    """A page of web/templates with our style and script in it, and the policy that names them."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tunewright", "web/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["text"] = shorten
    environment.filters["begin"] = figures.begin
    environment.filters["code"] = breakable
    style, code = "\n".join(map(_resource, styles)), _resource(script)
    page = environment.get_template(template).render(
        **values,
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(code),  # noqa: S704 - our own file
        style_hash=_hash(style),
        script_hash=_hash(code),
    )
    return page + "\n"


def _resource(name: str) -> str:
    return (files("tunewright") / "web" / "templates" / name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def shorten(value: Any, most: int = MAX_CHARACTERS) -> str:
    """Text fit for the page: no control characters, at most `most` characters."""
    text = clean_text(str(value)[: 4 * most])
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def breakable(value: Any, most: int = 120) -> Markup:
    """A name that may break after its joints (_ and /) and nowhere else, if it fits a line."""
    parts = re.split(r"(?<=[_/])(?=\w)", shorten(value, most))
    return Markup("<wbr>").join(parts)
