"""Two models in one: by hand for a few numbers, and what each method promises."""

import pytest
import torch

from tunewright.model.merging import MERGES, merge_states

START = {"w": torch.zeros(4), "head": torch.zeros(2), "count": torch.tensor(3)}
OLD = {"w": torch.tensor([4.0, 1.0, -2.0, 0.1]), "head": torch.zeros(3), "count": torch.tensor(3)}
NEW = {"w": torch.tensor([2.0, -3.0, -2.0, 0.2]), "head": torch.zeros(2), "count": torch.tensor(3)}


def merge(method, **more):
    return merge_states(START, [OLD, NEW], method, weights=(0.5, 0.5), **more)


def test_linear_is_the_weighted_sum_and_leaves_out_what_differs_in_shape():
    found = merge("linear")
    assert set(found) == {"w"}
    assert torch.allclose(found["w"], torch.tensor([3.0, -1.0, -2.0, 0.15]))


def test_ties_drops_small_changes_and_the_lighter_sign():
    """Half of each is kept: old 4 and -2, new -3 and 2 or -2; where one alone speaks it is whole."""
    found = merge("ties", density=0.75)["w"]
    assert torch.allclose(found, torch.tensor([3.0, -3.0, -2.0, 0.0]))


def test_dare_is_right_on_average_and_the_same_for_the_same_seed():
    assert torch.equal(merge("dare", seed=3)["w"], merge("dare", seed=3)["w"])
    mean = torch.stack([merge("dare", seed=n)["w"] for n in range(3000)]).mean(dim=0)
    assert torch.allclose(mean, merge("linear")["w"], atol=0.15)


@pytest.mark.parametrize("method", MERGES)
def test_one_model_alone_with_all_its_changes_is_itself(method):
    alone = merge_states(START, [OLD], method, weights=(1.0,), density=1.0)
    assert torch.allclose(alone["w"], OLD["w"])
