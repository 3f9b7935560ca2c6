"""Texts with holes for graders: {{item.key}} and {{sample.output_text}}; and formulas of scores.

Both are read by small parsers of our own: nothing that a client sends is ever run as code.
"""

from __future__ import annotations

import ast
import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

_HOLE = re.compile(r"\{\{([^{}]*)\}\}")
_PATH = re.compile(r"(item|sample)((?:\.[A-Za-z0-9_-]+|\[\d{1,6}\])*)")
_STEP = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\d+)\]")
LONGEST_FORMULA = 1000
LONGEST_TEXT = 1_000_000
"""Characters of a text with its holes filled; a row may stand in it many times."""


class FillError(ValueError):
    """A hole or a formula that cannot be filled; the message says which."""


class FormulaError(ValueError):
    """A formula that cannot be read or has no value."""


def check_text(text: str) -> None:
    """Raise FillError for a hole that is no path below item or sample."""
    for hole in _HOLE.findall(text):
        if not _PATH.fullmatch(hole.strip()):
            raise FillError(
                f"{{{{{hole[:60]}}}}}: not a variable; use {{{{item.KEY}}}} or "
                "{{sample.output_text}}"
            )


def fill(text: str, values: Mapping[str, Any]) -> str:
    """The text with its holes filled. values: "item" and "sample". Raises FillError.

    What is no string is written as JSON.
    """
    left = LONGEST_TEXT - len(text)

    def put(hole: re.Match[str]) -> str:
        nonlocal left
        found = _shown(find(hole[1].strip(), values))
        left -= len(found)
        if left < 0:
            raise FillError(f"filled, the text is longer than {LONGEST_TEXT:,} characters")
        return found

    return _HOLE.sub(put, text)


def find(path: str, values: Mapping[str, Any]) -> Any:
    """What a path such as item.key[0] leads to. Raises FillError."""
    found = _PATH.fullmatch(path)
    if found is None:
        raise FillError(f"{{{{{path[:60]}}}}}: not a variable")
    value: Any = values[found[1]]
    for key, number in _STEP.findall(found[2]):
        try:
            value = value[int(number)] if number else value[key]
        except (KeyError, IndexError, TypeError):
            raise FillError(f"{{{{{path[:60]}}}}}: there is none here") from None
    return value


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_TWO: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_CALLS: dict[str, Callable[..., float]] = {
    "min": min, "max": max, "abs": abs, "floor": math.floor, "ceil": math.ceil, "exp": math.exp,
    "sqrt": math.sqrt, "log": math.log,
}  # fmt: skip


def read_formula(text: str, names: frozenset[str]) -> ast.expr:
    """The formula as a tree of sums, products and the like over names. Raises FormulaError."""
    if len(text) > LONGEST_FORMULA:
        raise FormulaError(f"longer than {LONGEST_FORMULA} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        _check(tree, names)
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        if isinstance(error, FormulaError):
            raise
        raise FormulaError(f"{text[:80]!r} cannot be read as a formula") from None
    return tree


def _check(node: ast.AST, names: frozenset[str]) -> None:
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _TWO:
            _check(left, names)
            _check(right, names)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            _check(operand, names)
        case ast.Constant(value=int() | float()):
            return
        case ast.Name(id=name) if name in names:
            return
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CALLS and args:
            for part in args:
                _check(part, names)
        case ast.Name(id=name):
            known = ", ".join(sorted(names))
            raise FormulaError(f"{name[:40]!r} is no grader; there are {known}")
        case _:
            raise FormulaError("use numbers, graders' names, + - * / % **, " + ", ".join(_CALLS))


def value_of(tree: ast.expr, scores: Mapping[str, float]) -> float:
    """The formula's value. Raises FormulaError where it has none."""
    try:
        value = float(_value(tree, scores))
    except (ArithmeticError, ValueError, TypeError, RecursionError):
        raise FormulaError(f"no value at {dict(scores)}") from None
    if not math.isfinite(value):
        raise FormulaError(f"no finite value at {dict(scores)}")
    return value


def _value(node: ast.AST, scores: Mapping[str, float]) -> float:
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            return _TWO[type(op)](_value(left, scores), _value(right, scores))
        case ast.UnaryOp(op=op, operand=operand):
            value = _value(operand, scores)
            return -value if isinstance(op, ast.USub) else value
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name):
            return float(scores[name])
        case ast.Call(func=ast.Name(id=name), args=args):
            return float(_CALLS[name](*(_value(part, scores) for part in args)))
    raise FormulaError("not a formula")
