"""Accuracy of windows of 1,000 requests, estimated without labels, against the truth.

banking77, 15 of 77 intents held out, 10 deals of rows, 10 windows of each kind in each. Prior
shift: classes reweighted at random (Dirichlet, concentration .5). Covariate shift: long requests,
short requests, or a random direction of the embedding weighted up (exp of a standard deviation).
`hard` (the 30 % least sure requests four times as often) is shown beside, as the hardest kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from record import at_least, at_most, record
from tunewright.monitor.novelty import estimate_share
from tunewright.monitor.outputs import AccuracyEstimate, estimate_accuracy
from watch_model import Watched, watch_banking77

N = 1000
DEALS = 10
WINDOWS = 10
Floats = NDArray[np.float64]
Weights = Callable[[Watched, np.random.Generator], Floats]


def standard(values: Floats) -> Floats:
    return (values - values.mean()) / values.std()


def unchanged(w: Watched, rng: np.random.Generator) -> Floats:
    return np.ones(len(w.known_requests))


def prior(w: Watched, rng: np.random.Generator) -> Floats:
    """By true class; answers stand in for the few that are wrong."""
    return rng.gamma(0.5, size=len(w.lens.profile.labels) + 1)[w.known.classes_n] + 1e-9


def longer(w: Watched, rng: np.random.Generator) -> Floats:
    return np.exp(standard(w.known.length))


def shorter(w: Watched, rng: np.random.Generator) -> Floats:
    return np.exp(-standard(w.known.length))


def direction(w: Watched, rng: np.random.Generator) -> Floats:
    return np.exp(standard(w.known.states_nH @ rng.normal(size=w.known.states_nH.shape[1])))


def hard(w: Watched, rng: np.random.Generator) -> Floats:
    return np.where(w.known.confidence < np.quantile(w.known.confidence, 0.3), 4.0, 1.0)


KINDS: dict[str, Weights] = {"unchanged": unchanged, "prior shift": prior, "long": longer,
                             "short": shorter, "direction": direction, "hard": hard}  # fmt: skip


def judge(w: Watched, rows: NDArray[np.int64], novel: NDArray[np.int64]) -> AccuracyEstimate:
    ratios = np.concatenate([w.known.novelty[rows], w.novel.novelty[novel]])
    confidence = np.concatenate([w.known.confidence[rows], w.novel.confidence[novel]])
    share = estimate_share(ratios, w.lens.reference.novelty)
    return estimate_accuracy(confidence, ratios, novel_share=share.value,
                             num_reference=len(w.lens.profile.requests))  # fmt: skip


def main() -> None:
    errors: dict[str, list[float]] = {name: [] for name in KINDS}
    valid: dict[str, list[bool]] = {name: [] for name in KINDS}
    covered: dict[str, list[bool]] = {name: [] for name in KINDS}
    invalid: dict[float, list[bool]] = {0.1: [], 0.2: [], 0.4: []}
    least: dict[float, list[float]] = {share: [] for share in invalid}
    shares: dict[float, list[float]] = {share: [] for share in invalid}
    for deal in range(DEALS):
        w, rng = watch_banking77(deal), np.random.default_rng(500 + deal)
        for _ in range(WINDOWS):
            for name, weigh in KINDS.items():
                weights = weigh(w, rng)
                rows = rng.choice(len(weights), N, p=weights / weights.sum())
                told, true = judge(w, rows, rows[:0]), w.right_known[rows].mean()
                errors[name].append(abs(told.value - true))
                valid[name].append(told.valid)
                covered[name].append(told.ci95[0] <= true <= told.ci95[1])
            for share in invalid:
                count = round(share * N)
                rows = rng.integers(0, len(w.known_requests), N - count)
                novel = rng.integers(0, len(w.novel_requests), count)
                told, true = judge(w, rows, novel), w.right_known[rows].sum() / N
                invalid[share].append(not told.valid)
                least[share].append(abs(told.least - true))
                shares[share].append(told.novel_share)
        print(deal, {k: round(100 * np.mean(v), 2) for k, v in errors.items()}, flush=True)
    bars = []
    shifted = [e for name in ("long", "short", "direction") for e in errors[name]]
    for name, found in (("unchanged", errors["unchanged"]), ("prior-shifted",
                        errors["prior shift"]), ("covariate-shifted", shifted)):  # fmt: skip
        bars.append(at_most(f"mean absolute error, {name} windows of 1,000",
                            100 * float(np.mean(found)), 2.0, "points"))  # fmt: skip
    for share, said in invalid.items():
        bars.append(at_least(f'windows called "invalid" at {100 * share:.0f} % unknown intents',
                             100 * float(np.mean(said)), 90.0, "%"))  # fmt: skip
    extra: dict[str, Any] = {
        "method": __doc__,
        "mean_absolute_error_points": {k: 100 * float(np.mean(v)) for k, v in errors.items()},
        "called_valid_percent": {k: 100 * float(np.mean(v)) for k, v in valid.items()},
        "interval_covers_percent": {k: 100 * float(np.mean(v)) for k, v in covered.items()},
        "error_of_least_points": {str(k): 100 * float(np.mean(v)) for k, v in least.items()},
        "mean_estimated_share": {str(k): float(np.mean(v)) for k, v in shares.items()},
    }
    record("watch_accuracy", bars, "2 shared cores of an AMD EPYC with AVX512-BF16", extra)
    print(extra)


if __name__ == "__main__":
    main()
