"""Loading: the right head, the same head for the same seed, one line for what is wrong."""

import json
import shutil
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file

from model_zoo import DECODERS, ENCODERS, KINDS
from tunewright.errors import ModelError
from tunewright.model.load import bio_names, end_ids, load_base, longest_input
from tunewright.model.weights import load_tuned, save_tuned

LABELS = ("card", "transfer", "other")


@pytest.fixture
def copy(tiny, tmp_path):
    """copy("llama") -> a folder that the test may break."""

    def get(kind):
        return shutil.copytree(tiny(kind), tmp_path / kind)

    return get


@pytest.mark.parametrize("kind", KINDS)
def test_every_shape_loads_for_its_tasks(tiny, kind):
    folder = str(tiny(kind))
    base = load_base(folder, task="classify", labels=LABELS)
    ids = torch.tensor([base.tokenizer("Where is my card?")["input_ids"]])
    with torch.no_grad():
        assert base.model(input_ids=ids).logits.shape == (1, 3)
    assert base.model.config.problem_type == "single_label_classification"
    assert list(base.model.config.id2label.values()) == list(LABELS)
    assert not base.model.training and base.fresh
    base = load_base(folder, task="regress")
    with torch.no_grad():
        assert base.model(input_ids=ids).logits.shape == (1, 1)
    if kind != "gemma3_text":
        base = load_base(folder, task="tag", labels=("name",))
        with torch.no_grad():
            assert base.model(input_ids=ids).logits.shape == (1, ids.shape[1], 3)
    if kind not in ENCODERS:
        base = load_base(folder, task="generate")
        assert base.fresh == () and end_ids(base)
        assert base.kind == ("decoder" if kind in DECODERS else "encoder-decoder")
    assert load_base(folder, task=None).fresh in ((), ("pooler.dense.bias", "pooler.dense.weight"))


def test_multi_label_and_padding_reach_the_config(tiny):
    base = load_base(str(tiny("gpt2")), task="classify", labels=LABELS, multi_label=True)
    assert base.model.config.problem_type == "multi_label_classification"
    assert base.model.config.pad_token_id == base.tokenizer.pad_token_id == 0
    batch = base.tokenizer(["a card", "a much longer text here"], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert base.model(**batch).logits.shape == (2, 3)


def test_bio_names():
    assert bio_names(("x", "y")) == ("O", "B-x", "I-x", "B-y", "I-y")


def test_a_new_head_depends_on_the_seed_alone(tiny):
    def head(seed):
        torch.manual_seed(torch.seed() % 1000)
        base = load_base(str(tiny("bert")), task="classify", labels=LABELS, seed=seed)
        return base.model.classifier.weight, base.model.classifier.bias

    first, again, other = head(1), head(1), head(2)
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])
    assert 0.01 < first[0].std() < 0.03 and not first[1].any()


def test_loading_leaves_random_state_and_default_dtype_alone(tiny):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    base = load_base(str(tiny("llama")), task="generate", dtype=torch.bfloat16)
    assert base.model.dtype == base.dtype == torch.bfloat16
    load_base(str(tiny("llama")), task="generate", random_init=True, seed=9)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_default_dtype() is torch.float32


def test_the_from_scratch_twin_has_the_shape_and_none_of_the_weights(tiny):
    base = load_base(str(tiny("llama")), task="generate")
    twin = load_base(str(tiny("llama")), task="generate", random_init=True, seed=3)
    again = load_base(str(tiny("llama")), task="generate", random_init=True, seed=3)
    assert twin.num_parameters == base.num_parameters
    assert end_ids(twin) == end_ids(base)
    weights = [m.model.layers[0].mlp.up_proj.weight for m in (base.model, twin.model, again.model)]
    assert not torch.equal(weights[0], weights[1]) and torch.equal(weights[1], weights[2])


def test_dropout_is_set_everywhere(tiny):
    for kind, names in {
        "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
        "gpt2": ("embd_pdrop", "resid_pdrop", "attn_pdrop"),
        "t5": ("dropout_rate",),
    }.items():
        base = load_base(str(tiny(kind)), task="classify", labels=LABELS, dropout=0.25)
        assert all(getattr(base.model.config, name) == 0.25 for name in names)
        found = [m.p for m in base.model.modules() if isinstance(m, torch.nn.Dropout)]
        assert found and set(found) == {0.25}


