"""The text of an answer as it grows: pieces that can be shown, and stop strings that end it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def spell(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of these tokens, without special ones."""
    return str(
        tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )


class Spelling:
    """The text of one row. A piece is held back while its last character is incomplete, and while
    it could be the beginning of a stop string. The pieces joined are `text`.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, tuple(text for text in stop if text)
        self.text = ""
        self.stopped = False
        self._shown = 0

    def grow(self, ids: Sequence[int], *, last: bool) -> str:
        """The piece that these ids, all of the row's, add; `last`: nothing comes after them."""
        text = spell(self.tokenizer, ids)
        found = [at for at in (text.find(stop) for stop in self.stop) if at >= 0]
        if found:
            self.stopped = True
            text = text[: min(found)]
        elif not last:
            if text.endswith("\ufffd") or not text.startswith(self.text[: self._shown]):
                return ""
            text = text[: len(text) - self._held(text)]
        piece, self.text = text[self._shown :], text
        self._shown = max(self._shown, len(text))
        return piece

    def _held(self, text: str) -> int:
        """Characters at the end that a stop string may begin with."""
        most = max(map(len, self.stop), default=1) - 1
        return next(
            (
                size
                for size in range(min(most, len(text)), 0, -1)
                if any(stop.startswith(text[-size:]) for stop in self.stop)
            ),
            0,
        )
