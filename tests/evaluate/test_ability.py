"""The probe of general ability: right by hand, hurt by noise, and told in one line."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.model_zoo import make_tiny

from tunewright.asking import open_chat
from tunewright.data.render import Rendering
from tunewright.evaluate.ability import compare_ability, nearest_mean_rights, probe_texts
from tunewright.evaluate.predict import Asker
from tunewright.model.load import load_base


def test_a_text_is_left_out_of_its_own_mean():
    """Two clear classes, and one row that lies among the other class: its own mean is elsewhere."""
    states = np.array([[1, 0.1], [1, -0.1], [0.1, 1], [-0.1, 1], [0, 1.0]])
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    rights = nearest_mean_rights(states, ["a", "a", "b", "b", "a"])
    assert rights.tolist() == [1, 1, 1, 1, 0]


@pytest.mark.slow
def test_the_probe_tells_a_spoilt_encoder_from_the_same_one(tmp_path):
    base = load_base("embedded:minilm", task="classify", labels=("a", "b"))
    asker = Asker(base, Rendering("classify", base.tokenizer, 64, base.labels), 8)
    assert len(probe_texts()) > 400
    same = compare_ability(asker, asker)
    assert (same.delta, same.unit) == (0.0, "share")
    assert "unchanged" in same.says
    spoilt = load_base("embedded:minilm", task="classify", labels=("a", "b"))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in spoilt.model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
    lost = compare_ability(asker, replace(asker, base=spoilt))
    assert lost.ci95[1] < 0
    assert lost.says.endswith("lost")


def test_writers_are_probed_by_surprise(tmp_path):
    asker = open_chat(str(make_tiny("gpt2", tmp_path / "gpt2"))).asker
    found = compare_ability(asker, asker)
    assert found.unit == "nats"
    assert found.delta == 0.0
    assert found.old > 1
