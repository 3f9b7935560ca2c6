"""Classic baselines on small written rows, and on real ones where they are at hand."""

import csv
import hashlib
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tunewright.errors import Interrupted, RecipeError
from tunewright.evaluate.baselines import (
    BASELINES,
    Material,
    default_baselines,
    run_baselines,
)
from tunewright.evaluate.margins import folds
from tunewright.evaluate.material import NotPossible
from tunewright.evaluate.word_tags import find_words, join_tags
from tunewright.journal import Journal
from tunewright.records import Example, Span

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[3] / "shared" / "data")
CLASSIC = ("nearest_neighbour", "tfidf_linear", "boosted_trees", "majority")
COLOURS = ("red", "green", "blue")


def row(text, output=None, **more):
    content = repr((text, output, sorted(more.items())))
    return Example(
        hashlib.sha256(content.encode()).hexdigest()[:16], "t.csv:1", text, output, **more
    )


def material(task, train, test, labels=(), multi_label=False, asker=None):
    return Material(
        task=task,
        labels=tuple(labels),
        multi_label=multi_label,
        train=tuple(train),
        test=tuple(test),
        split="test",
        seed=17,
        asker=asker,
        advance=lambda done: None,
    )


def colour_rows(count=60):
    kinds = ("apple fire brick", "grass leaf lime", "sky sea denim")
    rows = []
    for number in range(count):
        kind = number % 3
        word = kinds[kind].split()[number // 3 % 3]
        rows.append(row(f"{word} thing number {number}", COLOURS[kind]))
    return rows


def colour_material():
    test = [
        row("a brick", "red"),
        row("some grass", "green"),
        row("denim", "violet"),
        row("", "red"),
    ]
    return material("classify", colour_rows(), test, COLOURS)


def test_default_baselines_fit_task_and_base():
    table = {
        ("classify", "encoder", True): (
            "base", "linear_probe", "nearest_neighbour", "tfidf_linear", "boosted_trees",
            "majority",
        ),
        ("classify", None, False): ("nearest_neighbour", "tfidf_linear", "majority"),
        ("regress", "encoder", False): (
            "linear_probe", "nearest_neighbour", "tfidf_linear", "mean",
        ),
        ("tag", "encoder", False): ("linear_probe", "tfidf_linear", "majority"),
        ("generate", "decoder", False): ("base", "few_shot", "nearest_neighbour"),
        ("chat", "encoder-decoder", False): ("base", "nearest_neighbour"),
        ("continue", "decoder", False): ("base",),
    }  # fmt: skip
    for (task, kind, has_columns), names in table.items():
        assert default_baselines(task, kind=kind, has_columns=has_columns) == names
        assert set(names) <= set(BASELINES)


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(RecipeError, match=r"tfidf_liner.*did you mean tfidf_linear"):
        run_baselines(["majority", "tfidf_liner"], colour_material(), Journal())


@pytest.mark.parametrize("name", CLASSIC)
def test_class_answers_are_whole(name):
    asked = colour_material()
    answers = BASELINES[name](asked)
    assert [a.id for a in answers] == [e.id for e in asked.test]
    for prediction, example in zip(answers, asked.test, strict=True):
        assert prediction.system == name
        assert prediction.split == "test"
        assert prediction.reference == example.output
        assert prediction.prediction in COLOURS
        assert sum(prediction.probabilities) == pytest.approx(1.0)
        assert prediction.confidence == pytest.approx(max(prediction.probabilities))


@pytest.mark.parametrize("name", ["nearest_neighbour", "tfidf_linear"])
def test_text_rivals_learn_words(name):
    answers = BASELINES[name](colour_material())
    assert [a.prediction for a in answers[:3]] == ["red", "green", "blue"]


@pytest.mark.parametrize("name", CLASSIC)
def test_same_answers_twice_and_in_any_order(name):
    asked = colour_material()
    turned = replace(asked, train=asked.train[::-1])
    assert BASELINES[name](asked) == BASELINES[name](asked) == BASELINES[name](turned)


def test_one_label_leaves_linear_models_out_and_the_others_go_on():
    train = [row(f"text {i}", "red") for i in range(20)]
    journal = Journal()
    asked = material("classify", train, [row("text", "red")], COLOURS)
    answers = run_baselines(CLASSIC, asked, journal)
    assert set(answers) == {"nearest_neighbour", "majority"}
    assert [w for w in journal.warnings if "at least two labels" in w] == journal.warnings
    assert len(journal.warnings) == 2


def test_texts_without_a_word():
    train = [row("" if i % 2 else "!!", COLOURS[i % 2], weight=1 + i) for i in range(12)]
    journal = Journal()
    asked = material("classify", train, [row("", "red")], COLOURS)
    answers = run_baselines(CLASSIC, asked, journal)
    assert answers["majority"][0].prediction == "green"
    assert answers["nearest_neighbour"][0].prediction in COLOURS


def test_a_stop_signal_passes_through():
    class Stopping(Journal):
        def progress(self, what, total):
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        run_baselines(["majority"], colour_material(), Stopping())


def test_nothing_to_answer_and_nothing_to_learn_from():
    assert run_baselines(CLASSIC, replace(colour_material(), test=()), Journal()) == {}
    journal = Journal()
    assert run_baselines(CLASSIC, replace(colour_material(), train=()), journal) == {}
    assert len(journal.warnings) == len(CLASSIC)


def test_majority_breaks_ties_by_name_and_tells_shares():
    train = [
        row("a", "red"),
        row("b", "green"),
        row("c", "green"),
        row("d", "red"),
        row("e", "blue"),
    ]
    (answer,) = BASELINES["majority"](material("classify", train, [row("x", "red")], COLOURS))
    assert answer.prediction == "green"
    assert answer.probabilities == pytest.approx((0.4, 0.4, 0.2))


def test_majority_of_label_sets_and_of_spans():
    train = [row("a", ("red", "blue")), row("b", ("blue", "red")), row("c", ("green",))]
    (answer,) = BASELINES["majority"](material("classify", train, [row("x", ())], COLOURS, True))
    assert answer.prediction == ("blue", "red")
    assert answer.confidence == pytest.approx(2 / 3)
    spans = material("tag", [row("a", (Span(0, 1, "x"),))], [row("b", ())], ("x",))
    assert BASELINES["majority"](spans)[0].prediction == ()


@pytest.mark.parametrize("name", ["nearest_neighbour", "tfidf_linear"])
def test_labels_that_do_not_exclude_each_other(name):
    words = {"red": "fire brick", "green": "leaf", "blue": "sea sky"}
    sets = [("red",), ("red", "green"), ("green", "blue"), (), ("blue",), ("red", "blue")]
    train = [
        row(" ".join(words[label] for label in chosen) + f" {n}", chosen)
        for n, chosen in enumerate(sets * 12)
    ]
    test = [row("fire brick leaf", ("red", "green")), row("sea sky", ("blue",))]
    answers = BASELINES[name](material("classify", train, test, (*COLOURS, "never"), True))
    assert [set(a.prediction) for a in answers] == [{"red", "green"}, {"blue"}]
    for answer in answers:
        assert all(0 <= p <= 1 for p in answer.probabilities)
        assert answer.probabilities[3] < 0.5
        assert 0.5 <= answer.confidence <= 1


def test_boosted_trees_of_labels_that_do_not_exclude_each_other():
    train = [
        row("", tuple(c for c, on in (("red", a > 5), ("green", b > 5)) if on),
            columns=(("a", float(a)), ("b", float(b))))
        for a in range(12) for b in range(12)
    ]  # fmt: skip
    test = [row("", ("red",), columns=(("a", 9.0), ("b", 1.0)))]
    answers = BASELINES["boosted_trees"](material("classify", train, test, COLOURS, True))
    assert answers[0].prediction == ("red",)


def number_rows(count):
    rng = np.random.default_rng(5)
    rows = []
    for number in range(count):
        size, kind = float(rng.uniform(0, 10)), ("cheap", "dear")[number % 2]
        known = None if number % 11 == 0 else size
        value = 3 * size + (20 if kind == "dear" else 0)
        columns = (("size", known), ("kind", kind), ("empty", None))
        rows.append(row(f"offer {number}", value, columns=columns))
    return rows


@pytest.mark.parametrize("name", ["nearest_neighbour", "tfidf_linear", "boosted_trees"])
def test_numbers_from_columns_with_gaps(name):
    rows = number_rows(240)
    asked = material("regress", rows[:200], rows[200:])
    error, blind = (
        np.mean([abs(a.prediction - a.reference) for a in BASELINES[n](asked)])
        for n in (name, "mean")
    )
    assert error < 0.5 * blind


def test_mean_is_the_mean_of_training():
    asked = material("regress", [row("a", 1.0), row("b", 4.0)], [row("c", 9.0)])
    assert BASELINES["mean"](asked)[0].prediction == pytest.approx(2.5)


def test_trees_find_what_a_line_cannot():
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(500):
        a, b = float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1))
        columns = (("a", a), ("b", b), ("shop", str(rng.integers(400))))
        rows.append(row("", "red" if a * b > 0 else "green", columns=columns))
    asked = material("classify", rows[:400], rows[400:], ("green", "red"))
    shares = {n: right(BASELINES[n](asked)) for n in ("boosted_trees", "tfidf_linear")}
    assert shares["boosted_trees"] > 0.85 > 0.7 > shares["tfidf_linear"]


