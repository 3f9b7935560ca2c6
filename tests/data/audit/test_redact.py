"""Redaction: consistent placeholders, restorable, spans that move along."""

from hypothesis import given
from hypothesis import strategies as st

from tunewright.data.audit.redact import Memory, redact, redact_example, restore
from tunewright.records import Example, Message, Span


def test_the_same_value_gets_the_same_placeholder():
    memory = Memory()
    text = redact("a@x.org, A@X.ORG and b@x.org; ring +44 20 7946 0231", memory)
    assert text == "<EMAIL_1>, <EMAIL_1> and <EMAIL_2>; ring <PHONE_1>"
    assert redact("again b@x.org", memory) == "again <EMAIL_2>"
    assert restore("To <EMAIL_2> via <PHONE_1> and <EMAIL_9>", memory) == (
        "To b@x.org via +44 20 7946 0231 and <EMAIL_9>"
    )


def test_placeholders_in_the_text_keep_their_numbers():
    assert redact("<EMAIL_1> and c@d.org", Memory()) == "<EMAIL_1> and <EMAIL_2>"


def test_only_the_kinds_asked_for():
    assert redact("a@x.org from 203.0.113.5", Memory(), kinds=("ip",)) == "a@x.org from <IP_1>"


@given(st.text(max_size=80), st.text(max_size=80))
def test_restore_undoes_redact(before, after):
    text = f"{before} jo@example.org {after}"
    memory = Memory()
    assert restore(redact(text, memory), memory).casefold() == text.casefold()


def test_prompt_and_completion_share_a_memory():
    messages = (Message("user", "mail jo@x.org"), Message("assistant", "sent to jo@x.org"))
    example = Example("1", "f:1", "mail jo@x.org", "sent to jo@x.org", messages)
    redacted = redact_example(example)
    assert redacted.output == "sent to <EMAIL_1>"
    assert [turn.content for turn in redacted.messages] == ["mail <EMAIL_1>", "sent to <EMAIL_1>"]


def test_spans_move_with_their_text():
    text = "jo@example.org wants a table in Rome"
    start = text.index("Rome")
    spans = (Span(0, 14, "who"), Span(start, start + 4, "where"))
    redacted = redact_example(Example("1", "f:1", text, spans))
    assert [redacted.input[s.start : s.end] for s in redacted.output] == ["<EMAIL_1>", "Rome"]
