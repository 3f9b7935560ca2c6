"""Metrics of written code: does it mean the same, can it be parsed. Nothing is ever run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.errors import RecipeError
from tunewright.metrics.labels import with_count
from tunewright.metrics.regex import is_equal_regex
from tunewright.metrics.text import answer_of, references_of
from tunewright.records import Prediction

Array = NDArray[np.float64]
MAX_CODE = 100_000


def regex_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> Array:
    """(n, 2): 1 where the answer matches exactly the texts that a reference matches, and 1."""
    return with_count(
        [
            any(is_equal_regex(answer_of(row), text) for text in references_of(row))
            for row in predictions
        ]
    )


def bash_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> Array:
    """(n, 2): 1 where the answer parses as bash, and 1. Raises RecipeError without the parser."""
    parser = _bash_parser()
    return with_count([_parses(parser, answer_of(row)) for row in predictions])


def json_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> Array:
    """(n, 2): 1 where the answer is one JSON document, and 1."""
    return with_count([_is_json(answer_of(row)) for row in predictions])


def pass_at_k(right: int, drawn: int, k: int) -> float:
    """Probability that one of k of the drawn answers is right: 1 - C(drawn-right, k)/C(drawn, k).

    Chen et al. 2021, "Evaluating Large Language Models Trained on Code": without bias, where the
    share of rows with a right one among the first k would waste the others. k <= drawn.
    """
    return 1.0 - math.comb(drawn - right, k) / math.comb(drawn, k)


def _bash_parser() -> Any:
    try:
        import tree_sitter
        import tree_sitter_bash
    except ImportError:
        raise RecipeError(
            "evaluation.metrics: bash_valid needs a parser; pip install 'tunewright[code]'"
        ) from None
    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language()))


def _parses(parser: Any, text: str) -> bool:
    if not text.strip() or len(text) > MAX_CODE:
        return False
    return not parser.parse(text.encode()).root_node.has_error


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
