"""A stream of traffic, batch by batch, against the rules: what they say, and the rows behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tunewright.monitor.inputs import largest_flood
from tunewright.monitor.limits import Ground, height
from tunewright.monitor.profile import Facts
from tunewright.monitor.rules import RULES, Rule
from tunewright.monitor.sequences import (
    MEMORY,
    START_ROWS,
    WINDOW_BATCHES,
    RateSum,
    Running,
    Start,
    Sums,
    make_rate_sum,
    read_means,
)
from tunewright.records import Request, Signal

Floats = NDArray[np.float64]
MOST_ROWS = 50
LOUDER = 2.0
KEPT_BATCHES = 40
"""Batches whose rows are kept as evidence."""


@dataclass
class Seen:
    """One batch with its facts, kept for a while as evidence."""

    batch: int
    requests: Sequence[Request]
    facts: Facts


class Watcher:
    """Observes batches and gives signals. After a signal every rule starts anew, and one that spoke
    must go further from then on: what was told is told again only when it grew. The first
    START_ROWS requests join the reference where they raise no alarm.
    """

    def __init__(self, ground: Ground, limits: Mapping[str, float]) -> None:
        self.ground, self.limits = ground, dict(limits)
        self.batch = 0
        self.recent: deque[Seen] = deque(maxlen=KEPT_BATCHES)
        self.levels: dict[str, float] = {}
        self.baseline = ground.baseline
        self._slack = self.baseline.slack(ground.batch_size)
        size = len(ground.means)
        self._start: Start | None = Start(
            np.zeros(size), np.zeros(size), 0 * self.baseline.kernel_D, 0 * self.baseline.mix_C
        )
        self._restart()

    def observe(self, requests: Sequence[Request], facts: Facts) -> list[Signal]:
        """Take one batch in, and give what the rules say about it, the most surprising first.

        `levels` then holds how far each rule went, as a share of its limit.
        """
        self.recent.append(Seen(self.batch, requests, facts))
        self._add(facts)
        levels = {**self._mean_levels(), **self._rate_levels(), **self._other_levels(facts)}
        self.levels = {name: value / self.limits[name] for name, value in levels.items()}
        spoke = [name for name, value in levels.items() if value > self.limits[name]]
        spoke.sort(key=lambda name: -self.levels[name])
        signals = [self._signal(RULES[name], levels[name]) for name in spoke]
        self.batch += 1
        if signals:
            for name in spoke:
                self.limits[name] = raise_limit(RULES[name], self.limits[name])
            self._start = None  # whatever came so far is no longer the usual
            self._restart()
        elif self._start is not None and self._start.rows >= START_ROWS:
            self._join_start(self._start)
        return signals

    def _join_start(self, start: Start) -> None:
        rows = len(self.ground.lens.reference.length)
        self.baseline = start.join(self.baseline, rows)
        self._slack = self.baseline.slack(self.ground.batch_size)
        self._start = None
        self._restart()

    def _restart(self) -> None:
        ground = self.ground
        self.sums = Sums.fresh((len(ground.means),))
        self.sums.since_up += self.batch
        self.sums.since_down += self.batch
        reference = ground.lens.reference
        self.rates: dict[str, RateSum] = {}
        for rule in ground.rates:
            assert rule.read is not None
            self.rates[rule.name] = replace(make_rate_sum(rule.read(reference)), since=self.batch)
        self.running = Running(self.baseline.kernel_D, self.baseline.mix_C)
        self.started = self.batch

    def _add(self, facts: Facts) -> None:
        ground = self.ground
        means_nm = read_means(list(ground.means), facts)
        counts_m = np.isfinite(means_nm).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            batch_m = np.nansum(means_nm, axis=0) / counts_m
        self.sums.step(self.baseline.z(batch_m, counts_m), self._slack, self.batch)
        if self._start is not None:
            self._start.add(means_nm, ground.features.of(facts.states_nH), facts.classes_n)
        for rule in ground.rates:
            assert rule.read is not None
            values = rule.read(facts)
            known = values[np.isfinite(values)]
            self.rates[rule.name].step(float(known.sum()), float(known.size), self.batch)
        self.running.step(facts, ground.features, ground.classifier, ground.classes)

    def _mean_levels(self) -> dict[str, float]:
        values = height(self.ground.means, self.sums)
        return {rule.name: float(v) for rule, v in zip(self.ground.means, values, strict=True)}

    def _rate_levels(self) -> dict[str, float]:
        return {name: rate.total for name, rate in self.rates.items()}

    def _other_levels(self, facts: Facts) -> dict[str, float]:
        levels, baseline, running = {}, self.baseline, self.running
        for rule in self.ground.others:
            if rule.kind == "kernel":
                levels[rule.name] = float(baseline.kernel_distance(running.kernel_D))
            elif rule.kind == "mix":
                levels[rule.name] = float(baseline.mix_distance(running.mix_C))
            elif rule.kind == "flood":
                levels[rule.name] = float(largest_flood(facts.states_nH)[0])
            elif running.batches % WINDOW_BATCHES == 0:
                window = np.concatenate(running.window_wC)
                levels[rule.name] = self.ground.classifier.separation(window)
        return levels

    def _signal(self, rule: Rule, value: float) -> Signal:
        first = max(self.started, self._first_batch(rule))
        seen = [item for item in self.recent if item.batch >= first]
        rows, shown = evidence(rule, seen)
        return Signal(
            rule=rule.name,
            layer=rule.layer,
            batch=self.batch,
            value=value,
            limit=self.limits[rule.name],
            first_batch=first,
            message=self._message(rule, shown, first),
            rows=rows,
        )

    def _first_batch(self, rule: Rule) -> int:
        names = [item.name for item in self.ground.means]
        if rule.name in names:
            place = names.index(rule.name)
            upward = rule.rises and self.sums.up[place] >= self.sums.down[place]
            since = self.sums.since_up if upward else self.sums.since_down
            return int(since[place])
        if rule.name in self.rates:
            return self.rates[rule.name].since
        reach = {"flood": 1, "classifier": WINDOW_BATCHES}.get(rule.kind, round(1 / MEMORY))
        return self.batch - reach + 1

    def _message(self, rule: Rule, shown: float | None, first: int) -> str:
        span = self.batch - first + 1
        over = "the last batch" if span == 1 else f"the last {span} batches"
        if rule.read is None or shown is None or rule.kind in ("kernel", "classifier"):
            return f"{rule.says}, over {over}"
        usual = float(np.nanmean(rule.read(self.ground.lens.reference)))
        now, before = (
            (f"{100 * v:.1f} %" if rule.unit == "share" else f"{v:.2f}") for v in (shown, usual)
        )
        return f"{rule.says}: {now} over {over}, {before} in reference rows"


def raise_limit(rule: Rule, limit: float) -> float:
    """How far a rule that has spoken must go to speak again.

    Twice as far; half the way to 1 for an AUC. A flood is news every time.
    """
    if rule.kind == "flood":
        return limit
    return (1 + limit) / 2 if rule.kind == "classifier" else LOUDER * limit


def evidence(rule: Rule, seen: Sequence[Seen]) -> tuple[tuple[str, ...], float | None]:
    """(ids of at most MOST_ROWS rows that did most for a signal, mean of its number over all)."""
    if not seen:
        return (), None
    if rule.kind == "flood":
        last = seen[-1]
        _, rows = largest_flood(last.facts.states_nH)
        return tuple(last.requests[i].id for i in rows[:MOST_ROWS]), None
    ids = [request.id for item in seen for request in item.requests]
    if rule.read is None:
        return tuple(ids[-MOST_ROWS:]), None
    values = np.concatenate([rule.read(item.facts) for item in seen])
    known = np.flatnonzero(np.isfinite(values))
    if not known.size:
        return (), None
    mean = float(values[known].mean())
    if rule.kind == "rate":
        known = known[values[known] > 0]
    order = known[np.argsort(-rule.worst * values[known], kind="stable")]
    return tuple(ids[i] for i in order[:MOST_ROWS]), mean
