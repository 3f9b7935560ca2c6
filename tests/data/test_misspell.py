"""Spelling around a filter."""

import re

import pytest

from tunewright.data.misspell import WAYS, misspell, misspell_rows
from tunewright.errors import DataError
from tunewright.records import Example

TEXT = "Winner! Claim your free prize of 900 pounds today, text CLAIM to 81010 now. " * 20


def test_about_that_share_of_words_is_written_otherwise():
    words = [word for word in TEXT.split(" ") if len(re.sub(r"[\W\d_]", "", word)) >= 4]
    for share in (0.2, 0.5, 1.0):
        changed = misspell(TEXT, share=share, seed=1)
        kept = sum(a == b for a, b in zip(words, changed.split(" "), strict=False))
        assert kept < len(words)
        assert changed == misspell(TEXT, share=share, seed=1) != misspell(TEXT, share=share, seed=2)
        assert changed.count("900") == TEXT.count("900")  # numbers stay
    assert misspell(TEXT, share=0, seed=1) == TEXT


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_way_changes_a_word_a_little(way):
    import random

    rng = random.Random(1)
    for _ in range(50):
        word = way("prizes", rng)
        assert abs(len(word) - 6) <= 1
    assert {way("prizes", rng) for _ in range(50)} != {"prizes"}


def test_rows_keep_all_but_their_text():
    row = Example(id="1", place="x:1", input=TEXT, output="spam", columns=(("n", 1.0),))
    (changed,) = misspell_rows([row], "classify", share=0.5, seed=1)
    assert changed.input != row.input
    assert (changed.id, changed.output, changed.columns) == (row.id, row.output, row.columns)
    with pytest.raises(DataError, match="this is tag"):
        misspell_rows([row], "tag", share=0.5, seed=1)
