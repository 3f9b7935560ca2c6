import json
import os
from pathlib import Path

import pytest

from tunewright.data.columns import find_layout, make_example
from tunewright.data.formats import read_rows
from tunewright.errors import DataError
from tunewright.records import Message, Span
from tunewright.sections import Columns, DataSection

REAL = Path(os.environ.get("TUNEWRIGHT_DATA", Path(__file__).parents[3] / "shared" / "data"))
real_rows = pytest.mark.skipif(not REAL.is_dir(), reason="no real data here; set TUNEWRIGHT_DATA")


def place_rows(rows):
    return [(f"d.jsonl:{number}", row) for number, row in enumerate(rows, 1)]


def layout_of(rows, task=None, **data):
    return find_layout(place_rows(rows), DataSection(**data), task)


def first(rows, task=None, **data):
    section = DataSection(**data)
    layout = find_layout(place_rows(rows), section, task)
    return layout, make_example("d.jsonl:1", rows[0], layout, section)


def failure(rows, task=None, **data):
    with pytest.raises(DataError) as caught:
        first(rows, task, **data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def talk(*pairs):
    return tuple(Message(role, content) for role, content in pairs)


QA = talk(("user", "Q"), ("assistant", "A"))


@pytest.mark.parametrize(
    ("row", "shape", "task", "messages"),
    [
        (
            {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
            "messages",
            "chat",
            QA,
        ),
        (
            {
                "messages": json.dumps(
                    [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
                )
            },
            "messages",
            "chat",
            QA,
        ),
        (
            {
                "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}],
                "system": "S",
            },
            "sharegpt",
            "chat",
            talk(("system", "S"), ("user", "Q"), ("assistant", "A")),
        ),
        ({"prompt": "Q", "completion": "A"}, "prompt-completion", "generate", QA),
        (
            {
                "prompt": [{"role": "user", "content": "Q"}],
                "completion": [{"role": "assistant", "content": "A"}],
            },
            "prompt-completion",
            "generate",
            QA,
        ),
        (
            {"instruction": "I", "input": "X", "output": "A", "system": "S"},
            "instruction",
            "generate",
            talk(("system", "S"), ("user", "I\n\nX"), ("assistant", "A")),
        ),
        (
            {"instruction": "I", "input": "", "output": "A", "history": [["q1", "a1"]]},
            "instruction",
            "chat",
            talk(("user", "q1"), ("assistant", "a1"), ("user", "I"), ("assistant", "A")),
        ),
        ({"query": "Q", "response": "A"}, "query-response", "generate", QA),
        ({"question": "Q", "answer": "A"}, "query-response", "generate", QA),
    ],
)
def test_conversation_shapes(row, shape, task, messages):
    layout, example = first([row])
    assert (layout.shape, layout.task) == (shape, task)
    assert example.messages == messages
    assert example.output == "A"
    assert layout.reasons


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, "preference"),
        (
            {
                "chosen": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}],
                "rejected": [
                    {"role": "user", "content": "Q"},
                    {"role": "assistant", "content": "B"},
                ],
            },
            "preference",
        ),
        (
            {
                "input": {"messages": [{"role": "user", "content": "Q"}]},
                "preferred_output": [{"role": "assistant", "content": "A"}],
                "non_preferred_output": [{"role": "assistant", "content": "B"}],
            },
            "openai-preference",
        ),
    ],
)
def test_preference_pairs(row, shape):
    layout, example = first([row])
    assert layout.shape == shape
    assert (example.messages, example.output, example.rejected) == (QA, "A", "B")


def test_unpaired_preferences_keep_good_answers_and_mark_bad_ones():
    rows = [
        {"prompt": "Q", "completion": "A", "label": True},
        {"prompt": "Q2", "completion": "B", "label": False},
    ]
    layout, example = first(rows)
    assert layout.shape == "unpaired-preference"
    assert (example.output, example.rejected) == ("A", None)
    bad = make_example("d:2", rows[1], layout, DataSection())
    assert (bad.output, bad.rejected) == (None, "B")


