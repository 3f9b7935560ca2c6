import pytest

from tunewright.data.clean import clean, number_ids
from tunewright.errors import DataError
from tunewright.records import Example, Message, Span


def make(number, text="some text", output="a", **rest):
    return Example(id=f"id{number}", place=f"d.csv:{number}", input=text, output=output, **rest)


def kinds(findings):
    return {finding.kind: finding for finding in findings}


def many(count=10):
    return [make(i, f"text number {i}", "ab"[i % 2]) for i in range(count)]


def test_rows_without_input_or_output_are_dropped_and_named():
    rows = [*many(), make(20, "  "), make(21, output=None)]
    kept, findings = clean(rows, "classify", "d.csv")
    assert len(kept) == 10
    found = kinds(findings)
    assert found["empty_input"].places == ("d.csv:20",) and found["empty_input"].dropped
    assert found["missing_output"].rows == ("id21",) and found["missing_output"].dropped


def test_empty_text_stays_where_columns_speak():
    rows = [*many(), make(20, "", columns=(("amount", 3.0),))]
    assert len(clean(rows, "classify", "d.csv")[0]) == 11


@pytest.mark.parametrize(
    ("text", "output", "part"),
    [("t", None, "9 of 13 rows have no label"), ("", "a", "9 of 13 rows have no text")],
)
def test_more_than_half_missing_is_an_error(text, output, part):
    rows = [*many(4), *(make(20 + i, text, output) for i in range(9))]
    with pytest.raises(DataError, match=part):
        clean(rows, "classify", "d.csv")


def test_no_label_at_all_needs_none_for_continued_text():
    rows = [make(i, f"text {i}", None) for i in range(4)]
    assert len(clean(rows, "continue", "d.txt")[0]) == 4


def test_duplicates_and_conflicts_are_reported_and_kept():
    rows = [*many(), make(20, "text number 1", "b"), make(21, "Text, number 2!", "b")]
    kept, findings = clean(rows, "classify", "d.csv")
    found = kinds(findings)
    assert len(kept) == 12
    assert found["duplicate_exact"].places == ("d.csv:20",)
    assert found["duplicate_text"].places == ("d.csv:20", "d.csv:21")
    assert found["label_conflict"].places == ("d.csv:2", "d.csv:21")


def test_labels_that_look_like_one_are_reported():
    rows = [*many(), make(20, "x y", "Refund"), make(21, "z w", "refund ")]
    assert (
        "'Refund' and 'refund '" in kinds(clean(rows, "classify", "d")[1])["label_variants"].message
    )


def test_half_characters_are_mended():
    kept, findings = clean([*many(), make(20, "bad \ud800 text")], "classify", "d")
    assert kept[-1].input == "bad \ufffd text"
    assert kinds(findings)["broken_unicode"].rows == ("id20",)


def test_turns_after_the_last_answer_are_cut():
    messages = (Message("user", "q"), Message("assistant", "a"), Message("user", "and?"))
    kept, findings = clean([make(1, "q", "a", messages=messages)], "chat", "d")
    assert kept[0].messages == messages[:2]
    assert kinds(findings)["trailing_turns"].rows == ("id1",)


def test_of_overlapping_spans_the_longest_stays():
    spans = (Span(0, 4, "B"), Span(0, 9, "A"), Span(10, 12, "C"))
    kept, findings = clean([make(1, "some words here", spans)], "tag", "d")
    assert kept[0].output == (Span(0, 9, "A"), Span(10, 12, "C"))
    assert "overlapping_spans" in kinds(findings)


def test_bad_answers_are_left_out():
    rows = [*many(), make(20, "q", None, rejected="bad")]
    kept, findings = clean(rows, "generate", "d")
    assert len(kept) == 10 and kinds(findings)["marked_bad"].dropped


def test_equal_rows_get_numbers():
    rows = [make(1), make(1), make(2), make(1)]
    assert [e.id for e in number_ids(rows)] == ["id1", "id1-2", "id2", "id1-3"]
