"""The whole `train` command on a disk that fills: exit 3, nothing lost, the next start goes on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from train.whole_command import (
    Filler,
    can_mount,
    fill_and_grow,
    fingerprint,
    make_place,
    train,
)

pytestmark = pytest.mark.skipif(not can_mount(), reason="mounting a small tmpfs needs root")


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        make_place(Path(name))
        yield Path(name)


@pytest.fixture(scope="module")
def whole(place) -> dict[str, Any]:
    ended = train(place / "recipe.yaml", place / "whole")
    assert ended.status == 0, ended.err
    return fingerprint(place / "whole")


@pytest.mark.parametrize(
    ("how", "stage"),
    [
        (8_192, "preparing"),
        (600_000, "training"),
        (1_500_000, "training"),
        (Filler("save_tuned", 60_000), "training"),
        (Filler("save_predictions", 0), "evaluating"),
    ],
    ids=str,
)
def test_a_full_disk_ends_in_3_and_the_next_start_ends_in_the_same_bits(place, whole, how, stage):
    played = fill_and_grow(place / "recipe.yaml", place / "disk", whole, how)
    assert played.first.status == 3, played.first.err
    assert played.stage == stage
    assert played.damaged == []
    said = played.first.err.strip().splitlines()[-1]
    assert "no space left on the device" in said and "--resume" in said
    assert "Traceback" not in played.first.err
    assert played.second.status == 0, played.second.err
    assert played.differences == []
    if stage == "training":
        assert "resuming at step" in played.second.err