def right(answers):
    return np.mean([a.prediction == a.reference for a in answers])


def tagged(city, number):
    text = f"please fly me to {city} on day {number}"
    start, day = text.index(city), text.index(str(number), text.index("day"))
    return row(text, (Span(start, start + len(city), "city"), Span(day, len(text), "day")))


def test_words_are_tagged_as_spans():
    cities = ("Oslo", "New York", "Rome", "Buenos Aires", "Paris", "Cape Town")
    train = [tagged(cities[n % 6], n) for n in range(60)]
    test = [tagged("New York", 77), tagged("Madrid", 5), row("", ())]
    answers = BASELINES["tfidf_linear"](material("tag", train, test, ("city", "day")))
    assert [a.prediction for a in answers] == [e.output for e in test]
    assert all(0 < a.confidence <= 1 for a in answers)


def test_tags_join_into_spans():
    places = find_words("in New York, Rome")
    assert [("in New York, Rome")[a:b] for a, b in places] == ["in", "New", "York", ",", "Rome"]
    assert join_tags([0, 1, 2, 0, 2], places, ("city",)) == (
        Span(3, 11, "city"),
        Span(13, 17, "city"),
    )
    assert len(join_tags([0, 1, 1, 0, 0], places, ("city",))) == 2
    assert join_tags([0, 1, 4, 0, 0], places, ("city", "day"))[1] == Span(7, 11, "day")


