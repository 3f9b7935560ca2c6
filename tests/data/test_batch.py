"""Order of samples and batches: pure functions of (seed, epoch), no row lost or doubled."""

import time

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.data.batch import hide_tokens, make_batch, plan_epoch, split_micro_batches
from tunewright.data.render import Row

CPU = torch.device("cpu")


def language_row(name, ids, weights):
    return Row(name, np.array(ids, np.int32), np.array(weights, np.float32))


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=400),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 5),
)
def test_an_epoch_holds_every_row_once_and_is_a_pure_function(lengths, batch_size, seed, epoch):
    sizes = np.array(lengths, np.int64)
    plan = plan_epoch(sizes, batch_size, seed=seed, epoch=epoch)
    again = plan_epoch(sizes, batch_size, seed=seed, epoch=epoch)
    assert sorted(np.concatenate(plan)) == list(range(len(lengths)))
    assert all(np.array_equal(a, b) for a, b in zip(plan, again, strict=True))
    assert len(plan) == -(-len(lengths) // batch_size)


def test_epochs_and_seeds_differ():
    sizes = np.arange(1, 500)
    first = plan_epoch(sizes, 8, seed=1, epoch=0)
    assert not all(map(np.array_equal, first, plan_epoch(sizes, 8, seed=1, epoch=1)))
    assert not all(map(np.array_equal, first, plan_epoch(sizes, 8, seed=2, epoch=0)))


def test_batches_hold_rows_of_like_length():
    sizes = np.random.default_rng(0).integers(5, 500, 5000)
    plan = plan_epoch(sizes, 16, seed=0, epoch=0)
    padded = sum(int(sizes[part].max()) * part.size for part in plan)
    assert padded / sizes.sum() < 1.05


def test_position_a_million_is_reached_at_once():
    sizes = np.random.default_rng(0).integers(5, 500, 1_000_000)
    started = time.process_time()
    plan = plan_epoch(sizes, 32, seed=3, epoch=7)
    assert plan[31_249].size > 0
    assert time.process_time() - started < 2.0


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=60), most=st.integers(16, 2000))
def test_micro_batches_keep_every_row_within_the_limit(lengths, most):
    sizes = np.array(lengths, np.int64)
    parts = split_micro_batches(np.arange(len(lengths)), sizes, most)
    assert sorted(np.concatenate(parts)) == list(range(len(lengths)))
    assert all(part.size == 1 or sizes[part].max() * part.size <= most for part in parts)


def test_targets_and_the_states_that_predict_them():
    rows = [language_row("a", [5, 6, 7, 8], [0, 0, 1, 1]), language_row("b", [5, 9], [0, 0.5])]
    batch = make_batch(rows, pad_id=0, device=CPU)
    assert batch.target.tolist() == [7, 8, 9]
    assert batch.target_weight_N.tolist() == [1.0, 1.0, 0.5]
    assert batch.predicts_BT.tolist() == [[False, True, True, False], [True, False, False, False]]
    assert batch.mask_BT.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    packed = make_batch(rows, pad_id=0, device=CPU, packed=True)
    assert packed.ids_BT.tolist() == [[5, 6, 7, 8, 5, 9]]
    assert packed.positions_BT.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert packed.target.tolist() == [7, 8, 9]
    assert packed.predicts_BT[0].nonzero().flatten().tolist() == [1, 2, 4]


def test_hidden_tokens_follow_from_the_row_alone():
    row = Row("x", np.arange(100, dtype=np.int32) + 10, target=1)
    special = frozenset({10, 11})
    once = hide_tokens(row, 0.3, 4, special, seed=1, epoch=2)
    again = hide_tokens(row, 0.3, 4, special, seed=1, epoch=2)
    other = hide_tokens(row, 0.3, 4, special, seed=1, epoch=3)
    assert np.array_equal(once.input_ids, again.input_ids)
    assert not np.array_equal(once.input_ids, other.input_ids)
    assert 10 < (once.input_ids == 4).sum() < 55
    assert once.input_ids[:2].tolist() == [10, 11]