def test_system_prompt_goes_before_conversations_without_one():
    _, example = first([{"prompt": "Q", "completion": "A"}], system_prompt="Be brief")
    assert example.messages == (Message("system", "Be brief"), *QA)
    assert example.input == "Q"
    _, example = first(
        [{"prompt": "Q", "completion": "A", "system": "S"}], system_prompt="Be brief"
    )
    assert example.messages[0].content == "S"


def test_message_weights_tools_and_calls_are_kept():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    row = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Q"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "42", "tool_call_id": "1"},
            {"role": "assistant", "content": "A", "weight": 0},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }
    layout, example = first([row])
    assert layout.task == "chat"
    assert example.messages[1].tool_calls == (call,)
    assert example.messages[2].tool_call_id == "1"
    assert example.messages[3].weight == 0.0
    assert example.tools == tuple(row["tools"])
    assert example.input.startswith("user: Q\nassistant: ")


@pytest.mark.parametrize(
    ("messages", "part"),
    [
        (
            [{"role": "asistant", "content": "x"}],
            "d.jsonl:1: role 'asistant' unknown; use system, user, assistant or tool",
        ),
        ([{"content": "x"}], "d.jsonl:1: message"),
        (["x"], "d.jsonl:1: message 'x' has no role"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "type 'image_url'; only text"),
        ([{"role": "user", "content": "x", "weight": "a"}], "message weight 'a'"),
        ([{"role": "assistant", "content": "", "tool_calls": ["x"]}], "tool_calls holds"),
    ],
)
def test_broken_conversations_are_named(messages, part):
    assert part in failure([{"messages": messages}])


def label_rows(count=40):
    return [{"text": f"words about thing number {i}", "label": "ab"[i % 2]} for i in range(count)]


def test_text_and_label():
    layout, example = first(label_rows())
    assert (layout.task, layout.labels, layout.multi_label) == ("classify", ("a", "b"), False)
    assert (example.input, example.output) == ("words about thing number 0", "a")


def test_rows_of_another_shape_are_named_where_columns_are_given_too():
    rows = [*label_rows(4), {"messages": [{"role": "user", "content": "x"}]}]
    told = failure(rows, columns={"input": "text", "output": "label"})
    assert "d.jsonl:5: a row of shape (messages) where d.jsonl:1 has (label, text)" in told
    assert "keep one shape" in told
    rows[4] = {"label": "a", "text": None}  # a gap is no other shape
    assert layout_of(rows, columns={"input": "text", "output": "label"}).task == "classify"


def test_a_model_that_writes_is_asked_for_the_label_and_not_for_the_text():
    layout, example = first(label_rows(), task="generate")
    assert (layout.task, example.input, example.output) == (
        "generate", "words about thing number 0", "a",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 1], ("0", "1")),
        ([True, False], ("0", "1")),
        ([1.0, 2.0], ("1", "2")),
        ([" a", "b "], ("a", "b")),
    ],
)
def test_labels_become_plain_texts(values, labels):
    rows = [{"text": f"words about thing {i}", "label": values[i % 2]} for i in range(20)]
    assert layout_of(rows, "classify").labels == labels


def test_columns_are_found_by_content_where_names_say_nothing():
    rows = [{"col1": f"a longer text with words {i}", "col2": "xyz"[i % 3]} for i in range(60)]
    layout = layout_of(rows)
    assert (layout.columns.input, layout.columns.output, layout.task) == (
        "col1",
        "col2",
        "classify",
    )


def test_side_columns_beside_the_text():
    rows = [
        {
            "id": i,
            "text": f"order number {i} is late",
            "label": "ab"[i * 7 % 5 % 2],
            "amount": str(i * 3.7 % 11),
            "country": ["NO", "SE", "n/a"][i % 3],
            "when": f"2024-01-{i % 28 + 1:02d}",
            "customer_id": f"c{i % 9}",
        }
        for i in range(80)
    ]
    layout, example = first(rows)
    assert layout.columns.numeric == ("amount",)
    assert layout.columns.categorical == ("country",)
    assert example.columns == (("amount", 0.0), ("country", "NO"))
    third = make_example("d:3", rows[2], layout, DataSection())
    assert third.columns[1] == ("country", None)


