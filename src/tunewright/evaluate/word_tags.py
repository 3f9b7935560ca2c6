"""Tagging without a model: a linear classifier that sees each word, its shape and neighbours."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from tunewright.evaluate.margins import margin_probabilities
from tunewright.evaluate.material import Material, NotPossible, answer
from tunewright.records import Example, Prediction, Span

WORD = re.compile(r"\w+|[^\w\s]")
MAX_WORDS = 200_000
"""Training stops taking rows after this many words."""
Place = tuple[int, int]


def tag_words(material: Material, train: Sequence[Example], system: str) -> list[Prediction]:
    """Spans for every test row, from a begin/inside/outside tag of each word.

    The confidence is that of the least certain word. Words are judged one by one; neighbouring
    tags are not weighed together. Raises NotPossible where no training row has a word.
    """
    names = {label: number for number, label in enumerate(material.labels)}
    known: list[list[str]] = []
    tags: list[int] = []
    for example in train:
        if len(tags) > MAX_WORDS:
            break
        places = find_words(example.input)
        known += describe(example.input, places)
        tags += tag_places(places, example, names)
    if not known:
        raise NotPossible("the training rows hold no word")
    places_of = [find_words(example.input) for example in material.test]
    asked = [d for e, p in zip(material.test, places_of, strict=True) for d in describe(e.input, p)]
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(analyzer=list, binary=True, dtype=np.float64)
    features = vectorizer.fit_transform(known)
    material.advance(0.3)
    probabilities = margin_probabilities(
        features,
        np.array(tags, dtype=np.int64),
        vectorizer.transform(asked or [[]]),
        1 + 2 * len(names),
        material.seed,
    )
    answers, start = [], 0
    for example, places in zip(material.test, places_of, strict=True):
        part = probabilities[start : start + len(places)]
        start += len(places)
        spans = join_tags(part.argmax(axis=1).tolist(), places, material.labels)
        sureness = float(part.max(axis=1).min()) if len(places) else 1.0
        answers.append(answer(material, example, system, spans, sureness))
    return answers


def find_words(text: str) -> list[Place]:
    """(start, end) of every word and every sign."""
    return [match.span() for match in WORD.finditer(text)]


def tag_places(places: Sequence[Place], example: Example, names: dict[str, int]) -> list[int]:
    """Tag of each word: 0 outside, 1 + 2k begins label k, 2 + 2k goes on with it."""
    tags = [0] * len(places)
    for span in example.output if isinstance(example.output, tuple) else ():
        if not isinstance(span, Span) or span.label not in names:
            continue
        inside = [i for i, (a, b) in enumerate(places) if a < span.end and b > span.start]
        for order, place in enumerate(inside):
            tags[place] = 1 + 2 * names[span.label] + (order > 0)
    return tags


def join_tags(
    tags: Sequence[int], places: Sequence[Place], labels: Sequence[str]
) -> tuple[Span, ...]:
    """Tags as spans; a tag that goes on where nothing of its label is open begins a span."""
    spans: list[Span] = []
    before = 0
    for tag, (start, end) in zip(tags, places, strict=True):
        if tag:
            label = labels[(tag - 1) // 2]
            goes_on = tag % 2 == 0 and before in (tag, tag - 1)
            spans.append(Span(spans.pop().start if goes_on else start, end, label))
        before = tag
    return tuple(spans)


def describe(text: str, places: Sequence[Place]) -> list[list[str]]:
    """What the classifier sees of a word: itself, its ends, its shape, two neighbours a side."""
    words = [text[start:end] for start, end in places]
    lower = ["<", "<", *(word.lower() for word in words), ">", ">"]
    described = []
    for number, word in enumerate(words):
        left2, left, here, right, right2 = lower[number : number + 5]
        described.append([
            "bias", f"w={here}", f"-1={left}", f"+1={right}", f"-2={left2}", f"+2={right2}",
            f"-1,0={left} {here}", f"0,+1={here} {right}", f"-2,-1={left2} {left}",
            f"+1,+2={right} {right2}", f"shape={shape_of(word)}",
            *(f"p{size}={here[:size]}" for size in (1, 2, 3)),
            *(f"s{size}={here[-size:]}" for size in (1, 2, 3)),
        ])  # fmt: skip
    return described


def shape_of(word: str) -> str:
    """X for capitals, x for small letters, 9 for digits, in runs: "Oct31" is "Xx9"."""
    marks = [
        "X" if c.isupper() else "x" if c.isalpha() else "9" if c.isdigit() else c for c in word
    ]
    return "".join(m for i, m in enumerate(marks) if i == 0 or m != marks[i - 1])
