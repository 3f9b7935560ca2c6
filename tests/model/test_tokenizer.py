"""Tokenizers: a pad token without resizing, a chat template always, and what cannot be written."""

import pytest

from model_zoo import KINDS
from tunewright.model.chat_template import DEFAULT_CHAT_TEMPLATE
from tunewright.model.load import load_base
from tunewright.model.tokenizer import unknown_pieces

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "Here."},
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_pad_token_that_the_model_has_a_row_for(tiny, kind):
    base = load_base(str(tiny(kind)), task=None)
    rows = base.model.get_input_embeddings().weight.shape[0]
    assert 0 <= base.tokenizer.pad_token_id < rows == base.model.config.vocab_size
    assert base.tokenizer.padding_side == ("left" if base.kind == "decoder" else "right")
    distinct = base.tokenizer.pad_token_id != base.tokenizer.eos_token_id
    assert distinct == (kind not in ("mistral", "phi", "phi3", "gpt2"))


def test_a_template_of_its_own_is_kept(tiny):
    base = load_base(str(tiny("llama")), task="chat")
    text = base.tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    assert text.startswith(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief"
    )
    assert text.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
    assert not base.default_template


def test_the_default_template(tiny):
    base = load_base(str(tiny("gpt2")), task="chat")
    assert base.default_template and base.tokenizer.chat_template == DEFAULT_CHAT_TEMPLATE
    end, start = base.tokenizer.eos_token, base.tokenizer.bos_token
    whole = base.tokenizer.apply_chat_template(TALK, tokenize=False)
    assert whole == f"{start}System:\nBe brief.\n\nUser:\nWhere?\n\nAssistant:\nHere.{end}"
    prompt = base.tokenizer.apply_chat_template(
        TALK[:2], tokenize=False, add_generation_prompt=True
    )
    assert whole.startswith(prompt) and prompt.endswith("Assistant:\n")
    two = base.tokenizer.apply_chat_template([*TALK, *TALK[1:]], tokenize=False)
    assert two.count(end) == (3 if start == end else 2)
    assert not load_base(str(tiny("bert")), task=None).default_template


def test_byte_level_tokenizers_can_write_everything(tiny):
    tokenizer = load_base(str(tiny("llama")), task="generate").tokenizer
    assert unknown_pieces(tokenizer, ["[A-Z]* {é} 漢字 😀 \t\n x"]) == {}


def test_what_the_stories_tokenizer_drops_silently_is_counted(stories):
    tokenizer = load_base(str(stories), task="generate").tokenizer
    found = unknown_pieces(tokenizer, ["lines with [AEIOU] and .*dog.*", "Once upon a time."])
    assert found == {"*": 2, "[": 1, "]": 1}


def test_words_that_become_unknown_are_counted_once():
    tokenizer = load_base("embedded:minilm", task=None).tokenizer
    assert unknown_pieces(tokenizer, ["Café déjà vu, [x]*", "☃ snow ☃"]) == {"☃": 2}
    assert unknown_pieces(tokenizer, []) == {}