def test_a_column_that_gives_the_label_away_is_left_out():
    rows = [
        {**row, "label_text": {"a": "alpha", "b": "beta"}[row["label"]]} for row in label_rows()
    ]
    layout = layout_of(rows)
    assert layout.columns.categorical == ()
    assert any("label_text is left out: it alone tells the output" in r for r in layout.reasons)


def test_table_without_text_is_written_out():
    rows = [{"amount": i * 1.5 % 13, "hour": i % 24, "fraud": i % 2} for i in range(100)]
    layout, example = first(rows, "classify")
    assert layout.columns.input is None
    assert example.input == "amount: 0; hour: 0"


def test_numbers_to_learn_make_a_regression():
    rows = [{"text": f"a house with {i} rooms", "price": f"{100.5 * i}"} for i in range(40)]
    layout, example = first(rows)
    assert (layout.task, example.output) == ("regress", 0.0)
    rows[3]["price"] = "cheap"
    with pytest.raises(
        DataError, match="d.jsonl:4: 'cheap' in column price where a number belongs"
    ):
        make_example("d.jsonl:4", rows[3], layout, DataSection())


def test_multi_label_by_list_and_by_separator():
    rows = [
        {"text": f"words about it {i}", "labels": [["a", "b"], ["b"], []][i % 3]} for i in range(30)
    ]
    layout, example = first(rows)
    assert (layout.multi_label, layout.labels, example.output) == (True, ("a", "b"), ("a", "b"))
    joined = [{"text": row["text"], "labels": " | ".join(row["labels"])} for row in rows]
    layout, example = first(joined, "classify", label_separator="|")
    assert (layout.multi_label, layout.labels, example.output) == (True, ("a", "b"), ("a", "b"))


SPANS = [
    [{"start": 5, "end": 8, "label": "NAME"}],
    [[5, 8, "NAME"]],
    {"NAME": {"text": "Ada", "span": [5, 8]}},
    [{"slot": "NAME", "valueSpan": {"startIndex": 5, "endIndex": 8}}],
    '[{"start": 5, "end": 8, "entity": "NAME"}]',
]


@pytest.mark.parametrize("cell", SPANS)
def test_spans_in_every_form(cell):
    layout, example = first([{"text": "Call Ada now", "spans": cell}])
    assert (layout.task, layout.labels) == ("tag", ("NAME",))
    assert example.output == (Span(5, 8, "NAME"),)


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        (["O", "B-N", "I-N", "O"], [(5, 17)]),
        (["O", "B-N", "B-N", "O"], [(5, 8), (9, 17)]),
        (["O", "I-N", "E-N", "O"], [(5, 17)]),
        (["O", "S-N", "S-N", "O"], [(5, 8), (9, 17)]),
        (["O", "N", "N", "O"], [(5, 17)]),
    ],
)
def test_tokens_with_tags(tags, spans):
    row = {"tokens": ["Call", "Ada", "Lovelace", "now"], "ner_tags": tags}
    layout, example = first([row])
    assert (layout.task, layout.shape) == ("tag", "tokens")
    assert example.input == "Call Ada Lovelace now"
    assert example.output == tuple(Span(start, end, "N") for start, end in spans)


def test_broken_spans_and_tags_are_named():
    bad = {"text": "Call Ada", "spans": [{"start": 5, "end": 80, "label": "N"}]}
    assert "d.jsonl:1: span 5..80 (N) does not lie in the text of 8 characters" in failure([bad])
    odd = {"tokens": ["a", "b"], "ner_tags": ["O"]}
    assert "d.jsonl:1: 2 tokens but 1 tags" in failure([odd])
    cell = {"text": "Call Ada", "spans": [{"start": 5}]}
    assert "span" in failure([cell], "tag", columns=Columns(input="text", output="spans"))


def test_named_columns_win_over_every_guess():
    rows = [{**row, "note": f"other words that are long {i}"} for i, row in enumerate(label_rows())]
    layout, example = first(rows, columns=Columns(input="note"))
    assert layout.columns.input == "note"
    assert example.input == "other words that are long 0"
    layout = layout_of(rows, columns=Columns(output="note", input="label"))
    assert (layout.task, layout.columns.output) == ("generate", "note")


