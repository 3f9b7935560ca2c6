"""Order and position of rows at scale: pure functions, whatever number of ranks and workers."""

import time

import numpy as np

from tunewright.data.batch import plan_epoch
from tunewright.train.parallel import share_rows

ROWS = 2_000_000
BATCH = 8


def test_position_one_million_is_reached_in_under_a_second():
    """Row 10^6 of the second epoch of two million rows: nothing is skipped to."""
    lengths = np.random.default_rng(0).integers(5, 500, ROWS)
    began = time.process_time()
    plan = plan_epoch(lengths, BATCH, seed=17, epoch=1)
    chosen = plan[1_000_000 // BATCH]
    shares = share_rows(lengths[chosen].tolist(), 2)
    assert time.process_time() - began < 1.0
    assert sorted(row for share in shares for row in share) == list(range(BATCH))


def test_the_rows_of_a_step_are_the_same_for_any_number_of_ranks():
    lengths = np.random.default_rng(1).integers(5, 500, 1000)
    plan = plan_epoch(lengths, 16, seed=17, epoch=3)
    for step in (0, 7, 40):
        rows = plan[step]
        for size in (1, 2, 3, 8):
            shares = share_rows(lengths[rows].tolist(), size)
            taken = sorted(int(rows[row]) for share in shares for row in share)
            assert taken == sorted(int(row) for row in rows)