def test_nearest_neighbour_answers_with_a_training_completion():
    train = [row(f"draw {w} {n}", f"{w}!") for w in COLOURS for n in range(5)]
    test = [row("draw green 3", "?"), row("please draw something blue", "?"), row("", "?")]
    asked = material("generate", train, test)
    answers = BASELINES["nearest_neighbour"](asked)
    assert {a.prediction for a in answers} <= {e.output for e in train}
    assert [a.prediction for a in answers[:2]] == ["green!", "blue!"]
    assert answers[0].confidence == pytest.approx(1.0)
    assert [a.references for a in answers] == [e.references for e in test]


def test_equal_prompts_are_answered_by_the_first_id():
    train = [
        replace(row("same prompt", text), id=name) for text, name in (("b", "02"), ("a", "01"))
    ]
    for order in (train, train[::-1]):
        asked = material("chat", [*order, row("other", "c")], [row("same prompt", "?")])
        assert BASELINES["nearest_neighbour"](asked)[0].prediction == "a"


def test_baselines_of_other_tasks_say_so():
    with pytest.raises(NotPossible, match="regress tasks, not classify"):
        BASELINES["mean"](colour_material())
    with pytest.raises(NotPossible, match="no base model"):
        BASELINES["base"](colour_material())


def test_folds_deal_every_label_out():
    labels = np.repeat(np.arange(4), [10, 5, 20, 1])
    fold = folds(labels, 5, 1)
    assert all(Counter(fold[labels == 2])[n] == 4 for n in range(5))
    assert (fold == folds(labels, 5, 1)).all()


def read_csv(path, per_label=None):
    if not path.exists():
        pytest.skip(f"no {path.parent.name}: set TUNEWRIGHT_DATA to the folder of real data")
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row(text, label) for text, label in list(csv.reader(file))[1:]]
    counts: Counter[str] = Counter()
    kept = []
    for example in sorted(rows, key=lambda e: e.id):
        counts[example.output] += 1
        if per_label is None or counts[example.output] <= per_label:
            kept.append(example)
    return kept


def banking(per_label):
    train = read_csv(DATA / "banking77" / "train.csv", per_label)
    test = read_csv(DATA / "banking77" / "test.csv", None if per_label is None else 10)
    return material("classify", train, test, sorted({e.output for e in train}))


def test_tfidf_linear_on_banking_rows():
    asked = banking(15)
    answers = BASELINES["tfidf_linear"](asked)
    assert right(answers) > 0.74
    certain = np.array([a.confidence for a in answers])
    assert abs(certain.mean() - right(answers)) < 0.1
    assert right(BASELINES["nearest_neighbour"](asked)) > 0.62


@pytest.mark.slow
def test_tfidf_linear_on_all_banking_rows():
    assert right(BASELINES["tfidf_linear"](banking(None))) > 0.911


def test_tfidf_linear_on_sms_spam():
    path = DATA / "sms_spam" / "SMSSpamCollection"
    if not path.exists():
        pytest.skip("no sms_spam: set TUNEWRIGHT_DATA to the folder of real data")
    unique = {}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        label, text = line.split("\t", 1)
        unique.setdefault(re.sub(r"\W+", " ", text.lower()).strip(), row(text, label))
    rows = sorted(unique.values(), key=lambda e: e.id)
    fifth = len(rows) // 5
    asked = material("classify", rows[fifth:], rows[:fifth], ("ham", "spam"))
    answers = BASELINES["tfidf_linear"](asked)
    hits = sum(a.prediction == a.reference == "spam" for a in answers)
    named = sum((a.prediction == "spam") + (a.reference == "spam") for a in answers)
    assert right(answers) > 0.985
    assert 2 * hits / named > 0.95
