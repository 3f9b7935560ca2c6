"""The gate on planted updates: one that loses 5 points on an old task, and one that loses nothing.

Simulated: 1,000 rows, margin 3 points, 4,000 updates at each discordance (share of rows on which
old and new model differ in being right) up to 10 %. The bar is the worst of them.
"""

from __future__ import annotations

import numpy as np

from record import at_least, at_most, record
from tunewright.evaluate.forgetting import judge_old_task

N = 1000
UPDATES = 4000
MARGIN = 0.03
ACCURACY = 0.9


def blocked(discordance: float, loss: float, seed: int) -> float:
    """Share of updates that are blocked."""
    rng, count = np.random.default_rng(seed), 0
    gains, losses = (discordance - loss) / 2, (discordance + loss) / 2
    for _ in range(UPDATES):
        gained, lost, same = rng.multinomial(N, [gains, losses, 1 - discordance])
        right = round(ACCURACY * same)
        old = np.concatenate([np.zeros(gained), np.ones(lost), np.ones(right),
                              np.zeros(same - right)])  # fmt: skip
        new = np.concatenate([np.ones(gained), np.zeros(lost), np.ones(right),
                              np.zeros(same - right)])  # fmt: skip
        count += judge_old_task("old", old, new, margin=MARGIN).blocked
    return count / UPDATES


def main() -> None:
    harm = {d: blocked(d, 0.05, i) for i, d in enumerate((0.05, 0.06, 0.08, 0.1))}
    none = {d: blocked(d, 0.0, 50 + i) for i, d in enumerate((0.01, 0.02, 0.05, 0.08, 0.1))}
    edge = {d: blocked(d, MARGIN, 90 + i) for i, d in enumerate((0.04, 0.1))}
    bars = [
        at_least("updates that lose 5 points on an old task blocked (n 1,000, margin 3)",
                 100 * min(harm.values()), 95.0, "%"),
        at_most("harmless updates blocked (n 1,000, discordance at most 10 %)",
                100 * max(none.values()), 5.0, "%"),
    ]  # fmt: skip
    record("retune_gate", bars, "2 shared cores of an AMD EPYC with AVX512-BF16", {
        "method": __doc__,
        "blocked_at_5_points_by_discordance": {str(k): v for k, v in harm.items()},
        "blocked_at_no_loss_by_discordance": {str(k): v for k, v in none.items()},
        "passed_at_3_points_by_discordance": {str(k): 1 - v for k, v in edge.items()},
    })  # fmt: skip


if __name__ == "__main__":
    main()
