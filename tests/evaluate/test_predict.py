"""What a model answers must not depend on padding, spaces in tokens, or how long a prompt is."""

import json

import numpy as np
import pytest
import torch
from tests.model_zoo import make_tiny

from tunewright.data.render import Rendering, render
from tunewright.evaluate.predict import Asker, spans_of
from tunewright.model.load import load_base
from tunewright.records import Example, Span

SENTENCE = "We love the lazy dog there"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    place = tmp_path_factory.mktemp("zoo")

    def folder(kind, name=None):
        found = place / (name or kind)
        return found if found.exists() else make_tiny(kind, found)

    return folder


@pytest.mark.parametrize("kind", ["bert", "modernbert", "llama", "gpt2"])
def test_tags_come_back_as_the_spans_they_were_made_from(zoo, kind):
    base = load_base(str(zoo(kind)), task="tag", labels=("CITY",))
    spans = (Span(0, 2, "CITY"), Span(8, 16, "CITY"))
    example = Example("1", "x:1", SENTENCE, spans)
    how = Rendering("tag", base.tokenizer, 64, labels=("CITY",))
    target = render([example], how)[0].target
    assert isinstance(target, np.ndarray)
    assert spans_of(np.maximum(target, 0), example, Asker(base, how)) == spans


def test_an_entity_that_training_never_saw_is_judged_as_missed(zoo):
    base = load_base(str(zoo("bert")), task="tag", labels=("CITY",))
    how = Rendering("tag", base.tokenizer, 64, labels=("CITY",))
    example = Example("1", "x:1", SENTENCE, (Span(0, 2, "RIVER"),))
    found = Asker(base, how).predict([example], system="tuned", split="test")[0]
    assert found.reference == example.output


@pytest.mark.parametrize("pad", [None, 0])
def test_a_decoder_classifies_a_row_alike_alone_and_beside_a_longer_one(zoo, pad):
    folder = zoo("llama", f"llama-{pad}")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token_id": pad}))
    base = load_base(str(folder), task="classify", labels=("x", "y"))
    asker = Asker(base, Rendering("classify", base.tokenizer, 64, labels=("x", "y")))
    short, long = Example("1", "x:1", "no"), Example("2", "x:2", SENTENCE)
    alone = asker.predict([short], system="tuned", split="test")[0].probabilities
    beside = asker.predict([short, long], system="tuned", split="test")[0].probabilities
    assert alone is not None and beside is not None
    torch.testing.assert_close(torch.tensor(alone), torch.tensor(beside))


def test_a_prompt_longer_than_the_position_table_keeps_its_end_and_gets_an_answer(zoo):
    base = load_base(str(zoo("gpt2")), task="generate")
    asker = Asker(base, Rendering("generate", base.tokenizer, 128), max_new_tokens=8)
    example = Example("1", "x:1", "The quick brown fox jumps " * 40, "yes")
    found = asker.predict([example], system="tuned", split="test")[0]
    assert isinstance(found.prediction, str) and found.confidence is not None
