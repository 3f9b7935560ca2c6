"""Do GO, PILOT and STOP keep their word? 500 simulated projects whose truth is known.

Truth: gain normal with mean .5 and deviation 3 points, test size 200 to 5,000, cost of an error
$.001 to $10, 1,000 to 10 million requests a month, fixed cost $50 to $50,000, the last four
log-uniform. The rows of the test are simulated, paired; the decision sees them and nothing else.
Break-even volumes are checked by counting the errors of simulated requests.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from record import at_least, at_most, record
from tunewright.decide.benefit import (
    Option,
    Stakes,
    decide,
    error_draws,
    exactly,
    find_value,
    request_usd,
)
from tunewright.price_desk import MissingFigureError, PriceDesk
from tunewright.prices import STALE_DAYS, Price, Prices

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


def count_requests(new, old, stakes, gain, rng, size=20_000_000):
    """Requests until the cost is back, by counting the errors of simulated requests."""
    wrong_old = rng.binomial(size, old.error) / size
    wrong_new = rng.binomial(size, old.error - gain) / size
    saved = request_usd(old) - request_usd(new)
    saved += (wrong_old - wrong_new) * stakes.error_usd.value
    return (new.build_usd / stakes.months + new.month_usd) / saved


def furthest_apart(rng):
    """The largest share by which algebra and counted requests differ over fifty projects."""
    worst = 0.0
    for _ in range(50):
        new = Option("tuned", build_usd=10 ** rng.uniform(2, 4.7), month_usd=rng.uniform(0, 500))
        old = Option("base", error=0.2, request_usd=10 ** rng.uniform(-5, -3))
        stakes = Stakes(exactly(1.0), exactly(10 ** rng.uniform(-2, 1)), months=MONTHS)
        gain = rng.uniform(0.04, 0.15)
        algebra = find_value(new, old, stakes, gain).break_even_requests
        counted = count_requests(new, old, stakes, gain, rng)
        worst = max(worst, abs(counted / algebra - 1))
    return worst


def hand_cases():
    """How many of the sums that were worked out by hand (tests) come out to the cent."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.decide.test_benefit import CASES

    return sum(abs(computed - by_hand) <= allowed for _, computed, by_hand, allowed in CASES)


def price_cases():
    """How many of six ways that a price can be wrong, or right, end as they should."""
    today = date(2026, 11, 25)

    def kept(name, *rows, says=None):
        desk = PriceDesk(Prices(table=rows), today, (lambda key, why: says) if says else None)
        try:
            usd = desk.price("train_tokens", name)
        except MissingFigureError:
            return "refused", 0
        return usd, len(desk.warnings)

    fresh = Price("train_tokens", "m", 2.0, "a page", today)
    other = replace(fresh, usd=3.0, source="another page")
    old = replace(fresh, read_on=today - timedelta(days=STALE_DAYS + 1))
    ends = [
        kept("m") == ("refused", 0),
        kept("m", says=5.0) == (5.0, 0),
        kept("m", fresh, other) == ("refused", 0),
        kept("m", fresh, other, says=5.0) == (5.0, 0),
        kept("m", old) == (2.0, 1),
        kept("m", fresh) == (2.0, 0),
    ]
    return sum(ends)


def main() -> None:
    played = {seed: play(seed) for seed in SEEDS}
    first = played[SEEDS[0]]

    def share(counts, word, right):
        said = sum(n for (w, _), n in counts.items() if w == word)
        return 100 * counts.get((word, right), 0) / max(1, said)

    def pilots(counts):
        return 100 * sum(n for (w, _), n in counts.items() if w == "PILOT") / sum(counts.values())

    def named(counts):
        words = {True: "worth it", False: "not worth it"}
        return {f"{w}, {words[bool(t)]}": n for (w, t), n in sorted(counts.items())}

    record(
        "benefit",
        [
            at_least("sums worked out by hand, to the cent, of 20", hand_cases(), 20),
            at_least("prices that are missing, stale, in conflict: asked for, refused, warned of; "
                     "of 6", price_cases(), 6),
            at_least("GO is right, 500 projects", share(first, "GO", True), 90, "%"),
            at_least("STOP is right, 500 projects", share(first, "STOP", False), 90, "%"),
            at_most("PILOT, 500 projects", pilots(first), 35, "%"),
            at_least("GO is right, worst of five times 500",
                     min(share(p, "GO", True) for p in played.values()), 90, "%"),
            at_least("STOP is right, worst of five times 500",
                     min(share(p, "STOP", False) for p in played.values()), 90, "%"),
            at_most("PILOT, worst of five times 500", max(map(pilots, played.values())), 35, "%"),
            at_most("break-even, algebra against counted requests",
                    100 * furthest_apart(np.random.default_rng(7)), 0.5, "%"),
        ],
        device="2 shared cores of an AMD EPYC with AVX512-BF16, one thread",
        extra={"seeds": SEEDS, "counts": {str(seed): named(p) for seed, p in played.items()}},
    )  # fmt: skip


if __name__ == "__main__":
    main()
