"""What all tests share: a cache of their own, so that none sees what another day left."""

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    before = os.environ.get("TUNEWRIGHT_CACHE")
    os.environ["TUNEWRIGHT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["TUNEWRIGHT_CACHE"]
    else:
        os.environ["TUNEWRIGHT_CACHE"] = before