def test_no_socket_is_opened(tiny, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_base(str(tiny("mistral")), task="generate")
    load_base("embedded:minilm", task="classify", labels=LABELS)


@pytest.mark.parametrize("task", ["generate", "chat", "continue"])
def test_an_encoder_writes_no_text(tiny, task):
    with pytest.raises(ModelError, match=f"bert is an encoder and writes no text; for {task} use"):
        load_base(str(tiny("bert")), task=task)


def test_tasks_that_do_not_fit_are_refused(tiny):
    with pytest.raises(ModelError, match="t5 cannot continue text"):
        load_base(str(tiny("t5")), task="continue")
    with pytest.raises(ModelError, match="no tag head for gemma3_text"):
        load_base(str(tiny("gemma3_text")), task="tag", labels=("x",))
    with pytest.raises(ModelError, match="no labels"):
        load_base(str(tiny("bert")), task="classify")
    with pytest.raises(ModelError, match="'embedd' unknown; use classify"):
        load_base(str(tiny("bert")), task="embedd")


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_broken_folders_are_one_line(copy):
    folder = copy("llama")
    edit(folder / "config.json", model_type="lama")
    with pytest.raises(ModelError, match="model_type 'lama' unknown .*did you mean llama"):
        load_base(str(folder), task="generate")
    edit(folder / "config.json", model_type="llama", hidden_size="many")
    with pytest.raises(ModelError, match=r"config\.json: .*correct the config") as caught:
        load_base(str(folder), task="generate")
    assert "\n" not in str(caught.value)
    edit(folder / "config.json", hidden_size=32, num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"weights lack model\.layers\.2\..*do not belong"):
        load_base(str(folder), task="generate")
    edit(folder / "config.json", num_hidden_layers=2, intermediate_size=64)
    with pytest.raises(ModelError, match=r"mlp\.\w+\.weight or hold it in another size"):
        load_base(str(folder), task="generate")


def test_a_missing_output_layer_is_noticed(copy):
    folder = copy("llama")
    state = load_file(folder / "model.safetensors")
    del state["lm_head.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"weights lack lm_head\.weight"):
        load_base(str(folder), task="generate")
    assert load_base(str(folder), task="classify", labels=LABELS).fresh == ("score.weight",)


def test_words_saved_as_the_tied_output_alone_reach_a_classifier(copy):
    folder = copy("llama")
    edit(folder / "config.json", tie_word_embeddings=True)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors.pop("lm_head.weight", None)
    words = tensors.pop("model.embed_tokens.weight")
    save_file({**tensors, "lm_head.weight": words}, path, {"format": "pt"})
    base = load_base(str(folder), task="classify", labels=LABELS)
    assert torch.equal(base.model.get_input_embeddings().weight, words.float())


def test_missing_and_broken_tokenizers_are_one_line(copy):
    folder = copy("bert")
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ModelError, match="tokenizer cannot be loaded"):
        load_base(str(folder), task="classify", labels=LABELS)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer \(tokenizer\.json"):
        load_base(str(folder), task="classify", labels=LABELS)


def test_a_head_for_other_labels_keeps_what_it_knows_and_starts_the_rest_anew(tiny, tmp_path):
    base = load_base(str(tiny("bert")), task="classify", labels=("a", "b"), seed=1)
    with torch.no_grad():
        base.model.classifier.weight.fill_(0.5)
    save_tuned(base, tmp_path / "m")
    same = load_base(str(tmp_path / "m"), task="classify", labels=("a", "b"))
    assert same.fresh == () and (same.model.classifier.weight == 0.5).all()
    for labels in (("b", "a"), ("a", "b", "c")):
        other = load_base(str(tmp_path / "m"), task="classify", labels=labels)
        assert "classifier.weight" in other.fresh
        assert other.known_labels == {"a", "b"}
        for label, row in zip(labels, other.model.classifier.weight, strict=True):
            assert (row == 0.5).all() if label in "ab" else not (row == 0.5).any()
    assert load_tuned(tmp_path / "m").labels == ("a", "b")


def test_longest_input(tiny):
    assert longest_input(load_base(str(tiny("gpt2")), task="generate")) == 128
    assert longest_input(load_base("embedded:minilm", task=None)) == 512
    assert longest_input(load_base(str(tiny("t5")), task="generate")) is None


def test_remote_code_stays_off_for_native_architectures_even_when_trusted(copy):
    folder = copy("llama")
    canary = folder / "canary"
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Model: pass\n")
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(ModelError, match="auto_map can run code"):
        load_base(str(folder), task="generate")
    base = load_base(str(folder), task="generate", trust_remote_code=True)
    assert type(base.model).__name__ == "LlamaForCausalLM"
    assert not canary.exists()
