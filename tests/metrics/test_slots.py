"""Slots: right, wrong, invented."""

import json

import pytest

from tunewright.metrics.slots import read_slots
from tunewright.metrics.table import METRICS, measure
from tunewright.records import Prediction

NAMES = ("slots_right", "slot_f1", "wrong_slots", "invented_slots")
ASKED = "a table for four at 7 pm please"
WANTED = '{"people": "four", "time": "7 pm"}'


def judge(answer, *, reference=WANTED, references=(), asked=ASKED):
    row = Prediction(
        id="1", split="test", system="a", input=asked, reference=reference, prediction=answer,
        references=references,
    )  # fmt: skip
    found = measure([row], NAMES, ())
    return tuple(round(found[name], 3) for name in NAMES)


@pytest.mark.parametrize(
    ("answer", "right", "f1", "wrong", "invented"),
    [
        (WANTED, 1, 1, 0, 0),
        ('{"time": "7 PM ", "people": "Four"}', 1, 1, 0, 0),
        ('{"time": "7 pm", "people": "four", "date": null}', 1, 1, 0, 0),
        ('{"time": "7 pm"}', 0, 0.667, 0, 0),  # one is missing, none is wrong
        ('{"time": "7 pm", "people": "7 pm"}', 0, 0.5, 1, 0),  # wrong, but said
        ('{"time": "8 pm", "people": "four"}', 0, 0.5, 1, 1),
        ('{"time": "7 pm", "people": "four", "name": "Ann"}', 0, 0.8, 1, 1),
        ("{}", 0, 0, 0, 0),
        ("at seven, for four", 0, 0, 1, 0),
        ('["7 pm"]', 0, 0, 1, 0),
        ("", 0, 0, 1, 0),
    ],
)
def test_what_an_answer_is_worth(answer, right, f1, wrong, invented):
    assert judge(answer) == (right, f1, wrong, invented)


def test_nothing_to_fill_is_right_when_nothing_is_filled():
    assert judge("{}", reference="{}", asked="hello") == (1, 0, 0, 0)
    assert judge('{"time": "noon"}', reference="{}", asked="hello")[2:] == (1, 1)


def test_the_reference_that_fits_best_counts():
    two = (WANTED, '{"people": "4", "time": "19:00"}')
    assert judge('{"people": "4", "time": "19:00"}', references=two) == (1, 1, 0, 0)


def test_every_answer_key_is_faithful_and_nonsense_is_not():
    assert not METRICS["wrong_slots"].higher_is_better
    for slots in ({}, {"a": "x"}, {"a": ["x", 1], "b": {"c": 2}}):
        text = json.dumps(slots)
        assert judge(text, reference=text)[0] == 1
        assert judge(text, reference=text)[2:] == (0, 0)


@pytest.mark.parametrize("text", ["", "null", "3", "[" * 100_000, '{"a": 1', "{a: 1}"])
def test_what_is_no_object_has_no_slots(text):
    assert read_slots(text) is None
