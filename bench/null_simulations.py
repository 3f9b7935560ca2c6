"""How often our words and intervals are wrong when the truth is known.

Rows are drawn again and again from a large made pool, whose own metric is the truth. Under a null
the pool holds every pair of answers both ways round, so the two systems are equal to the last bit.
Run: python bench/null_simulations.py [SIMULATIONS]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from record import Bar, at_least, at_most, record
from tunewright.evaluate.compare import compare
from tunewright.evaluate.score import score
from tunewright.metrics.stats import wilson_interval
from tunewright.metrics.table import METRICS, measure
from tunewright.records import Prediction

POOL_ROWS = 20_000
SHARE_POOL_ROWS = 60_000
RESAMPLES = 400
MAX_FALSE = 0.06
COVERAGE = (0.93, 0.97)


@dataclass(frozen=True)
class Pool:
    """Paired answers of two systems; whole groups are drawn where there are any."""

    a: Sequence[Prediction]
    b: Sequence[Prediction]
    labels: tuple[str, ...]
    group_size: int = 1

    def draw(self, n: int, rng: np.random.Generator) -> tuple[list[Prediction], list[Prediction]]:
        size = self.group_size
        starts = rng.choice(len(self.a) // size, n // size, replace=False) * size
        rows = (starts[:, None] + np.arange(size)).ravel()
        return [self.a[i] for i in rows], [self.b[i] for i in rows]


@dataclass(frozen=True)
class Rates:
    """Shares of simulations: false words, covered differences, covered values."""

    false: float
    covered_delta: float
    covered_value: float


def simulate(pool: Pool, metric: str, n: int, simulations: int, seed: int = 0) -> Rates:
    """Draw n rows `simulations` times; compare both systems and score the first."""
    rng = np.random.default_rng(seed)
    truth_a = measure(pool.a, [metric], pool.labels)[metric]
    truth = truth_a - measure(pool.b, [metric], pool.labels)[metric]
    false = covered_delta = covered_value = 0
    for number in range(simulations):
        a, b = pool.draw(n, rng)
        both = {"labels": pool.labels, "seed": number, "num_resamples": RESAMPLES}
        found = compare(a, b, metric, **both)
        value = score(a, [metric], **both).metrics[metric]
        right_word = truth > 0 if found.delta > 0 else truth < 0
        false += found.verdict != "cannot tell" and not right_word
        covered_delta += found.ci95[0] <= truth <= found.ci95[1]
        covered_value += value.ci95[0] <= truth_a <= value.ci95[1]
    return Rates(false / simulations, covered_delta / simulations, covered_value / simulations)


def make_pool(
    *, accuracy: float, discordance: float, gain: float = 0.0, group_size: int = 1, seed: int = 1
) -> Pool:
    """Right-or-wrong answers. With groups, half of the variance lies between them (ICC .5)."""
    rng = np.random.default_rng(seed)
    one_way = np.array([accuracy - discordance / 2, discordance / 2, discordance / 2])
    kinds = np.array([*one_way, 1 - one_way.sum()]) + np.array([0, gain / 2, -gain / 2, 0])
    if group_size == 1:
        counts = np.round(kinds * SHARE_POOL_ROWS).astype(int)
        counts[0] += SHARE_POOL_ROWS - counts.sum()
        kind = rng.permutation(np.repeat(np.arange(4), counts))
    else:
        num_groups = SHARE_POOL_ROWS // group_size
        of_group = np.repeat(rng.choice(4, num_groups, p=kinds), group_size)
        own = rng.choice(4, len(of_group), p=kinds)
        # Two rows of a group share their kind with probability s * s: an ICC of .5.
        kind = np.where(rng.random(len(own)) < np.sqrt(0.5), of_group, own)
    right_a, right_b = np.isin(kind, (0, 1)), np.isin(kind, (0, 2))
    return _pool_of(
        right_a.astype(int), right_b.astype(int), np.ones(len(kind), int), 2, group_size
    )


def make_class_pool(*, classes: int, null: bool, group_size: int = 1, seed: int = 2) -> Pool:
    """Answers of two noisy systems over several classes of unequal size."""
    rng = np.random.default_rng(seed)
    sizes = np.linspace(1, 3, classes)
    true = rng.choice(classes, POOL_ROWS, p=sizes / sizes.sum())
    shared = rng.normal(size=(POOL_ROWS, classes))
    if group_size > 1:
        hard = np.repeat(rng.normal(size=(POOL_ROWS // group_size, classes)), group_size, axis=0)
        shared = (shared + hard) / np.sqrt(2)
    shared[np.arange(POOL_ROWS), true] += 2.5
    a = (shared + 0.5 * rng.normal(size=shared.shape)).argmax(1)
    b = (shared + (0.5 if null else 0.8) * rng.normal(size=shared.shape)).argmax(1)
    return _pool_of(a, b, true, classes, group_size, mirror=null)


def make_text_pool(*, rows: int = 8000, seed: int = 3) -> Pool:
    """Written answers of two systems that garble the same sentences independently."""
    rng = np.random.default_rng(seed)
    words = np.array([f"w{number}" for number in range(200)])
    popularity = 1 / np.arange(1, 201)
    a, b = [], []
    for number in range(rows // 2):
        sentence = rng.choice(words, int(rng.integers(6, 16)), p=popularity / popularity.sum())
        reference = " ".join(sentence)
        answers = [_garble(sentence, words, rng), _garble(sentence, words, rng)]
        for turn in (0, 1):
            row_id = f"{2 * number + turn}"
            a.append(Prediction(row_id, "test", "a", "", reference, answers[turn]))
            b.append(Prediction(row_id, "test", "b", "", reference, answers[1 - turn]))
    order = rng.permutation(rows)
    return Pool([a[i] for i in order], [b[i] for i in order], ())


def keep_rows(pool: Pool, name: str) -> str:
    """A metric equal to `name` that looks up what each row adds; counting n-grams anew is slow."""
    kept: dict[tuple[str, str], np.ndarray] = {}
    rows_of = METRICS[name].rows
    assert rows_of is not None
    for side in (pool.a, pool.b):
        rows = np.asarray(rows_of(side, ()))
        kept.update({(p.system, p.id): row for p, row in zip(side, rows, strict=True)})
    METRICS[f"{name}_kept"] = replace(
        METRICS[name], rows=lambda rows, labels: np.array([kept[p.system, p.id] for p in rows])
    )
    return f"{name}_kept"


def naive_coverage(pool: Pool, n: int, simulations: int) -> float:
    """How often Wilson's interval covers the accuracy when groups are ignored."""
    rng = np.random.default_rng(7)
    truth = np.mean([row.prediction == row.reference for row in pool.a])
    covered = 0
    for _ in range(simulations):
        rows, _ = pool.draw(n, rng)
        low, high = wilson_interval(float(np.mean([r.prediction == r.reference for r in rows])), n)
        covered += low <= truth <= high
    return covered / simulations


