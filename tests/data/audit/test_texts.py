"""The audits of single texts, each on a row that has the fault and on rows that have not."""

import pytest

from tunewright.data.audit.broken import find_broken_text
from tunewright.data.audit.language import find_other_languages
from tunewright.data.audit.lengths import find_blank_answers, find_truncated
from tunewright.data.audit.material import AuditMaterial
from tunewright.data.audit.privacy import find_personal_data
from tunewright.data.audit.templates import find_missing_ends, find_template_traces
from tunewright.data.audit.unsafe import find_unsafe_answers
from tunewright.data.layout import Layout
from tunewright.records import Example, Message
from tunewright.sections import Columns

PLAIN = [
    "Where is the parcel that I ordered on Monday?",
    "The café on the corner can't take cards any more.",
    "Is 3 < 4 and 5 > 2, R&D asks; see [1] and the <table> of contents",
    "naïve Übermut, piñata, Ærø, 東京へ行きました",
]


def material(texts, answers=None):
    rows = []
    for number, text in enumerate(texts):
        answer = answers[number] if answers else "label"
        messages = (Message("user", text), Message("assistant", answer)) if answers else ()
        rows.append(Example(f"id{number}", f"f.csv:{number + 2}", text, answer, messages))
    task = "generate" if answers else "classify"
    return AuditMaterial(Layout(task, "table", Columns()), tuple(rows))


def found(audit, texts, answers=None):
    return {item.kind: item for item in audit(material(texts, answers))}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("mojibake", "The cafÃ© has moved â€“ please donâ€™t print it"),
        ("mojibake", "ÐŸÑ€Ð¸Ð²ÐµÑ‚ Ð¼Ð¸Ñ€"),
        ("replacement_characters", "caf\ufffd au lait"),
        ("control_characters", "a bell \x07 rings"),
        ("html_remnants", "Hello,<br><br>Tuesday"),
        ("html_remnants", "salt &amp; pepper"),
        ("html_remnants", 'a <a href="x">link</a>'),
    ],
)
def test_broken_text(kind, text):
    findings = found(find_broken_text, [*PLAIN[:2], text, PLAIN[3]])
    assert list(findings) == [kind]
    assert findings[kind].rows == ("id2",)
    assert findings[kind].places == ("f.csv:4",)


def test_html_as_the_subject_is_no_fault():
    findings = found(find_broken_text, ["<p>one</p>"] * 30)
    assert findings["html_remnants"].severity == "info"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("special_tokens", "Hello<|im_end|>"),
        ("special_tokens", "[INST] do it [/INST]"),
        ("special_tokens", "the end</s>"),
        ("open_template", "<think> so it is"),
        ("open_template", "Here:\n```python\nx = 1"),
        ("unfilled_placeholder", "Dear {{ customer }}, thanks"),
        ("unfilled_placeholder", "Regards, [Your Name]"),
    ],
)
def test_template_traces(kind, text):
    assert list(found(find_template_traces, [*PLAIN, text])) == [kind]


def test_special_tokens_of_the_tokenizer_at_hand():
    rows = material(["nothing", "a <weird> one"])
    findings = find_template_traces(rows, special_tokens=("<weird>",))
    assert [item.rows for item in findings] == [("id1",)]


def test_missing_end_marks():
    answers = [f"answer {number} END" for number in range(30)]
    answers[7] = "answer 7"
    findings = found(find_missing_ends, ["q"] * 30, answers)
    assert findings["missing_end"].rows == ("id7",)
    assert not found(find_missing_ends, ["q"] * 30, ["plain words."] * 30)


def test_truncated_by_a_cap_and_in_mid_sentence():
    texts = [f"{'word ' * (5 + number)}end." for number in range(30)]
    texts += [("this one was cut somewhere in the middle of a long sentence " * 9)[:300]] * 6
    findings = found(find_truncated, texts)
    assert len(findings["truncated"].rows) == 6
    answers = [f"This is the answer number {number}." for number in range(40)]
    answers[3] = "This is the answer that ends with the"
    assert found(find_truncated, ["q"] * 40, answers)["truncated"].rows == ("id3",)
    assert not found(find_truncated, texts[:30])


def test_blank_answers():
    assert found(find_blank_answers, ["q", "q"], ["fine", " \n"])["blank_answer"].rows == ("id1",)


def test_other_languages():
    english = [f"I would like to know where order {n} is at the moment, please." for n in range(12)]
    german = "Guten Tag, mein Lesegerät verbindet sich seit gestern nicht mehr mit der Kasse."
    findings = found(find_other_languages, [*english, german])
    assert findings["other_language"].rows == ("id12",)
    assert "German" in findings["other_language"].message
    assert not found(find_other_languages, english)


def test_unsafe_answers():
    answers = [
        "I can't explain how to build a pipe bomb.",
        "First, you build a pipe bomb from",
        "You should die.",
        "Assess the class of Scunthorpe, and niggle no more.",
        "Go on, kill yourself",
    ]
    findings = found(find_unsafe_answers, ["q"] * 5, answers)
    assert findings["unsafe_danger"].rows == ("id1",)
    assert findings["unsafe_threat"].rows == ("id2", "id4")
    assert set(findings) == {"unsafe_danger", "unsafe_threat"}


def test_personal_data_names_rows_and_repeats_no_value():
    findings = found(
        find_personal_data, ["nothing", "to jo@example.org", "or a@b.org, ring 555-0119"]
    )
    assert findings["personal_data_email"].rows == ("id1", "id2")
    assert findings["personal_data_phone"].places == ("f.csv:4",)
    assert "jo@" not in findings["personal_data_email"].message
