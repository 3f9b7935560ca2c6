"""Which tokens carry loss, for every task; made with real tokenizers."""

import numpy as np
import pytest
from tests.model_zoo import make_tiny

from tunewright.data.render import (
    Rendering,
    find_column_edges,
    input_text,
    render,
    render_prompts,
    tag_names,
    target_tokens_lost,
)
from tunewright.model.catalog import resolve_model
from tunewright.model.tokenizer import load_tokenizer
from tunewright.records import Example, Message, Span


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    place = tmp_path_factory.mktemp("zoo")
    found = {}
    for kind, family in (
        ("llama", "decoder"),
        ("gpt2", "decoder"),
        ("bert", "encoder"),
        ("t5", "encoder-decoder"),
    ):
        source = resolve_model(str(make_tiny(kind, place / kind)))
        found[kind] = load_tokenizer(source, family, False)
    return found


def learned(row, tokenizer):
    return tokenizer.decode(
        [int(t) for t, w in zip(row.input_ids, row.target_weights, strict=True) if w > 0]
    )


def plain(**values):
    return Example(
        **{"id": "1", "place": "x:1", "input": "the cat sat", "output": "on the mat", **values}
    )


def test_a_plain_completion_is_learned_with_its_end_and_the_prompt_is_not(tokenizers):
    tokenizer, ours = tokenizers["gpt2"]
    how = Rendering("generate", tokenizer, 64, native_template=not ours)
    row = render([plain()], how)[0]
    assert learned(row, tokenizer) == "on the mat" + tokenizer.eos_token
    assert row.input_ids[-1] == tokenizer.eos_token_id
    prompt = render_prompts([plain()], how)[0]
    assert np.array_equal(prompt, row.input_ids[: prompt.size])
    assert not row.target_weights[: prompt.size].any()


def test_every_assistant_turn_is_learned_with_its_end_unless_weighted_away(tokenizers):
    tokenizer, _ = tokenizers["llama"]
    turns = (
        Message("system", "be kind"),
        Message("user", "hello"),
        Message("assistant", "hi there", weight=0.0),
        Message("user", "how are you"),
        Message("assistant", "fine thanks"),
    )
    how = Rendering("chat", tokenizer, 256, native_template=True)
    row = render([plain(messages=turns, output="fine thanks")], how)[0]
    said = learned(row, tokenizer)
    assert "fine thanks" in said and "hi there" not in said and "how are you" not in said
    last = int(np.flatnonzero(row.target_weights)[-1])
    assert int(row.input_ids[last]) in tokenizer.all_special_ids  # the end of turn is learned
    both = render([plain(messages=tuple(Message(t.role, t.content) for t in turns))], how)[0]
    assert "hi there" in learned(both, tokenizer) and "fine thanks" in learned(both, tokenizer)


def test_a_prompt_for_generation_ends_where_the_answer_begins(tokenizers):
    tokenizer, _ = tokenizers["llama"]
    turns = (Message("user", "hello"), Message("assistant", "hi"))
    how = Rendering("chat", tokenizer, 256, native_template=True)
    example = plain(messages=turns, output="hi")
    row, prompt = render([example], how)[0], render_prompts([example], how)[0]
    first = int(np.flatnonzero(row.target_weights)[0])
    assert np.array_equal(prompt, row.input_ids[:first])


def test_the_default_template_ends_the_answer_too(tokenizers):
    tokenizer, ours = tokenizers["gpt2"]
    assert ours
    turns = (Message("user", "hello"), Message("assistant", "hi"))
    row = render([plain(messages=turns)], Rendering("chat", tokenizer, 128))[0]
    last = int(np.flatnonzero(row.target_weights)[-1])
    assert row.input_ids[last] == tokenizer.eos_token_id


def test_a_long_prompt_loses_its_beginning_and_a_long_answer_is_counted(tokenizers):
    tokenizer, _ = tokenizers["gpt2"]
    how = Rendering("generate", tokenizer, 24)
    row = render([plain(input="the cat sat " * 50, output="on the mat")], how)[0]
    assert row.input_ids.size == 24 and row.lost_targets == 0
    assert learned(row, tokenizer) == "on the mat" + tokenizer.eos_token
    long = render([plain(output="on the mat " * 50)], how)
    assert long[0].input_ids.size == 24 and target_tokens_lost(long) > 0


def test_seq2seq_rows_carry_decoder_ids_with_the_end(tokenizers):
    tokenizer, _ = tokenizers["t5"]
    row = render([plain()], Rendering("generate", tokenizer, 64, seq2seq=True))[0]
    assert row.is_seq2seq and row.target[-1] == tokenizer.eos_token_id
    assert row.target_weight == row.target.size


def test_classes_multi_labels_and_numbers(tokenizers):
    tokenizer, _ = tokenizers["bert"]
    how = Rendering("classify", tokenizer, 32, labels=("no", "yes"))
    assert [r.target for r in render([plain(output="yes"), plain(output="new")], how)] == [1, -100]
    multi = Rendering("classify", tokenizer, 32, labels=("a", "b", "c"), multi_label=True)
    assert render([plain(output=("a", "c"))], multi)[0].target.tolist() == [1.0, 0.0, 1.0]
    assert render([plain(output=2.5)], Rendering("regress", tokenizer, 32))[0].target == 2.5


def test_tags_fall_on_the_tokens_of_their_span(tokenizers):
    tokenizer, _ = tokenizers["bert"]
    example = plain(
        input="meet me in Paris on Monday", output=(Span(11, 16, "place"), Span(20, 26, "day"))
    )
    how = Rendering("tag", tokenizer, 64, labels=("day", "place"))
    row = render([example], how)[0]
    names = tag_names(("day", "place"))
    said = [names[t] for t in row.target if t >= 0]
    assert said.count("B-place") == 1 and said.count("B-day") == 1
    assert row.target[0] == -100 and row.target[-1] == -100


def test_side_columns_are_read_as_words():
    rows = [plain(columns=(("amount", float(v)), ("country", "de"))) for v in range(100)]
    edges = find_column_edges(rows)
    how = Rendering("classify", None, 32, column_edges=edges)
    text = input_text(rows[99], how)
    assert text.startswith("amount: 99 (very high) ; country: de | the cat sat")
    assert "missing" in input_text(plain(columns=(("amount", None),)), how)


THINKING = (
    "{%- for m in messages %}{%- if m.role == 'assistant' and loop.last %}"
    "{{- '<|eot_id|>assistant\n<think>\n\n</think>\n\n' + m.content + '<|eot_id|>\n' }}"
    "{%- else %}{{- '<|eot_id|>' + m.role + '\n' + m.content + '<|eot_id|>\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|eot_id|>assistant\n' }}{%- endif %}"
)


@pytest.mark.parametrize("said", ["hi there", "<b>hi</b>"])
def test_a_template_that_writes_its_last_turn_otherwise_still_shows_every_turn(tokenizers, said):
    tokenizer, _ = tokenizers["llama"]
    before, tokenizer.chat_template = tokenizer.chat_template, THINKING
    try:
        turns = (
            Message("user", "hello"),
            Message("assistant", said),
            Message("user", "how are you"),
            Message("assistant", "fine thanks"),
        )
        how = Rendering("chat", tokenizer, 256, native_template=True)
        row = render([plain(messages=turns, output="fine thanks")], how)[0]
    finally:
        tokenizer.chat_template = before
    thought = "<think>\n\n</think>\n\n"
    assert learned(row, tokenizer) == f"{said}<|eot_id|>{thought}fine thanks<|eot_id|>"
