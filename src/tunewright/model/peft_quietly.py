"""PEFT, imported without what bitsandbytes says on the way about kernels that it could download."""

from __future__ import annotations

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

import peft  # noqa: E402

__all__ = ["peft"]
