"""Tiny models, each kind built once; the hash memory goes to a scratch folder."""

import os
from pathlib import Path

import pytest
import torch

from model_zoo import make_tiny

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """tiny("llama") -> folder with a tiny model of that kind."""
    built = {}

    def get(kind):
        if kind not in built:
            built[kind] = make_tiny(kind, tmp_path_factory.mktemp("zoo") / kind)
        return built[kind]

    return get


@pytest.fixture(scope="session")
def stories():
    """The real Llama checkpoint of 656,000 parameters."""
    root = Path(os.environ.get("TUNEWRIGHT_DATA") or REPOSITORY.parent / "shared" / "data")
    folder = root / "model-tinystories-656k"
    if not folder.is_dir():
        pytest.skip(f"real checkpoint {folder.name} is not on this machine")
    return folder


@pytest.fixture(autouse=True)
def scratch_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
