"""`tunewright plan --cluster` and `--nproc`."""

import json

import pytest

from tunewright.cli.main import run
from tunewright.cost.devices import DEVICES, Device
from tunewright.planning import num_shares, share_here


def test_reference_models_without_a_recipe(capsys):
    assert run(["plan", "--cluster", "8,64", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {(row["model"], row["gpus"]) for row in document["rows"]} == {
        (model, gpus) for model in ("8B", "70B", "405B") for gpus in (8, 64)
    }
    assert len(document["published"]) >= 6
    assert run(["plan", "--cluster", "8"]) == 0
    assert "does not fit" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "eight", "0", "8,-1", "1e3"])
def test_counts_that_are_none(capsys, text):
    assert run(["plan", "--cluster", text]) == 2
    assert "--cluster" in capsys.readouterr().err


def test_neither_recipe_nor_cluster(capsys):
    assert run(["plan"]) == 2
    assert "no recipe" in capsys.readouterr().err


def test_processes_on_one_processor_share_it():
    cpu = Device("cpu", 1000, 8e9, 1e9, 20.0, "here", kind="cpu")
    shared, room = share_here(cpu, 1000, 4)
    assert (shared.count, shared.flops_per_s, room) == (4, 2e9, 250)
    gpu, room = share_here(DEVICES["L4"], 1000, 4)
    assert (gpu.count, gpu.flops_per_s, room) == (4, DEVICES["L4"].flops_per_s, 1000)


@pytest.mark.parametrize(
    ("kind", "quantization", "parallel", "shares"),
    [("cuda", "none", "auto", 4), ("cuda", "none", "ddp", 1), ("cuda", "nf4", "auto", 1),
     ("cpu", "none", "auto", 1)],
)  # fmt: skip
def test_weights_are_spread_as_train_spreads_them(kind, quantization, parallel, shares):
    from dataclasses import replace

    from tunewright.config import parse_recipe

    text = (f"base_model: x\ndata: {{train: x.csv}}\ntraining: {{parallel: {parallel}}}\n"
            f"adapter: {{method: lora, quantization: {quantization}}}\n")  # fmt: skip
    device = replace(DEVICES["L4"], count=4, kind=kind)
    assert num_shares(parse_recipe(text, "test"), device) == shares
