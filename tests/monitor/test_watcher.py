"""Rules speak when traffic changes, hold their tongue when it does not, and show the rows."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from monitor_fixture import CLASSES, UNKNOWN, lens, profile, rows, unlabelled
from tunewright.monitor.alerts import make_alert
from tunewright.monitor.limits import gumbel_quantile, make_ground, set_limits
from tunewright.monitor.profile import load_profile, make_lens, save_profile
from tunewright.monitor.watcher import Watcher
from tunewright.records import Request


@lru_cache(maxsize=1)
def ground():
    return make_ground(lens(), batch_size=25)


@lru_cache(maxsize=1)
def limits():
    return set_limits(ground(), num_streams=12)


def watch(requests: list[Request], states: np.ndarray) -> tuple[Watcher, list]:
    """A watcher that saw these rows in batches of 25, and its first signals."""
    watcher = Watcher(ground(), limits())
    facts = lens().look(requests, states)
    for begin in range(0, len(requests) - 24, 25):
        index = np.arange(begin, begin + 25)
        signals = watcher.observe([requests[i] for i in index], facts.take(index))
        if signals:
            return watcher, signals
    return watcher, []


def test_quiet_on_traffic_like_the_reference():
    requests, states = rows(2500, 77)
    watcher, signals = watch(unlabelled(requests), states)
    assert not signals
    assert watcher.batch == 100
    assert set(watcher.levels) >= {"novelty", "confidence", "kernel", "class_mix"}


def test_unknown_requests_are_noticed_grouped_and_named():
    known, known_states = rows(500, 78)
    new, new_states = rows(500, 79, range(CLASSES, CLASSES + UNKNOWN))
    mixed = np.random.default_rng(0).permutation(1000)
    requests = [*unlabelled(known), *unlabelled(new)]
    requests, states = (
        [requests[i] for i in mixed],
        np.concatenate([known_states, new_states])[mixed],
    )
    watcher, signals = watch(requests, states)
    assert signals
    assert signals[0].batch <= 6
    assert {s.rule for s in signals} & {"novelty", "distance", "confidence"}
    alert = make_alert(signals, watcher.recent, lens(), error_usd=2.0)
    assert not alert.accuracy.valid
    assert 0.3 < alert.accuracy.novel_share < 0.7
    assert alert.accuracy.least < alert.accuracy.value
    assert alert.cost_usd == pytest.approx(2 * alert.excess_errors)
    words = {word for cluster in alert.clusters for word in cluster.name.split("_")}
    assert words & {"hotel", "pool", "parking", "garage", "breakfast", "menu", "spa", "massage"}
    assert "retune" in alert.action
    texts = {r.id: r.input for r in requests}
    assert alert.rows
    assert all(texts[row] == text for row, text in alert.rows)


def test_repeats_are_a_flood_and_need_no_tuning():
    requests, states = rows(100, 80)
    one = np.tile(states[:1], (15, 1))
    states = np.concatenate([states[:60], one])
    watcher, signals = watch(unlabelled(requests[:60] + [requests[0]] * 15), states)
    assert [s.rule for s in signals] == ["flood"]
    alert = make_alert(signals, watcher.recent, lens(), error_usd=None)
    assert "client" in alert.action
    assert alert.cost_usd is None


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda r: replace(r, answer=None), "broken_answers"),
        (lambda r: replace(r, input="Ich möchte bitte sofort meine verlorene Karte sperren lassen"),
         "language"),
        (lambda r: replace(r, label="another"), "errors"),
        (lambda r: replace(r, input=r.input * 20), "length"),
        (lambda r: replace(r, answer="class_0"), "class_mix"),
    ],
)  # fmt: skip
def test_each_kind_of_change_is_named(change, rule):
    requests, states = rows(1000, 81)
    if rule != "errors":
        requests = unlabelled(requests)
    watcher, signals = watch([change(r) for r in requests], states)
    said = [s.rule for s in signals]
    assert rule in said
    assert signals[0].first_batch <= signals[0].batch < 12


def test_a_profile_comes_back_from_disk_the_same(tmp_path):
    save_profile(profile(), tmp_path)
    back = make_lens(load_profile(tmp_path))
    for name in ("novelty", "confidence", "length", "unknown"):
        np.testing.assert_allclose(
            getattr(back.reference, name), getattr(lens().reference, name), atol=2e-3
        )


def test_gumbel_quantile_is_that_of_the_law():
    drawn = np.random.default_rng(0).gumbel(3.0, 2.0, 200_000)
    assert gumbel_quantile(drawn, 0.99) == pytest.approx(3 - 2 * np.log(-np.log(0.99)), rel=0.02)
