"""Equal regular expressions, checked against Python's own matcher and against known pairs."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.metrics.regex import (
    WORD,
    RegexError,
    derive,
    is_equal_regex,
    matches_empty,
    parse_regex,
)

TEXTS = ["".join(chars) for n in range(5) for chars in itertools.product("ab -", repeat=n)]


def accepts(node, text):
    after = False
    for char in text:
        inside = char in WORD
        node, after = derive(node, char, after != inside), inside
    return matches_empty(node, after)


@pytest.mark.parametrize(("a", "b"), [
    ("a|b", "[ab]"), ("(a*)*", "a*"), ("a+", "aa*"), ("a?b", "ab|b"), ("a{2,}", "aaa*"),
    ("a{2,3}", "aa|aaa"), ("~(~(ab))", "ab"), ("(.*a.*)&(.*b.*)", "(.*b.*)&(.*a.*)"),
    ("~((.*)a(.*))", "[^a]*"), ("(a|b)&(b|c)", "b"), ("a&b", "c&d"), ("(.)*", ".*"),
    ("((dog)|(truck)).*", "(dog|truck).*"), ("(.*)((.*)(.))", ".+"), (r"\ba\b", "a"),
    (r"a\bb", "a&b"), (r"a\b b", "a b"), (r"[0-9]+", r"\d+"), (r"\\", r"[\\]"), ("", "()"),
])  # fmt: skip
def test_the_same(a, b):
    assert is_equal_regex(a, b) and is_equal_regex(b, a)


@pytest.mark.parametrize(("a", "b"), [
    ("a", "b"), ("a*", "a+"), (".*dog.*", "dog.*"), ("a{2}", "a{3}"), ("~(a)", "[^a]"),
    ("(a|b)&(b|c)", "b|c"), (r"\b.\b", "."), ("[A-Z]", "[a-z]"), ("a(", "a"), ("a{9999}", "a"),
    ("(.*a.*)&(.*b.*)", "(.*a.*b.*)"), ("." * 3, ".*"), ("", "a"),
])  # fmt: skip
def test_not_the_same(a, b):
    assert not is_equal_regex(a, b) and not is_equal_regex(b, a)


LEAVES = st.sampled_from(["a", "b", " ", ".", "[ab]", "[^a]", r"\b", r"\w", "-"])
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]})|({pair[1]})"),
        inner.map(lambda one: f"({one})*"),
        inner.map(lambda one: f"({one})?"),
        inner.map(lambda one: f"({one}){{1,2}}"),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(EXPRESSIONS)
def test_it_matches_what_python_matches(expression):
    node, known = parse_regex(expression), re.compile(expression)
    for text in TEXTS:
        assert accepts(node, text) == bool(known.fullmatch(text)), (expression, text)


@settings(max_examples=60, deadline=None)
@given(EXPRESSIONS, EXPRESSIONS)
def test_equal_means_equal_on_every_short_text(a, b):
    same = all(accepts(parse_regex(a), text) == accepts(parse_regex(b), text) for text in TEXTS)
    if is_equal_regex(a, b):
        assert same


@pytest.mark.parametrize(
    "text", ["(", ")", "a)", "[a", "*", "a{x}", "a{2,1}", "(" * 500, "\\", "[z-a]"]
)
def test_what_is_none_is_told(text):
    with pytest.raises(RegexError):
        parse_regex(text)


def test_blow_up_is_bounded():
    assert not is_equal_regex("(a|b)*a" + "(a|b)" * 30, "(b|a)*a" + "(b|a)" * 29)
