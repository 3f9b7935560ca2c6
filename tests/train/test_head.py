"""A head that starts fitted: better than noise before the first step, with and without adapter."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.model_zoo import make_tiny

from tunewright.data.batch import make_batch, model_inputs
from tunewright.data.render import Row
from tunewright.model.adapters.table import attach, trainable_parameters
from tunewright.model.load import load_base
from tunewright.model.pooling import add_mean_pooling, wants_mean_pooling
from tunewright.model.weights import save_tuned
from tunewright.train.head import find_head, scale_outputs, start_head
from tunewright.train.objectives import class_cross_entropy


def rows_of_two_kinds(count=40, number=None):
    stream = np.random.default_rng(0)
    rows = []
    for i in range(count):
        ids = np.concatenate([[5], stream.integers(20, 60, 6) + 100 * (i % 2), [6]])
        target = i % 2 if number is None else number * (i % 2)
        rows.append(Row(str(i), ids.astype(np.int32), target=target))
    return rows


def answers(base, rows):
    batch = make_batch(rows, pad_id=0, device=torch.device("cpu"))
    with torch.inference_mode():
        return base.model.eval()(**model_inputs(batch)).logits


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make_tiny("bert", tmp_path_factory.mktemp("zoo") / "bert")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_fitted_head_answers_before_any_step(bert, method):
    base = attach(load_base(str(bert), task="classify", labels=("a", "b")), method, r=4)
    rows = rows_of_two_kinds()
    assert start_head(base, rows, 0)
    wanted = torch.tensor([row.target for row in rows])
    assert (answers(base, rows).argmax(1) == wanted).float().mean() > 0.9


def test_a_fitted_head_follows_from_its_rows_alone(bert):
    rows = rows_of_two_kinds()
    heads = []
    for order in (rows, rows[::-1]):
        base = attach(load_base(str(bert), task="classify", labels=("a", "b")), "full")
        start_head(base, order, 0)
        heads.append(find_head(base).weight.detach().clone())
    assert torch.equal(*heads)


def test_numbers_are_fitted_too(bert):
    base = attach(load_base(str(bert), task="regress"), "full")
    rows = rows_of_two_kinds(number=3.0)
    assert start_head(base, rows, 0)
    wanted = torch.tensor([row.target for row in rows])
    assert ((answers(base, rows)[:, 0] - wanted) ** 2).mean() < 0.5 * wanted.var()


def test_heads_without_one_vector_a_row_are_left_alone(bert, tmp_path):
    llama = make_tiny("llama", tmp_path / "llama")
    base = attach(load_base(str(llama), task="classify", labels=("a", "b")), "full")
    assert not start_head(base, rows_of_two_kinds(), 0)


def test_a_pooling_layer_gives_the_head_the_mean_of_all_tokens(bert, tmp_path):
    folder = make_tiny("bert", tmp_path / "bert")
    base = load_base(str(folder), task="classify", labels=("a", "b"))
    assert not wants_mean_pooling(base)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    base = load_base(str(folder), task="classify", labels=("a", "b"))
    assert wants_mean_pooling(base)
    rows = rows_of_two_kinds(4)
    batch = make_batch(rows, pad_id=0, device=torch.device("cpu"))
    with torch.inference_mode():
        before = base.plain.bert(**model_inputs(batch)).last_hidden_state.mean(1)
    add_mean_pooling(base, 17)
    with torch.inference_mode():
        after = base.plain.bert(**model_inputs(batch)).last_hidden_state[:, 0]
    mean = torch.nn.functional.layer_norm(before, before.shape[1:])
    together = torch.nn.functional.cosine_similarity(mean, after)
    assert together.min() > 0.99, together
    assert base.plain.config.num_hidden_layers == 3


@pytest.mark.parametrize("shape", ["bert", "gpt2", "llama", "modernbert"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_logits_are_scaled_in_the_layer_that_gives_them(shape, method, tmp_path):
    folder = make_tiny(shape, tmp_path / shape)
    base = attach(load_base(str(folder), task="classify", labels=tuple("abcd")), method, r=4)
    rows = rows_of_two_kinds(8)
    before = answers(base, rows)
    weights = {name: p.detach().clone() for name, p in trainable_parameters(base.model)}
    scaled = scale_outputs(base, weights, 0.5)
    assert torch.allclose(answers(base, rows), 0.5 * before, atol=1e-6)
    assert sum(not torch.equal(scaled[name], weights[name]) for name in weights) in (1, 2)


def test_outputs_that_were_not_trained_are_left_alone(bert):
    base = load_base(str(bert), task="classify", labels=("a", "b"))
    assert scale_outputs(base, {}, 0.5) is None


@pytest.mark.parametrize("method", ["full", "lora"])
def test_labels_that_stay_keep_what_the_head_knew(bert, tmp_path, method):
    """A head for more labels starts with the rows of the old ones, and few rows hardly move them."""
    base = attach(load_base(str(bert), task="classify", labels=("a", "c")), method, r=4)
    rows = rows_of_two_kinds()
    start_head(base, rows, 0)
    save_tuned(base, tmp_path / "first")
    grown = load_base(str(tmp_path / "first"), task="classify", labels=("a", "b", "c"))
    assert grown.known_labels == {"a", "c"}
    old, new = find_head(base), find_head(grown)
    assert torch.allclose(old.weight, new.weight[[0, 2]])
    assert torch.allclose(old.bias, new.bias[[0, 2]])
    third = [replace(row, id=f"n{row.id}", target=1, input_ids=row.input_ids + 160)
             for row in rows[:20]]  # fmt: skip
    few = [replace(row, target=2 * row.target) for row in rows[:2]]
    grown = attach(grown, "full")
    offsets = np.log(3 * np.array([1, 20, 1]) / 22)  # each of the few stands for twenty
    assert start_head(grown, [*few, *third], 0, offsets)
    wanted = torch.tensor([2 * row.target for row in rows])
    assert (answers(grown, rows).argmax(1) == wanted).float().mean() > 0.7
    assert (answers(grown, third).argmax(1) == 1).float().mean() > 0.9
    other = load_base(str(tmp_path / "first"), task="classify", labels=("x", "y"))
    assert not other.known_labels


def test_offsets_answer_for_classes_as_common_as_their_weights(bert):
    """Nine rows of one class and one of another, on the same text: as common as weights say."""
    base = attach(load_base(str(bert), task="classify", labels=("a", "b")), "full")
    text = rows_of_two_kinds(1)[0]
    rows = [replace(text, id=str(n), target=int(n >= 18)) for n in range(20)]
    assert start_head(base, rows, 0, np.log(np.array([0.9 / 0.5, 0.1 / 0.5])))
    shares = answers(base, rows[:1]).softmax(1)[0]
    assert abs(float(shares[0]) - 0.5) < 0.05
    batch = make_batch(rows, pad_id=0, device=torch.device("cpu"))
    offset = torch.tensor([0.9 / 0.5, 0.1 / 0.5]).log()
    with torch.no_grad():
        loss = class_cross_entropy(base.model, batch, offset_K=offset) / 20
    assert abs(float(loss) - 0.325) < 0.02
