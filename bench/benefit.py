"""Do GO, PILOT and STOP keep their word? 500 simulated projects whose truth is known.

Truth: gain normal with mean .5 and deviation 3 points, test size 200 to 5,000, cost of an error
$.001 to $10, 1,000 to 10 million requests a month, fixed cost $50 to $50,000, the last four
log-uniform. The rows of the test are simulated, paired; the decision sees them and nothing else.
Break-even volumes are checked by simulating month after month.
"""

from __future__ import annotations

import math

import numpy as np

from record import at_least, at_most, record
from tunewright.decide.benefit import (
    Option,
    Stakes,
    break_even,
    decide,
    error_draws,
    exactly,
    find_value,
)

PROJECTS = 500
SEEDS = (1, 2, 3, 4, 5)
MONTHS = 12
DRAWS = 4000


def make_project(rng):
    """(true gain, simulated difference per row, cost of an error, requests, fixed cost)."""
    gain = rng.normal(0.005, 0.03)
    rows = round(math.exp(rng.uniform(math.log(200), math.log(5000))))
    error_usd = 10 ** rng.uniform(-3, 1)
    requests = 10 ** rng.uniform(3, 7)
    fixed = math.exp(rng.uniform(math.log(50), math.log(50_000)))
    discordance = max(rng.uniform(0.04, 0.16), abs(gain) * 1.2)
    ups, downs = (discordance + gain) / 2, (discordance - gain) / 2
    counts = rng.multinomial(rows, [ups, downs, 1 - ups - downs])
    difference = np.repeat([1.0, -1.0, 0.0], counts)
    return gain, difference, error_usd, requests, fixed


def play(seed):
    """Counts of (word, truly worth it) over the projects."""
    rng = np.random.default_rng(seed)
    found = {}
    for number in range(PROJECTS):
        gain, difference, error_usd, requests, fixed = make_project(rng)
        new, old = Option("tuned", build_usd=fixed), Option("base")
        stakes = Stakes(exactly(requests), exactly(error_usd), months=MONTHS)
        draws = error_draws(difference, None, DRAWS, seed=number)
        word = decide(new, old, stakes, draws).word
        worth = find_value(new, old, stakes, gain).npv_usd > 0
        found[word, worth] = found.get((word, worth), 0) + 1
    return found


def simulate_break_even(fixed, month_usd, each_usd, months):
    """The smallest volume whose months add up to the fixed cost, by bisection on simulated sums."""
    low, high = 0.0, 1e12
    for _ in range(200):
        middle = (low + high) / 2
        balance = -fixed
        for _month in range(months):
            balance += middle * each_usd - month_usd
        low, high = (low, middle) if balance >= 0 else (middle, high)
    return high


def main() -> None:
    totals = {}
    for seed in SEEDS:
        for key, count in play(seed).items():
            totals[key] = totals.get(key, 0) + count
    first = play(SEEDS[0])

    def share(counts, word, right):
        said = sum(n for (w, _), n in counts.items() if w == word)
        return 100 * counts.get((word, right), 0) / max(1, said)

    def pilots(counts):
        return 100 * sum(n for (w, _), n in counts.items() if w == "PILOT") / sum(counts.values())

    rng = np.random.default_rng(7)
    worst = 0.0
    for _ in range(200):
        fixed, month = 10 ** rng.uniform(1.7, 4.7), rng.uniform(0, 500)
        each, months = 10 ** rng.uniform(-5, 0), int(rng.integers(1, 37))
        algebra = break_even(fixed, month, each, months)
        worst = max(worst, abs(simulate_break_even(fixed, month, each, months) / algebra - 1))
    record(
        "benefit",
        [
            at_least("GO is right, 500 projects", share(first, "GO", True), 90, "%"),
            at_least("STOP is right, 500 projects", share(first, "STOP", False), 90, "%"),
            at_most("PILOT, 500 projects", pilots(first), 35, "%"),
            at_least("GO is right, worst of five times 500",
                     min(share(play(s), "GO", True) for s in SEEDS), 90, "%"),
            at_least("STOP is right, worst of five times 500",
                     min(share(play(s), "STOP", False) for s in SEEDS), 90, "%"),
            at_most("PILOT, worst of five times 500", max(pilots(play(s)) for s in SEEDS), 35, "%"),
            at_most("break-even, algebra against simulation", 100 * worst, 0.5, "%"),
        ],
        extra={
            "seeds": SEEDS,
            "counts_of_2500": {f"{w}, {'worth it' if t else 'not worth it'}": n
                               for (w, t), n in sorted(totals.items())},
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