def run(simulations: int) -> tuple[list[Bar], dict[str, dict[str, float]]]:
    plain = partial(make_pool, accuracy=0.88, discordance=0.08)
    written = make_text_pool()
    cases: list[tuple[str, Pool, str, int]] = [
        ("accuracy, n = 300", plain(), "accuracy", 300),
        ("accuracy, n = 1,000", plain(), "accuracy", 1000),
        ("accuracy 2 points apart, n = 1,000", plain(gain=0.02), "accuracy", 1000),
        ("accuracy .98, n = 1,000", make_pool(accuracy=0.98, discordance=0.02), "accuracy", 1000),
        (
            "macro-F1 of 10 classes, n = 300",
            make_class_pool(classes=10, null=True),
            "f1_macro",
            300,
        ),
        ("macro-F1 apart, n = 300", make_class_pool(classes=10, null=False), "f1_macro", 300),
        (
            "F1 of the rarer label, n = 300",
            make_class_pool(classes=2, null=True),
            "f1_positive",
            300,
        ),
        ("BLEU, n = 300", written, keep_rows(written, "bleu"), 300),
    ]
    rates = {name: simulate(pool, metric, n, simulations) for name, pool, metric, n in cases}
    covered = [r.covered_value for r in rates.values()] + [r.covered_delta for r in rates.values()]
    bars = [
        at_most("most false words, any case", max(r.false for r in rates.values()), MAX_FALSE),
        at_least("least coverage, any case", min(covered), COVERAGE[0]),
        at_most("most coverage, any case", max(covered), COVERAGE[1]),
    ]
    grouped = _clustered(simulations)
    ours = [share for r in grouped.values() for share in (r.covered_value, r.covered_delta)]
    naive = naive_coverage(make_grouped(), 500, simulations)
    bars += [
        at_most(
            "groups of 10: most false words", max(r.false for r in grouped.values()), MAX_FALSE
        ),
        at_least("groups of 10: least coverage", min(ours), COVERAGE[0]),
        at_most("groups of 10: coverage when groups are ignored", naive, 0.85),
    ]
    return bars, {name: asdict(found) for name, found in {**rates, **grouped}.items()}


def make_grouped() -> Pool:
    return make_pool(accuracy=0.88, discordance=0.08, group_size=10)


def _clustered(simulations: int) -> dict[str, Rates]:
    classes = make_class_pool(classes=5, null=True, group_size=10)
    return {
        "groups of 10: accuracy, n = 500": simulate(make_grouped(), "accuracy", 500, simulations),
        "groups of 10: macro-F1, n = 500": simulate(classes, "f1_macro", 500, simulations),
    }


def _pool_of(
    a: np.ndarray,
    b: np.ndarray,
    true: np.ndarray,
    classes: int,
    group_size: int,
    *,
    mirror: bool = False,
) -> Pool:
    """Predictions with label names; mirrored: every pair stands in the pool both ways round."""
    if mirror:
        by_group = [x.reshape(-1, group_size) for x in (a, b, true)]
        a, b, true = (
            np.concatenate([left, right]).ravel()
            for left, right in zip(by_group, (by_group[1], by_group[0], by_group[2]), strict=True)
        )
    labels = tuple(f"label {number}" for number in range(classes))
    rows_a, rows_b = [], []
    for place, (x, y, t) in enumerate(zip(a, b, true, strict=True)):
        group = f"g{place // group_size}" if group_size > 1 else None
        common = {"id": str(place), "split": "test", "input": "", "reference": labels[t]}
        rows_a.append(Prediction(**common, system="a", prediction=labels[x], group=group))
        rows_b.append(Prediction(**common, system="b", prediction=labels[y], group=group))
    return Pool(rows_a, rows_b, labels, group_size)


def _garble(sentence: np.ndarray, words: np.ndarray, rng: np.random.Generator) -> str:
    changed = rng.random(len(sentence)) < rng.beta(1, 3)
    return " ".join(np.where(changed, rng.choice(words, len(sentence)), sentence))


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    started = time.perf_counter()
    found, details = run(wanted)
    seconds = round(time.perf_counter() - started, 1)
    record(
        "null_simulations",
        found,
        extra={"simulations": wanted, "seconds": seconds, "cases": details},
    )
