"""Drawing tokens: the probabilities of the model, from a stream that knows its row alone."""

from dataclasses import dataclass, field

import pytest
import torch

from tunewright.model.sampling import Sampling, choose, row_seed, uniform

P = torch.tensor([0.1, 0.5, 0.05, 0.35])


@dataclass
class Row:
    sampling: Sampling
    ids: list = field(default_factory=list)


def shares(count=3000, **options):
    rows = [Row(Sampling(temperature=1.0, seed=row_seed(7, i), **options)) for i in range(count)]
    ids = choose(P.log().expand(count, 4), rows).ids
    return torch.tensor(ids).bincount(minlength=4) / count


def test_drawn_tokens_have_the_probabilities_of_the_model():
    assert shares().tolist() == pytest.approx(P.tolist(), abs=0.03)
    nucleus = shares(top_p=0.8)  # tokens 1 and 3
    assert nucleus[0] == nucleus[2] == 0
    assert nucleus[1] == pytest.approx(0.5 / 0.85, abs=0.03)
    three = shares(top_k=3)
    assert three[2] == 0 and three[0] == pytest.approx(0.1 / 0.95, abs=0.03)
    both = shares(top_k=3, top_p=0.5)
    assert both[1] == 1


def test_a_nucleus_wider_than_the_candidates_is_still_whole(monkeypatch):
    monkeypatch.setattr("tunewright.model.sampling.CANDIDATES", 2)
    found = shares(top_p=0.97)  # all four: the first three hold 0.95
    assert found.tolist() == pytest.approx(P.tolist(), abs=0.03)


def test_temperature_bias_and_penalties():
    def one(**options):
        ids = options.pop("ids", [])
        return choose(P.log().unsqueeze(0), [Row(Sampling(**options), ids)]).ids[0]

    assert one() == 1
    assert one(temperature=1e-4, seed=5) == 1
    assert one(logit_bias=((1, -100.0),)) == 3
    assert one(presence_penalty=0.5, ids=[1]) == 3
    assert one(frequency_penalty=0.3, ids=[1]) == 1
    assert one(frequency_penalty=0.3, ids=[1, 1]) == 3


def test_log_probabilities_are_those_of_the_model_whatever_was_done_to_choose():
    row = Row(Sampling(logit_bias=((1, -100.0),), top_logprobs=2))
    choice = choose(P.log().unsqueeze(0), [row])
    assert choice.log_probabilities[0] == pytest.approx(float(P[3].log()))
    assert [i for i, _ in choice.tops[0]] == [1, 3]


def test_uniform_is_a_pure_function_and_spread():
    values = [uniform(3, i) for i in range(4000)]
    assert values == [uniform(3, i) for i in range(4000)]
    assert min(values) >= 0 and max(values) < 1
    assert sum(values) / len(values) == pytest.approx(0.5, abs=0.02)
