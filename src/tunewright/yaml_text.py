"""Strict YAML text, in and out: tables with the line of each key, and `a.b=c` on top of them.

What the keys mean is the business of config.py.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import yaml

from tunewright.errors import RecipeError

MAX_DEPTH = 64


class StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses aliases (expansion bombs), duplicate keys and deep nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node. Raises yaml.YAMLError at an alias."""
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(
                None, None, "aliases are not allowed; write the value out", mark
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(
                None, None, f"nested deeper than {MAX_DEPTH} levels; flatten it", mark
            )
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def load_yaml(text: str | bytes, place: str, lines: dict[str, int]) -> dict[str, Any]:
    """The table that the text holds; the line of each dotted key goes into `lines`.

    Raises RecipeError with place and line.
    """
    try:
        loader = StrictLoader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                _note_lines(node, "", lines, place)
            values = loader.construct_document(node) if node is not None else {}
        finally:
            loader.dispose()
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{place}:{mark.line + 1}" if mark else place
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        # A byte that is no UTF-8 and a character that YAML forbids come as one kind of error.
        foreign = isinstance(error, (UnicodeDecodeError, yaml.reader.ReaderError))
        remedy = "save it as plain UTF-8 text" if foreign else "check indentation and quotes"
        message = f"{where}: not valid YAML ({problem}); {remedy}"
        raise RecipeError(message) from None
    if not isinstance(values, dict):
        raise RecipeError(f"{place}: a recipe is a table of keys, this is {type(values).__name__}")
    return values


def _note_lines(node: yaml.Node, prefix: str, lines: dict[str, int], place: str) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if name in lines:
            raise RecipeError(f"{place}:{key.start_mark.line + 1}: {name} is given twice; keep one")
        lines[name] = key.start_mark.line + 1
        _note_lines(value, f"{name}.", lines, place)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Put one `a.b=c` into nested tables, in place. Raises RecipeError."""
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise RecipeError(f"--set {override}: not of the form a.b=c; write --set adapter.r=8")
    *path, last = key.strip().split(".")
    section: dict[str, Any] = values
    for part in path:
        inner = section.setdefault(part, {})
        if not isinstance(inner, dict):
            if inner is not None:
                raise RecipeError(f"--set {override}: {part} is a value, not a section")
            inner = section[part] = {}
        section = inner
    section[last] = _load_scalar(text, override)


def _load_scalar(text: str, override: str) -> Any:
    try:
        value = yaml.load(text, Loader=StrictLoader)  # noqa: S506 - a SafeLoader subclass
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        try:  # YAML 1.1 reads 1e-4 as text
            number = float(value)
            return number if math.isfinite(number) else value
        except ValueError:
            return value
    return value


def dump_yaml(
    values: Mapping[str, Any], prefix: str, reasons: Mapping[str, str], out: io.StringIO
) -> None:
    """Write nested tables as YAML, each value with a reason followed by it as a comment."""
    depth = prefix.count(".")
    indent = "  " * depth
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            out.write(f"{indent}{name}:\n")
            dump_yaml(value, f"{key}.", reasons, out)
            continue
        text = yaml.safe_dump(
            value, default_flow_style=True, allow_unicode=True, width=10**9
        ).strip()
        text = text.removesuffix("\n...").removesuffix("...").strip()
        comment = f"  # auto: {reasons[key]}" if key in reasons else ""
        out.write(f"{indent}{name}: {text}{comment}\n")
