"""When to tune again: total cost against the best of several policies chosen in hindsight.

Real rows and real learning, in short: linear discriminants on MiniLM embeddings of banking77. The
model starts with 52 intents; five groups of five arrive at random moments in 120 batches of 100,
each taking 10 % of the traffic from then on. One answer in five gets its label. Tuning again learns
from all labelled rows so far. Cost: one for an error, the ratio for a tuning. Hindsight: the best
of never, and of tuning 1, 2, 4 or 8 batches after every true change, chosen for each stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from record import at_most, record
from tunewright.decide.retune import Account, Trigger, Window, add_window, decide_retune
from watch_rows import load

RATIOS = (50, 300, 1500, 6000)
STREAMS = 8
BATCHES, BATCH, LABELLED = 120, 100, 0.2
GROUPS, GROUP = 5, 5
SHARE = 0.1
COOLDOWN = 2
SHRINKAGE = 0.5
Floats = NDArray[np.float64]


@dataclass
class Stream:
    """rows_BN: row numbers of each batch. labelled_BN: which get a label."""

    states: Floats
    classes: NDArray[np.int64]
    start: NDArray[np.int64]
    rows_BN: NDArray[np.int64]
    labelled_BN: NDArray[np.bool_]
    changes: list[int]


def make_stream(seed: int) -> Stream:
    rows, rng = load("banking77"), np.random.default_rng(seed)
    names = sorted({label[0] for label in rows.labels})
    classes = np.array([names.index(label[0]) for label in rows.labels])
    order = rng.permutation(len(names))
    new = order[: GROUPS * GROUP].reshape(GROUPS, GROUP)
    known = np.flatnonzero(np.isin(classes, order[GROUPS * GROUP :]))
    known = rng.permutation(known)
    start, pool = known[: len(known) // 2], known[len(known) // 2 :]
    changes = sorted(rng.choice(np.arange(8, 110), GROUPS, replace=False).tolist())
    rows_BN = np.empty((BATCHES, BATCH), dtype=np.int64)
    for batch in range(BATCHES):
        present = [g for g, begin in enumerate(changes) if begin <= batch]
        which = rng.random(BATCH)
        rows_BN[batch] = rng.choice(pool, BATCH)
        for number, group in enumerate(present):
            members = np.flatnonzero(np.isin(classes, new[group]))
            mine = (which >= number * SHARE) & (which < (number + 1) * SHARE)
            rows_BN[batch, mine] = rng.choice(members, int(mine.sum()))
    return Stream(rows.states_nH, classes, start, rows_BN, rng.random((BATCHES, BATCH)) < LABELLED,
                  changes)  # fmt: skip


class Head:
    """What a head that was tuned after so many batches answers; each is fitted once."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.classes = int(stream.classes.max()) + 1
        self.memo: dict[int, tuple[tuple[Floats, Floats], float]] = {}

    def after(self, batches: int) -> tuple[tuple[Floats, Floats], float]:
        """(a head tuned after so many batches, the error of its like on rows left out)."""
        if batches not in self.memo:
            s = self.stream
            seen = s.rows_BN[:batches][s.labelled_BN[:batches]]
            rows = np.concatenate([s.start, seen])
            held = np.arange(len(rows)) % 10 == 0
            error = float(self.wrong(self._fit(rows[~held]), rows[held]).mean())
            self.memo[batches] = (self._fit(rows), error)
        return self.memo[batches]

    def _fit(self, rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Linear discriminants with a shrunken common covariance; every class is as likely."""
        x, y = self.stream.states[rows], self.stream.classes[rows]
        present = np.unique(y)
        hot = (y[:, None] == present).astype(np.float64)
        counts = hot.sum(axis=0)
        means = (hot.T @ x) / counts[:, None]
        inner = x - means[np.searchsorted(present, y)]
        spread = inner.T @ inner / len(x)
        spread += SHRINKAGE * np.trace(spread) / len(spread) * np.eye(len(spread))
        directions = np.linalg.solve(spread, means.T)
        weights, bias = np.zeros((x.shape[1], self.classes)), np.full(self.classes, -np.inf)
        weights[:, present] = directions
        bias[present] = -0.5 * (means.T * directions).sum(axis=0)
        return weights, bias

    def wrong(self, fitted: tuple[Floats, Floats], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        answers = (self.stream.states[rows] @ fitted[0] + fitted[1]).argmax(axis=1)
        return np.asarray(answers != self.stream.classes[rows])


Policy = Callable[[int, int, float, int], bool]


def play(stream: Stream, head: Head, policy: Policy) -> tuple[int, int]:
    """(errors, tunings). policy(batch, labelled, labelled errors beyond usual, last tuning)."""
    fitted, usual = head.after(0)
    errors = tunings = last = 0
    for batch in range(BATCHES):
        rows = stream.rows_BN[batch]
        wrong = head.wrong(fitted, rows)
        errors += int(wrong.sum())
        seen = stream.labelled_BN[batch]
        excess = (float(wrong[seen].mean()) - usual) * BATCH if seen.any() else 0.0
        if policy(batch, int(seen.sum()), excess, last):
            tunings, last = tunings + 1, batch + 1
            fitted, usual = head.after(batch + 1)
    return errors, tunings


def ours(ratio: float, threshold: float = 1.0) -> Policy:
    trigger = Trigger(error_usd=1.0, retune_usd=ratio, threshold=threshold, cooldown_s=COOLDOWN)
    account = Account(0.0, 0.0)

    def policy(batch: int, count: int, excess: float, last: int) -> bool:
        nonlocal account
        if account.tuned_s != last:
            account = Account(float(last), float(batch))
        account = add_window(account, Window(float(batch + 1), BATCH, excess))
        return decide_retune(account, trigger).now

    return policy


def after_changes(changes: list[int], delay: int) -> Policy:
    return lambda batch, count, excess, last: batch - delay + 1 in changes


def every(period: int) -> Policy:
    return lambda batch, count, excess, last: batch + 1 - last >= period


def main() -> None:
    costs: dict[str, dict[int, list[float]]] = {}
    for seed in range(STREAMS):
        stream = make_stream(seed)
        head = Head(stream)
        plays = {"never": play(stream, head, lambda *_: False)}
        plays |= {f"after {d}": play(stream, head, after_changes(stream.changes, d))
                  for d in (1, 2, 4, 8)}  # fmt: skip
        best = {r: min(e + r * t for e, t in plays.values()) for r in RATIOS}
        plays |= {f"every {n}": play(stream, head, every(n)) for n in (10, 20, 40)}
        for ratio in RATIOS:
            mine = play(stream, head, ours(ratio))
            for name, (errors, tunings) in {**plays, "ours": mine}.items():
                cost = (errors + ratio * tunings) / best[ratio]
                costs.setdefault(name, {}).setdefault(ratio, []).append(cost)
        print(seed, {r: round(costs["ours"][r][-1], 3) for r in RATIOS}, flush=True)
    means = {name: {r: float(np.mean(v)) for r, v in by.items()} for name, by in costs.items()}
    for name, by in means.items():
        print(name, {r: round(v, 2) for r, v in by.items()})
    bars = [at_most(f"total cost over the best in hindsight, a tuning as dear as {r} errors",
                    means["ours"][r], 1.2, "x") for r in RATIOS]  # fmt: skip
    periods = {n: float(np.mean(list(b.values()))) for n, b in means.items() if n[:5] == "every"}
    bars.append(at_most("mean over the ratios, as a share of the best fixed period's",
                        float(np.mean(list(means["ours"].values()))) / min(periods.values()), 1.0,
                        "x"))  # fmt: skip
    record("retune_trigger", bars, "2 shared cores of an AMD EPYC with AVX512-BF16",
           {"method": __doc__, "cost_over_hindsight": means})  # fmt: skip


if __name__ == "__main__":
    main()