@pytest.mark.parametrize(
    ("rows", "task", "data", "parts"),
    [
        ([{"text": "a b c"}, {"text": "d e f"}], "classify", {}, ["only one column, 'text'"]),
        (
            [{"a": "x", "b": "y"}] * 9,
            None,
            {},
            [
                "d.jsonl: which column must come out? columns: a ('x'); b ('y')",
                "set data.columns.output",
            ],
        ),
        (
            label_rows(),
            None,
            {"columns": Columns(output="lable")},
            ["no column 'lable' (data.columns.output); did you mean 'label'?"],
        ),
        (
            label_rows(),
            None,
            {"group": "client"},
            ["no column 'client' (data.group); there are: text"],
        ),
        (
            [{"messages": []}] * 3 + [{"prompt": "a", "completion": "b"}],
            None,
            {},
            ["d.jsonl:4: a row of shape prompt-completion where d.jsonl:1 has messages"],
        ),
        (
            [{"text": "a", "label": "x"}] * 3 + [{"sentence": "b", "class": "y"}],
            None,
            {},
            ["d.jsonl:4: a row of shape (class, sentence) where d.jsonl:1 has (label, text)"],
        ),
        (
            [{"text": f"a longer text {i}", "y": "1"} for i in range(20)],
            "regress",
            {},
            ["column y always holds 1"],
        ),
        ([{"chosen": "a", "rejected": "b"}], None, {}, ["chosen and rejected without a prompt"]),
        (
            [{"prompt": "a", "completion": "b"}],
            "tag",
            {},
            ["rows of shape prompt-completion hold no spans"],
        ),
        ([], None, {}, ["no rows"]),
        (
            [{"text": f"text of row {i}", "label": None} for i in range(9)],
            "classify",
            {},
            ["set data.columns.output"],
        ),
    ],
)
def test_what_is_not_clear_is_asked_for(rows, task, data, parts):
    message = failure(rows, task, **data)
    for part in parts:
        assert part in message


def test_ids_depend_on_content_alone():
    rows = label_rows()
    layout, example = first(rows)
    again = make_example("other.csv:9", rows[0], layout, DataSection())
    assert example.id == again.id and len(example.id) == 16
    assert again.place == "other.csv:9"
    changed = make_example("x:1", {**rows[0], "label": "b"}, layout, DataSection())
    assert changed.id != example.id


def test_a_named_id_column_stands_in_the_place():
    rows = [{"ticket": f"T-{i}", **row} for i, row in enumerate(label_rows())]
    _, example = first(rows, columns=Columns(id="ticket"))
    assert example.place == "d.jsonl:1 (T-0)"


def test_classes_can_be_the_answers_of_conversations():
    rows = [{"prompt": f"is it good {i}", "completion": ["yes", "no"][i % 2]} for i in range(10)]
    layout, example = first(rows, "classify")
    assert (layout.labels, example.output, example.input) == (("no", "yes"), "yes", "is it good 0")


def test_plain_text_is_continued():
    layout, example = first([{"text": f"once upon a time {i}"} for i in range(9)])
    assert (layout.task, example.output, example.input) == ("continue", None, "once upon a time 0")


@real_rows
@pytest.mark.parametrize(
    ("name", "task", "found"),
    [
        ("banking77/train.csv", None, ("classify", "text", "category", 77)),
        ("sms_spam/SMSSpamCollection", None, ("classify", "SMS", "Label", 2)),
        ("e2e_nlg/devset.csv", None, ("generate", "mr", "ref", 0)),
        ("gsm8k/test.jsonl", None, ("generate", None, None, 0)),
        ("restaurant8k/train_3.json", None, ("tag", "userInput", "labels", 5)),
        ("nlupp/banking", "classify", ("classify", "text", "intents", 48)),
        ("nlupp/banking", "tag", ("tag", "text", "slots", 13)),
        ("nl_regex/data_turk_eval_turk/src-test.txt", None, ("continue", "text", None, 0)),
    ],
)
def test_real_files_are_understood(name, task, found):
    layout = find_layout(read_rows(str(REAL / name)), DataSection(), task)
    columns = layout.columns
    assert (layout.task, columns.input, columns.output, len(layout.labels)) == found
