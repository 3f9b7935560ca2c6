"""Graders as OpenAI's API writes them."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.errors import RecipeError
from tunewright.evaluate.api_graders import grade, read_grader
from tunewright.evaluate.filling import FillError, FormulaError, fill, read_formula, value_of
from tunewright.metrics.overlap import SIMILARITIES

ITEM = {"answer": "Paris", "facts": [{"year": 1889}], "n": 3}
CHECK = {"type": "string_check", "name": "same", "input": "{{sample.output_text}}",
         "reference": "{{ item.answer }}", "operation": "eq"}  # fmt: skip
LIKE = {"type": "text_similarity", "name": "like", "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}", "evaluation_metric": "rouge_1"}  # fmt: skip


def reward(spec, answer, write=None):
    return grade(read_grader(spec), ITEM, answer, write)


@pytest.mark.parametrize(
    ("operation", "answer", "wanted"),
    [("eq", "Paris", 1), ("eq", "paris", 0), ("ne", "paris", 1), ("like", "It is Paris.", 1),
     ("like", "it is paris", 0), ("ilike", "it is paris", 1)],
)  # fmt: skip
def test_string_checks(operation, answer, wanted):
    assert reward({**CHECK, "operation": operation}, answer).reward == wanted


def test_holes_lead_into_the_row_and_the_answer():
    values = {"item": ITEM, "sample": {"output_json": {"a": [1, {"b": "c"}]}}}
    text = "{{item.facts[0].year}} {{sample.output_json.a[1].b}} {{item.facts}}"
    assert fill(text, values) == '1889 c [{"year": 1889}]'
    for bad in ("{{item.none}}", "{{item.facts[9]}}", "{{answer}}", "{{item.answer.x.y}}"):
        with pytest.raises(FillError):
            fill(bad, values)
    missing = reward({**CHECK, "reference": "{{item.gone}}"}, "Paris")
    assert missing.reward == 0 and "item.gone" in missing.errors["invalid_variable_error"]


def test_a_formula_over_several():
    many = {"type": "multi", "name": "both", "graders": {"a": CHECK, "b": LIKE},
            "calculate_output": "0.25 * a + 0.75 * max(b, 0)"}  # fmt: skip
    found = reward(many, "Paris is nice")
    assert found.scores == {"a": 0.0, "b": pytest.approx(0.5)}
    assert found.reward == pytest.approx(0.375)
    nothing = reward({**many, "calculate_output": "1 / a"}, "Rome")
    assert nothing.reward == 0 and "formula_parse_error" in nothing.errors


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "a.b", "a if b else c", "(lambda: 1)()", "a[0]", "c + 1", "min()", "'x'",
     "a and b", "f(a)", "9**" * 200 + "9", "(" * 400 + "a" + ")" * 400, "", "[a]", "True.real"],
)  # fmt: skip
def test_no_formula_runs_code(text):
    with pytest.raises(FormulaError):
        value_of(read_formula(text, frozenset("ab")), {"a": 1.0, "b": 2.0})


def test_models_that_grade():
    asked = []

    def write(model, turns, params, schema):
        asked.append((model, turns, params, schema))
        return '{"result": 4}' if schema["properties"]["result"].get("type") else "good, I think"

    turns = [{"role": "user", "content": "How good is {{sample.output_text}}?"}]
    score = {"type": "score_model", "name": "s", "model": "m", "input": turns, "range": [1, 5],
             "sampling_params": {"seed": 3}}  # fmt: skip
    assert reward(score, "Rome", write).reward == 4
    assert "How good is Rome?" in asked[0][1][0][1] and asked[0][2] == {"seed": 3}
    assert reward({**score, "range": [0, 1]}, "x", write).errors.keys() == {
        "model_grader_parse_error"
    }
    label = {"type": "label_model", "name": "l", "model": "m", "input": turns,
             "labels": ["bad", "good"], "passing_labels": ["good"]}  # fmt: skip
    assert reward(label, "Rome", write).reward == 1
    assert "model_grader_server_error" in reward(score, "x").errors


def test_code_that_grades():
    code = "def grade(sample, item):\n    return len(sample['output_text']) / item['n']\n"
    python = {"type": "python", "name": "p", "source": code}
    assert reward(python, "abc").reward == 1.0
    broken = reward({**python, "source": "x = 1"}, "abc")
    assert broken.reward == 0 and "python_grader_runtime_error" in broken.errors


@pytest.mark.parametrize(
    ("change", "match"),
    [({"type": "other"}, "grader"), ({"operation": "lt"}, "operation"), ({"name": ""}, "name"),
     ({"input": "{{x}}"}, "item.KEY"), ({"input": 3}, "input"),
     ({**LIKE, "evaluation_metric": "cosine"}, "cosine"),
     ({"type": "multi", "graders": {"a": CHECK}, "calculate_output": "b"}, "no grader"),
     ({"type": "label_model", "model": "m", "input": [{"role": "user", "content": "x"}],
       "labels": ["a"], "passing_labels": ["b"]}, "passing_labels"),
     ({"type": "score_model", "model": "m",
       "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
      "input_image")],
)  # fmt: skip
def test_what_is_no_grader_is_refused_by_key(change, match):
    with pytest.raises(RecipeError, match=match):
        read_grader({**CHECK, **change})


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(SIMILARITIES)), st.text(max_size=40), st.text(max_size=40))
def test_similarities_lie_between_nothing_and_the_same(name, a, b):
    assert 0.0 <= SIMILARITIES[name](a, b) <= 1.0 + 1e-9


def test_similarities_against_values_found_by_hand():
    text, other = "the cat sat on the mat", "the cat sat on a mat"
    assert all(value(text, text) > 0.99 for value in SIMILARITIES.values())
    assert all(value("dog", text) < 0.2 for value in SIMILARITIES.values())
    assert SIMILARITIES["rouge_1"](text, other) == pytest.approx(5 / 6)
    assert SIMILARITIES["rouge_2"](text, other) == pytest.approx(3 / 5)
    assert SIMILARITIES["rouge_l"](text, other) == pytest.approx(5 / 6)
    assert SIMILARITIES["gleu"](text, other) == pytest.approx((5 + 3 + 2 + 1) / 18)


@pytest.mark.parametrize(
    "text",
    ["{{" * 50_000, "{{a" * 30_000, "{{ " + " " * 90_000, "}}" * 50_000, "{{item.answer}}" * 6000,
     "{{item.big}}" * 8000],
)  # fmt: skip
def test_S15_texts_of_graders_never_take_long_or_grow_without_end(text):
    started = time.process_time()
    item = {**ITEM, "big": "x" * 100_000}
    try:
        found = grade(read_grader({**CHECK, "input": text}), item, "Paris", None)
    except RecipeError:
        pass
    else:
        assert found.reward == 0.0
    assert time.process_time() - started < 2


@pytest.mark.parametrize("name", sorted(SIMILARITIES))
def test_S15_long_texts_are_compared_in_time(name):
    texts = ("a" * 200_000, "a " * 100_000, " ".join(f"w{n % 50}" for n in range(40_000)))
    started = time.process_time()
    for text in texts:
        SIMILARITIES[name](text, text[::-1])
    assert time.process_time() - started < 10
