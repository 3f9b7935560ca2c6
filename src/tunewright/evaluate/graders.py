"""Graders: how good a written answer is, from 0 to 1, by text, schema or code.

Those that ask a model stand in grading.py, where models are at hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.aims import GraderSection
from tunewright.errors import RecipeError
from tunewright.evaluate.sandbox import grade_by_code
from tunewright.metrics.table import find_metric
from tunewright.records import Example, Prediction

Grade = Callable[[Sequence[Example], Sequence[str]], list[float]]
"""Scores of answers to examples, in order."""
LONGEST = 1_000_000
"""Characters of a schema or of code."""


def string_check(how: GraderSection) -> Grade:
    """1 where the answer meets the text as the operation says, else 0."""
    if how.operation == "matches" and how.reference is not None:
        _pattern(how.reference, how.ignore_case)

    def meets(answer: str, wished: str) -> bool:
        if how.operation == "matches":
            return _pattern(wished, how.ignore_case).search(answer) is not None
        a, b = answer.strip(), wished.strip()
        if how.ignore_case:
            a, b = a.casefold(), b.casefold()
        return {
            "equals": a == b, "contains": b in a, "starts_with": a.startswith(b),
            "ends_with": a.endswith(b),
        }[how.operation]  # fmt: skip

    def grade(examples: Sequence[Example], answers: Sequence[str]) -> list[float]:
        return [
            float(any(meets(answer, text) for text in _wished(how, example)))
            for example, answer in zip(examples, answers, strict=True)
        ]

    return grade


def text_similarity(how: GraderSection) -> Grade:
    """token F1, ROUGE-L or chrF of each answer beside the row's own, or the given text."""
    metric = find_metric(how.measure)
    scale = 100.0 if metric.range[1] == 100.0 else 1.0

    def grade(examples: Sequence[Example], answers: Sequence[str]) -> list[float]:
        scores = []
        for example, answer in zip(examples, answers, strict=True):
            wished = _wished(how, example)
            row = Prediction(example.id, "", "", example.input, wished[0], answer,
                             references=tuple(wished))  # fmt: skip
            assert metric.rows is not None and metric.value is not None
            sums: Any = metric.rows([row], ())
            value = float(metric.value(np.asarray(sums.sum(axis=0), dtype=np.float64)))
            scores.append(value / scale if np.isfinite(value) else 0.0)
        return scores

    return grade


def json_schema(how: GraderSection) -> Grade:
    """1 where the answer is JSON that the schema allows, half where it is JSON but for that."""
    import jsonschema

    schema: Any = how.json_schema if how.json_schema is not None else True
    if isinstance(schema, str):
        schema = _read_json(schema)
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        where = "/".join(map(str, error.absolute_path)) or "the schema"
        raise RecipeError(f"graders.json_schema: {where}: {error.message[:200]}") from None
    validator = kind(schema)

    def grade(examples: Sequence[Example], answers: Sequence[str]) -> list[float]:
        scores = []
        for answer in answers:
            try:
                read = json.loads(answer)
            except (ValueError, RecursionError):
                scores.append(0.0)
                continue
            scores.append(1.0 if validator.is_valid(read) else 0.5)
        return scores

    return grade


def python(how: GraderSection) -> Grade:
    """What the user's own code gives; see sandbox.py for what it may do."""
    code = _read_code(str(how.code))

    def grade(examples: Sequence[Example], answers: Sequence[str]) -> list[float]:
        items = [
            (answer, {"input": e.input, "output": e.output, "references": list(e.references)})
            for e, answer in zip(examples, answers, strict=True)
        ]
        return grade_by_code(code, items, timeout_s=how.timeout_s, memory_mb=how.memory_mb)

    return grade


def _wished(how: GraderSection, example: Example) -> list[str]:
    if how.reference is not None:
        return [how.reference]
    if example.output is None:
        raise RecipeError(
            f"graders: {how.type} compares with the row's own answer, and {example.place} has "
            "none; give graders.reference, or answers in the data"
        )
    return list(example.references or (str(example.output),))


def _pattern(text: str, ignore_case: bool) -> re.Pattern[str]:
    try:
        return re.compile(text, re.IGNORECASE if ignore_case else 0)
    except re.error as error:
        raise RecipeError(
            f"graders.reference: {text[:80]!r} is no regular expression ({error}); correct it"
        ) from None


def _read_json(name: str) -> Any:
    try:
        text = name if name.lstrip().startswith("{") else _read_file(name, "json_schema")
        return json.loads(text)
    except ValueError as error:
        raise RecipeError(f"graders.json_schema: {name[:80]}: no JSON ({error})") from None


def _read_code(text: str) -> str:
    return text if "\n" in text or "def " in text else _read_file(text, "code")


def _read_file(name: str, key: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")[:LONGEST]
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"graders.{key}: {name[:80]} cannot be read ({type(error).__name__}); give the text "
            "itself, or the path of a file"
        ) from None


GRADERS: dict[str, Callable[[GraderSection], Grade]] = {
    "string_check": string_check,
    "text_similarity": text_similarity,
    "json_schema": json_schema,
    "python": python,
}
