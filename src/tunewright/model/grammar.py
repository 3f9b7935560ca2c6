"""Answers that must be of a form: JSON of a schema, token by token.

llguidance (MIT) says which tokens may come next; everything else is masked before one is chosen.

Shapes: V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewright.errors import ModelError

MAX_SCHEMA_BYTES = 64 << 10
MAX_SCHEMA_DEPTH = 32
MAX_GRAMMARS = 128
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True)
class Grammar:
    """What answers must look like, for one tokenizer. `start` gives the state of one answer."""

    words: Any
    source: str

    def start(self) -> GrammarState:
        """The state of an answer that has no token yet."""
        from llguidance import LLMatcher

        return GrammarState(LLMatcher(self.words, self.source, log_level=0))


class GrammarState:
    """One answer on its way through a grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    @property
    def is_complete(self) -> bool:
        """Nothing but the end may follow."""
        return bool(self._matcher.is_stopped())

    def mask(self, logits_V: Tensor) -> None:
        """Set what may not come next to -inf, in place."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: logits_V.shape[-1]]
        if not allowed.any():  # a grammar that went wrong ends its answer, and no other one
            return
        forbidden = torch.from_numpy(allowed == 0).to(logits_V.device)
        logits_V[: len(allowed)].masked_fill_(forbidden, float("-inf"))
        logits_V[len(allowed) :] = float("-inf")

    def take(self, token: int) -> None:
        """The token that was chosen."""
        self._matcher.consume_token(token)


def compile_grammar(schema: Mapping[str, Any], tokenizer: Any, ends: frozenset[int]) -> Grammar:
    """A grammar of JSON values that a schema allows. Raises ModelError where it cannot be read."""
    if _depth(schema) > MAX_SCHEMA_DEPTH:
        raise ModelError(f"schema: nested deeper than {MAX_SCHEMA_DEPTH} levels; flatten it")
    text = json.dumps(schema)
    if len(text) > MAX_SCHEMA_BYTES:
        raise ModelError(f"schema: {len(text)} bytes, at most {MAX_SCHEMA_BYTES} are read")
    return _compile(text, _words(tokenizer, ends))


@lru_cache(maxsize=MAX_GRAMMARS)
def _compile(schema: str, words: Any) -> Grammar:
    from llguidance import LLMatcher

    try:
        source = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": " ?"})
        failed, said = LLMatcher.validate_grammar_with_warnings(source, words)
    except ValueError as error:
        failed, said = True, [str(error)]
    if failed:
        raise ModelError(f"schema: cannot be followed ({' '.join(said[0].split())[:200]})")
    return Grammar(words, source)


def _words(tokenizer: Any, ends: frozenset[int]) -> Any:
    """The tokenizer as llguidance reads it, kept beside it: making it takes up to a second."""
    kept = getattr(tokenizer, "_tunewright_words", None)
    if kept is None:
        import llguidance.hf

        try:
            kept = llguidance.hf.from_tokenizer(tokenizer, eos_token=sorted(ends))
        except ValueError as error:
            raise ModelError(f"schema: this tokenizer cannot be constrained ({error})") from error
        tokenizer._tunewright_words = kept
    return kept


def _depth(value: Any) -> int:
    """Levels of nesting, counted without recursion."""
    deepest, left = 0, [(value, 1)]
    while left:
        item, level = left.pop()
        deepest = max(deepest, level)
        if level > MAX_SCHEMA_DEPTH:
            return level
        inner = item.values() if isinstance(item, Mapping) else item
        if isinstance(inner, (str, bytes)) or not hasattr(inner, "__iter__"):
            continue
        left += [(child, level + 1) for child in inner]
    return deepest
