"""The preview says what is learned, and loses nothing of the row."""

from tests.model_zoo import make_tiny

from tunewright.data.preview import make_preview
from tunewright.data.render import Rendering, render
from tunewright.model.catalog import resolve_model
from tunewright.model.tokenizer import load_tokenizer
from tunewright.records import Example, Span


def test_pieces_join_to_the_row_and_mark_the_answer(tmp_path):
    tokenizer, _ = load_tokenizer(
        resolve_model(str(make_tiny("gpt2", tmp_path / "m"))), "decoder", False
    )
    how = Rendering("generate", tokenizer, 64)
    row = render([Example("1", "x:1", "the cat sat", "on the mat")], how)[0]
    seen = make_preview(row, how)
    assert "".join(p.text for p in seen.pieces) == tokenizer.decode(row.input_ids.tolist())
    assert [p.text for p in seen.pieces if p.weight > 0] == ["on the mat" + tokenizer.eos_token]
    assert seen.num_learned == int((row.target_weights > 0).sum()) and seen.answer is None


def test_labels_and_spans_are_named(tmp_path):
    tokenizer, _ = load_tokenizer(
        resolve_model(str(make_tiny("bert", tmp_path / "m"))), "encoder", False
    )
    how = Rendering("classify", tokenizer, 64, labels=("no", "yes"))
    assert make_preview(render([Example("1", "x:1", "hi", "yes")], how)[0], how).answer == "yes"
    how = Rendering("tag", tokenizer, 64, labels=("place",))
    example = Example("1", "x:1", "in Paris now", (Span(3, 8, "place"),))
    seen = make_preview(render([example], how)[0], how)
    assert "B-place" in seen.answer and any(
        "pari" in p.text.lower() for p in seen.pieces if p.weight
    )
