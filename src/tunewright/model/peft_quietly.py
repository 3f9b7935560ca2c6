"""PEFT, imported without what bitsandbytes says and compiles on the way.

PEFT imports bitsandbytes wherever it is installed, for every method. It says which kernels it could
download, and asks torch to compile four functions, which imports the whole compiler: a fifth of the
time of all imports, for functions that only packed weights call.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def compile_later(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """What torch.compile gives, asked for at the first call."""
    if function is None:
        return functools.partial(compile_later, **options)

    @functools.cache
    def compiled() -> Any:
        return torch.compile(function, **options)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return compiled()(*args, **kwargs)

    return call


@contextmanager
def _without_the_compiler() -> Iterator[None]:
    real = torch.compile
    torch.compile = compile_later  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = real


with _without_the_compiler():
    import peft

__all__ = ["peft"]
