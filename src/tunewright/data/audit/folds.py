"""Predictions for rows by models that never saw them, the ground of most audits of labels.

Each model is cheap: it is there to doubt labels, not to be the best. B rows, K labels, F features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def deal_folds(labels: Ints, num_folds: int, seed: int) -> Ints:
    """(B,) fold of each row, 0 to num_folds - 1; every label is dealt out evenly."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    dealt = shuffled[np.argsort(labels[shuffled], kind="stable")]
    out = np.zeros(len(labels), dtype=np.int64)
    out[dealt] = np.arange(len(labels)) % num_folds
    return out
