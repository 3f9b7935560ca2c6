"""Weights counted from config.json alone, against transformers and against published sizes."""

import json

import pytest
import transformers

from model_zoo import KINDS, make_tiny
from tunewright.cost.shape import read_shape
from tunewright.errors import ModelError

# (published config in short, published parameters)
PUBLISHED = {
    "llama-3.1-405b": (
        {"model_type": "llama", "hidden_size": 16384, "intermediate_size": 53248,
         "num_hidden_layers": 126, "num_attention_heads": 128, "num_key_value_heads": 8,
         "vocab_size": 128256, "tie_word_embeddings": False},
        405.85e9,
    ),
    "llama-3.1-8b": (
        {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
         "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
         "vocab_size": 128256, "tie_word_embeddings": False},
        8.03e9,
    ),
    "mixtral-8x7b": (
        {"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336,
         "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
         "vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2,
         "tie_word_embeddings": False},
        46.70e9,
    ),
    "qwen2.5-0.5b": (
        {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
         "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
         "vocab_size": 151936, "tie_word_embeddings": True},
        0.494e9,
    ),
    "gpt2": (
        {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
         "vocab_size": 50257},
        124.44e6,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    config, parameters = PUBLISHED[name]
    shape = read_shape(config)
    assert shape.num_parameters(with_output=True) == pytest.approx(parameters, rel=0.003)


def test_a_token_meets_two_experts_of_eight():
    shape = read_shape(PUBLISHED["mixtral-8x7b"][0])
    assert shape.num_active_linear == pytest.approx(12.75e9, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_models_are_counted_to_a_twentieth(kind, tmp_path):
    folder = make_tiny(kind, tmp_path / kind)
    shape = read_shape(json.loads((folder / "config.json").read_text()))
    config = transformers.AutoConfig.from_pretrained(folder)
    language = kind not in ("bert", "modernbert")
    auto = transformers.AutoModel
    if language:
        auto = transformers.AutoModelForCausalLM if kind != "t5" else (
            transformers.AutoModelForSeq2SeqLM
        )  # fmt: skip
    model = auto.from_config(config)
    real = sum(p.numel() for p in model.parameters())
    assert shape.num_parameters(with_output=language) == pytest.approx(real, rel=0.05)
    expected = {"t5": "encoder-decoder", "bert": "encoder", "modernbert": "encoder"}
    assert shape.kind == expected.get(kind, "decoder")


def test_text_part_of_a_picture_model_counts():
    inner = PUBLISHED["llama-3.1-8b"][0]
    assert read_shape({"model_type": "llava", "text_config": inner}).num_layers == 32


def test_a_file_that_is_no_config_is_named():
    with pytest.raises(ModelError, match=r"x\.json: hidden_size is missing"):
        read_shape({"model_type": "llama"}, "x.json")
