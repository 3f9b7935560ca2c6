"""Baselines that ask the untuned base: tiny random models, and the embedded encoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model_zoo import make_tiny
from tunewright.data.render import Rendering, render_prompts
from tunewright.evaluate import few_shot, untuned
from tunewright.evaluate.baselines import BASELINES, Material, run_baselines
from tunewright.evaluate.material import NotPossible
from tunewright.evaluate.predict import Asker
from tunewright.journal import Journal
from tunewright.model.load import load_base
from tunewright.records import Example, Message, Span

LABELS = ("card_arrival", "exchange_rate", "ForgotPin")
TEXTS = {
    "card_arrival": (
        "my card has not come yet",
        "where is the card you sent",
        "card still missing",
    ),
    "exchange_rate": (
        "what rate do you use for euros",
        "the exchange was poor",
        "dollar rate today",
    ),
    "ForgotPin": ("i cannot remember my pin", "pin forgotten, help", "which pin did i choose?"),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    built = {}

    def get(kind):
        if kind not in built:
            built[kind] = make_tiny(kind, tmp_path_factory.mktemp("zoo") / kind)
        return str(built[kind])

    return get


def asker_for(reference, task, labels=(), multi_label=False, max_length=64):
    base = load_base(reference, task=task, labels=labels, multi_label=multi_label)
    native = bool(base.tokenizer.chat_template) and not base.default_template
    how = Rendering(
        task,
        base.tokenizer,
        max_length,
        tuple(labels),
        multi_label,
        base.kind == "encoder-decoder",
        native,
    )
    return Asker(base, how, max_new_tokens=8)


def rows_of(count, output=lambda label, n: label):
    rows = []
    for number in range(count):
        label = LABELS[number % 3]
        text = f"{TEXTS[label][number // 3 % 3]} {'now ' * (number // 9)}"
        rows.append(Example(f"{number:016x}", f"t.csv:{number}", text, output(label, number)))
    return rows


def material(asker, train, test, labels=LABELS, num_few_shot=2):
    how = asker.rendering
    return Material(
        how.task, tuple(labels), how.multi_label, tuple(train), tuple(test), "test", 17, asker,
        lambda done: None, num_few_shot,
    )  # fmt: skip


@pytest.fixture(scope="module")
def minilm():
    return asker_for("embedded:minilm", "classify", LABELS)


def right(answers):
    return np.mean([a.prediction == a.reference for a in answers])


@pytest.mark.parametrize("name", ["base", "linear_probe", "nearest_neighbour"])
def test_encoder_knows_near_texts(minilm, name):
    rows = rows_of(27)
    asked = material(minilm, rows[:18], [*rows[18:], Example("e", "t.csv:9", "", "new")])
    answers = BASELINES[name](asked)
    assert right(answers[:-1]) > 0.85
    assert all(sum(a.probabilities) == pytest.approx(1.0, abs=1e-5) for a in answers)
    assert all(a.system == name and a.prediction in LABELS for a in answers)
    again = BASELINES[name](replace(asked, memo={}))
    assert [a.prediction for a in again] == [a.prediction for a in answers]


def test_label_names_as_words():
    assert untuned.readable("card_arrival") == "card arrival"
    assert untuned.readable("CardArrival") == "card arrival"
    assert untuned.readable("ATM-fee.charged") == "ATM fee charged"
    assert untuned.readable("__") == "__"


def test_base_needs_no_training_row(minilm):
    assert len(BASELINES["base"](material(minilm, [], rows_of(3)))) == 3


def test_probe_of_one_label_is_left_out_with_a_sentence(minilm):
    journal = Journal()
    same = [replace(row, output="ForgotPin") for row in rows_of(9)]
    asked = material(minilm, same, rows_of(3))
    assert set(run_baselines(["base", "linear_probe"], asked, journal)) == {"base"}
    assert "linear_probe is left out: it needs at least two labels" in journal.warnings[0]


def test_probe_of_labels_that_do_not_exclude_each_other():
    asker = asker_for("embedded:minilm", "classify", (*LABELS, "never"), multi_label=True)
    rows = rows_of(36, lambda label, n: (label,))
    asked = material(asker, rows[:27], rows[27:], (*LABELS, "never"))
    answers = BASELINES["linear_probe"](asked)
    assert right(answers) > 0.85
    assert all(a.probabilities[3] == 0.0 for a in answers)
    assert all(len(a.prediction) == 1 for a in BASELINES["base"](asked))


def test_probe_of_numbers():
    asker = asker_for("embedded:minilm", "regress")
    rows = rows_of(36, lambda label, n: 10.0 * LABELS.index(label))
    asked = material(asker, rows[:27], rows[27:], ())
    error = np.mean([abs(a.prediction - a.reference) for a in BASELINES["linear_probe"](asked)])
    assert error < 4
    with pytest.raises(NotPossible, match="no answer to regress"):
        BASELINES["base"](asked)


def test_probe_of_tokens_finds_spans():
    asker = asker_for("embedded:minilm", "tag", ("city",))
    cities = ("Oslo", "Rome", "Paris", "Madrid", "Berlin", "Vienna")
    rows = []
    for number in range(36):
        city = cities[number % 6]
        text = ("fly me to {} please", "in {} it rains", "{} is a city")[number % 3].format(city)
        start = text.index(city)
        span = Span(start, start + len(city), "city")
        rows.append(Example(f"{number:016x}", "t.jsonl:1", text, (span,)))
    asked = material(asker, rows[:24], rows[24:], ("city",))
    answers = BASELINES["linear_probe"](asked)
    assert right(answers) > 0.85
    assert all(0 < a.confidence <= 1 for a in answers)
    with pytest.raises(NotPossible, match="no answer to tag"):
        BASELINES["base"](asked)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_decoder_reads_label_names(tiny, kind, monkeypatch):
    asker = asker_for(tiny(kind), "classify", LABELS)
    asked = material(asker, [], rows_of(4))
    read = BASELINES["base"](asked)
    assert all(sum(a.probabilities) == pytest.approx(1.0) for a in read)
    assert asker.base.task == "classify"
    monkeypatch.setattr(untuned, "MAX_SCORED_PAIRS", 11)
    compared = BASELINES["base"](asked)
    assert all(sum(a.probabilities) == pytest.approx(1.0, abs=1e-5) for a in compared)
    assert [a.probabilities for a in read] != [a.probabilities for a in compared]


def test_label_scores_are_a_difference_in_nats(tiny):
    """An empty text tells nothing, so that it makes no label likelier."""
    asker = asker_for(tiny("llama"), "classify", LABELS)
    empty = replace(rows_of(1)[0], input="")
    scores = untuned.score_label_names(asker, material(asker, [], [empty, *rows_of(2)]))
    assert scores.shape == (3, 3)
    assert scores[0] == pytest.approx(np.zeros(3), abs=1e-5)
    assert np.abs(scores[1:]).max() > 1e-3


def prose(count):
    return rows_of(count, lambda label, n: f"{label} {n}")


@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "t5"])
def test_zero_shot_is_what_the_base_says(tiny, kind):
    asker = asker_for(tiny(kind), "generate", max_length=120)
    test = prose(4)
    answers = BASELINES["base"](material(asker, [], test, ()))
    said = asker.predict(test, system="base", split="test")
    assert [(a.prediction, a.nll_nats) for a in answers] == [
        (s.prediction, s.nll_nats) for s in said
    ]
    assert all(a.num_tokens > 0 and a.system == "base" for a in answers)


def test_continued_text_has_bits_only(tiny):
    asker = asker_for(tiny("llama"), "continue")
    rows = [replace(row, output=None) for row in prose(3)]
    answers = BASELINES["base"](material(asker, [], rows, ()))
    assert all(a.prediction is None and a.nll_nats > 0 and a.num_bytes > 0 for a in answers)


@pytest.mark.parametrize(
    ("kind", "task"), [("gpt2", "generate"), ("qwen3", "chat"), ("t5", "generate")]
)
def test_few_shot_shows_examples_and_keeps_the_rows(tiny, kind, task):
    asker = asker_for(tiny(kind), task, max_length=100)
    rows = prose(12)
    asked = material(asker, rows[:8], rows[8:], ())
    answers = BASELINES["few_shot"](asked)
    assert [a.input for a in answers] == [e.input for e in rows[8:]]
    assert [a.reference for a in answers] == [e.output for e in rows[8:]]
    plain = BASELINES["base"](asked)
    # The loss counts the asked answer only, however many answers stand before it.
    assert [a.num_tokens for a in answers] == [a.num_tokens for a in plain]
    assert [a.nll_nats for a in answers] != [a.nll_nats for a in plain]
    again = BASELINES["few_shot"](replace(asked, train=tuple(rows[:8][::-1])))
    assert [a.prediction for a in again] == [a.prediction for a in answers]


@pytest.mark.parametrize(("kind", "task"), [("gpt2", "generate"), ("qwen3", "chat")])
def test_shots_stand_before_the_prompt_and_leave_room(tiny, kind, task):
    asker = few_shot._with_whole_window(asker_for(tiny(kind), task, max_length=16))
    assert asker.rendering.max_length == {"gpt2": 128, "qwen3": 256}[kind]
    rows = prose(30)
    shots = few_shot.choose_shots(material(asker, rows, [], ()), asker)
    assert len(shots) == 2
    test = [rows[9], replace(rows[9], id="long", input="long text " * 6)]
    fitted = few_shot.fit_shots(test, [shots] * len(test), asker)
    for prompt in render_prompts(fitted, asker.rendering):
        assert prompt.size + asker.max_new_tokens <= asker.rendering.max_length
    text = asker.rendering.tokenizer.decode(render_prompts(fitted, asker.rendering)[0])
    places = [text.index(str(part)) for s in shots for part in (s.input, s.output)]
    assert places == sorted(places)
    assert text.rindex(rows[9].input.strip()) > places[-1]


@pytest.mark.parametrize(("kind", "task"), [("gpt2", "generate"), ("qwen3", "chat")])
def test_retrieved_shows_each_prompt_its_nearest_rows(tiny, kind, task, monkeypatch):
    asker = asker_for(tiny(kind), task, max_length=100)
    rows = prose(12)
    near = [replace(rows[8], id=f"near{i}", input=f"{rows[8].input} {i}") for i in range(2)]
    asked = replace(material(asker, [*rows[:8], *near], rows[8:9], ()), num_few_shot=2)
    seen = []
    plain = few_shot.with_shots
    monkeypatch.setattr(few_shot, "with_shots",
                        lambda e, shots, a: seen.append(shots) or plain(e, shots, a))  # fmt: skip
    answers = BASELINES["retrieved"](asked)
    assert {shot.id for shot in seen[0]} == {"near0", "near1"}
    assert answers[0].system == "retrieved" and answers[0].input == rows[8].input
    with pytest.raises(NotPossible, match="num_few_shot is 0"):
        BASELINES["retrieved"](replace(asked, num_few_shot=0))


def test_nearest_rows_come_nearest_first_and_no_text_twice():
    from tunewright.evaluate.nearest import nearest_rows

    rows = [Example(str(i), "x", text, "a") for i, text in enumerate(
        ["my card is lost", "my card is lost", "the card was lost today", "opening hours", ""]
    )]  # fmt: skip
    test = [Example("t", "x", "my card is lost!")]
    (found,) = nearest_rows(rows, test, 3, 1)
    assert [row.input for row in found[:2]] == ["my card is lost", "the card was lost today"]
    assert len({row.input for row in found}) == 3
    assert nearest_rows([], test, 3, 1) == [()] and nearest_rows(rows, [], 3, 1) == []


def test_the_systems_turn_stays_first(tiny):
    asker = asker_for(tiny("qwen3"), "chat")
    turns = (Message("system", "Be kind."), Message("user", "hello"), Message("assistant", "hi"))
    example = Example("a", "t.jsonl:1", "hello", "hi", turns)
    shot = Example("b", "t.jsonl:2", "bye", "see you", (turns[0], Message("user", "bye"),
                   Message("assistant", "see you")))  # fmt: skip
    joined = few_shot.with_shots(example, [shot], asker).messages
    assert [turn.content for turn in joined] == ["Be kind.", "bye", "see you", "hello", "hi"]
    assert [turn.weight for turn in joined if turn.role == "assistant"] == [0.0, None]


def test_no_room_for_shots_is_said(tiny):
    asker = asker_for(tiny("gpt2"), "generate")
    long = [replace(row, input="word " * 100) for row in prose(4)]
    with pytest.raises(NotPossible, match="no training example fits"):
        BASELINES["few_shot"](material(asker, long, prose(2), ()))
    with pytest.raises(NotPossible, match="num_few_shot is 0"):
        BASELINES["few_shot"](material(asker, prose(4), prose(2), (), num_few_shot=0))
