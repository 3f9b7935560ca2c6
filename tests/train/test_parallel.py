"""Several ranks come to what one comes to: real gloo groups of forked processes."""

import json

import numpy as np
import pytest
import torch

from train.ranks_harness import Training, furthest, train
from tunewright.errors import RecipeError, RunError
from tunewright.train.parallel import Ranks, check_same, share_rows
from tunewright.train.resume import load_checkpoint
from tunewright.train.sharding import choose_parallel


def test_every_row_has_one_rank_and_loads_are_even():
    dice = np.random.default_rng(0)
    for size in (1, 2, 3, 7):
        costs = dice.integers(1, 500, 64).tolist()
        shares = share_rows(costs, size)
        assert sorted(row for share in shares for row in share) == list(range(64))
        loads = [sum(costs[row] for row in share) for share in shares]
        assert max(loads) - min(loads) <= max(costs)
    assert share_rows([5, 5], 1) == [[0, 1]]
    assert share_rows([3], 2) == [[0], []]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_ranks_equal_one_in_fp64(tmp_path, method, parallel):
    training = Training(method, torch.float64, packing=True, parallel=parallel, steps=6)
    one, two = train(training, 1, tmp_path / "one"), train(training, 2, tmp_path / "two")
    assert furthest(one, two) < 1e-12
    assert one["losses"].keys() == two["losses"].keys() == set(range(1, 7))


@pytest.mark.slow
@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_fifty_steps_in_fp32(tmp_path, method, parallel, packing):
    training = Training(method, packing=packing, parallel=parallel)
    one, two = train(training, 1, tmp_path / "one"), train(training, 2, tmp_path / "two")
    again = train(training, 2, tmp_path / "again")
    assert furthest(one, two) < 1e-6
    assert furthest(two, again) == 0.0


def test_three_ranks_with_less_rows_than_ranks_can_share(tmp_path):
    """Batches of 8 rows over 3 ranks, micro-batches of one row: ranks differ in their number."""
    training = Training("full", torch.float64, steps=3, max_batch_tokens=16, parallel="fsdp")
    one, three = train(training, 1, tmp_path / "one"), train(training, 3, tmp_path / "three")
    assert furthest(one, three) < 1e-12


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_checkpoint_resumes_on_another_number_of_ranks(tmp_path, before, after, parallel):
    half = Training("full", steps=20, parallel=parallel)
    # max_steps is part of what a run is, so the first leg is ended by a budget of looks instead.
    whole = train(half, before, tmp_path / "whole")
    train(half, before, tmp_path / "leg")
    for path in (tmp_path / "leg" / "checkpoints").glob("step-*"):
        if path.name != "step-00000010":
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    (tmp_path / "leg" / "steps.jsonl").unlink()
    resumed = train(half, after, tmp_path / "leg", resume=True)
    assert min(resumed["losses"]) == 11
    assert all(abs(resumed["losses"][s] - whole["losses"][s]) < 1e-6 for s in range(11, 21))
    assert furthest(whole, resumed) < 1e-6


def test_shards_lie_under_one_manifest_and_hold_no_pickle(tmp_path):
    training = Training("full", steps=10, parallel="fsdp")
    train(training, 2, tmp_path)
    path = tmp_path / "checkpoints" / "step-00000010"
    names = {item.name for item in path.iterdir()}
    shards = {f"rank-0000{rank}-of-00002.safetensors" for rank in (0, 1)}
    assert names == {*shards, "state.json", "MANIFEST.json"}
    manifest = json.loads((path / "MANIFEST.json").read_text())
    assert manifest["world_size"] == 2
    whole = load_checkpoint(path).tensors
    assert whole["master.model.embed_tokens.weight"].shape == (64, 32)
    with open(path / "rank-00001-of-00002.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(RunError, match="rank-00001-of-00002"):
        load_checkpoint(path)


class _TwoHosts(Ranks):
    """What gather would give, had another host other facts."""

    def gather(self, thing):
        return [thing, {"host": "far", "facts": {"the training data": "0" * 64}}]


def test_a_rank_with_other_data_is_named():
    with pytest.raises(RunError, match="rank 1 on far: the training data is 0000000000000000"):
        check_same(_TwoHosts(), "data", {"the training data": "1" * 64})


def test_real_ranks_with_other_rows_end_before_the_first_step(tmp_path):
    with pytest.raises(AssertionError, match=r"RunError: rank 1 on .*: the training data is"):
        train(Training(steps=3, odd_rank=1), 2, tmp_path)
    assert not (tmp_path / "steps.jsonl").exists()


@pytest.mark.parametrize(
    ("wish", "quantization", "companion", "needed", "chosen"),
    [
        ("auto", "none", False, 1.0, "ddp"),
        ("auto", "none", False, 3.0, "fsdp"),
        ("auto", "nf4", False, 3.0, "ddp"),
        ("auto", "none", True, 3.0, "ddp"),
        ("fsdp", "none", False, 1.0, "fsdp"),
        ("fsdp", "nf4", False, 1.0, None),
        ("fsdp", "none", True, 1.0, None),
    ],
)
def test_unsound_mixes_are_refused(wish, quantization, companion, needed, chosen):
    def choose():
        return choose_parallel(
            wish, size=2, quantization=quantization, has_companion=companion,
            needed_bytes=needed, room_bytes=2.0,
        )[0]  # fmt: skip

    if chosen is None:
        with pytest.raises(RecipeError, match="use ddp"):
            choose()
    else:
        assert choose() == chosen
