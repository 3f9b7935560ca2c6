from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as theirs

from tunewright.metrics import stats


@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0, 0), (5, 0), (6, 0), (31, 12), (100, 140), (7, 7)]
)
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    both = only_a + only_b
    expected = theirs.binomtest(only_a, both).pvalue if both else 1.0
    assert stats.exact_mcnemar(only_a, only_b) == pytest.approx(expected)


@pytest.mark.parametrize(("right", "n"), [(0, 20), (20, 20), (17, 20), (2889, 3080)])
def test_wilson_equals_scipy_and_is_never_without_width(right: int, n: int) -> None:
    low, high = stats.wilson_interval(right / n, n)
    expected = theirs.binomtest(right, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert low < high


@pytest.mark.parametrize(("discordance", "rows"), [(0.04, 783), (0.08, 1568), (0.15, 2941)])
def test_rows_for_two_points_match_published_counts(discordance: float, rows: int) -> None:
    assert stats.rows_needed_share(0.02, discordance) == pytest.approx(rows, rel=0.01)
    assert stats.rows_needed_share(0.01, 0.08) == pytest.approx(6277, rel=0.01)
    # The exact test needs a few more rows than the formula says: the same rows show a little less.
    assert 0.02 < stats.detectable_share(rows, discordance) < 0.0209


@pytest.mark.parametrize(("n", "discordance"), [(8, 0.5), (20, 0.3), (60, 0.2), (500, 0.05)])
def test_the_detectable_share_is_found_four_times_in_five(n: int, discordance: float) -> None:
    gain = stats.detectable_share(n, discordance)
    both = max(discordance, gain)
    shares = [(both + gain) / 2, (both - gain) / 2, 1 - both]
    drawn = np.random.default_rng(0).multinomial(n, shares, 4000)
    units = stats.find_units([None] * n)
    known: dict[tuple[int, int], bool] = {}
    for x, y in {(int(x), int(y)) for x, y, _ in drawn}:
        low, _ = stats.paired_share_interval(np.repeat([1.0, -1.0, 0.0], [x, y, n - x - y]), units)
        known[x, y] = stats.exact_mcnemar(x, y) < 0.05 and low > 0
    found = np.mean([known[int(x), int(y)] for x, y, _ in drawn])
    assert found == pytest.approx(0.8, abs=0.025)
    assert stats.share_power(n, both, gain) == pytest.approx(0.8, abs=0.003)


def test_five_rows_can_show_nothing() -> None:
    assert [stats.detectable_share(n, 0.5) for n in range(1, 6)] == [math.inf] * 5
    assert stats.detectable_share(6, 0.5) < 1
    assert stats.detectable(0.1, 1) == math.inf


@pytest.mark.parametrize("n", [12, 40, 400])
def test_the_detectable_mean_is_found_four_times_in_five(n: int) -> None:
    rng = np.random.default_rng(1)
    gain = stats.detectable(1 / math.sqrt(n), n)
    rows = rng.normal(gain, 1, (20_000, n))
    error = rows.std(axis=1, ddof=1) / math.sqrt(n)
    found = (rows.mean(axis=1) / error > stats.t_quantile(n - 1)).mean()
    assert 0.79 < found < 0.86  # the interval's small-sample factor asks for a little more


def test_rows_needed_falls_with_the_square_of_the_gain() -> None:
    assert stats.rows_needed(0.01, 1000, 0.02) == 4000
    assert stats.rows_needed(0.0, 1000, 0.02) == math.inf


def test_few_rows_detect_only_large_differences() -> None:
    found = [stats.detectable_share(n, 0.1) for n in (10, 100, 1000, 10_000)]
    assert found == sorted(found, reverse=True)
    assert 0 < found[-1] < 0.01 < 0.3 < found[0] <= 1


def test_units_are_groups_only_where_groups_repeat() -> None:
    assert not stats.find_units(["x", "y", None, None]).clustered
    units = stats.find_units(["x", "y", "x", None])
    assert units.clustered
    assert units.count == 3
    assert units.of_row.tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize("groups", [[None] * 50, [f"g{i // 5}" for i in range(50)]])
def test_resamples_keep_units_together_and_are_repeatable(groups: list[str | None]) -> None:
    units = stats.find_units(groups)
    drawn = np.concatenate(list(stats.bootstrap_weights(units, 30, 7)), axis=1)
    again = np.concatenate(list(stats.bootstrap_weights(units, 30, 7)), axis=1)
    assert drawn.shape == (50, 30)
    assert (drawn.sum(axis=0) == 50).all()
    assert (drawn == again).all()
    assert not (drawn == np.concatenate(list(stats.bootstrap_weights(units, 30, 8)), axis=1)).all()
    swaps = np.concatenate(list(stats.swap_weights(units, 30, 7)), axis=1)
    assert set(np.unique(swaps)) == {0.0, 1.0}
    for resample in (drawn, swaps):
        for unit in range(units.count):
            assert (resample[units.of_row == unit] == resample[units.of_row == unit][0]).all()


def test_resamples_come_in_small_chunks() -> None:
    units = stats.find_units([None] * 50_000)
    first = next(stats.bootstrap_weights(units, 1000, 0))
    assert first.nbytes <= stats.MAX_CHUNK_BYTES


def test_bootstrap_interval_of_a_mean_is_close_to_the_t_interval() -> None:
    rng = np.random.default_rng(0)
    sample = rng.normal(size=200)
    units = stats.find_units([None] * 200)
    weights = np.concatenate(list(stats.bootstrap_weights(units, 4000, 0)), axis=1)
    low, high = stats.bootstrap_interval(sample.mean(), sample @ weights / 200, 200)
    expected = theirs.t.interval(0.95, 199, sample.mean(), theirs.sem(sample))
    assert (low, high) == pytest.approx(expected, abs=0.02)


def test_intervals_without_material_are_nan_not_wrong() -> None:
    assert all(map(math.isnan, stats.bootstrap_interval(math.nan, np.ones(10), 10)))
    assert all(map(math.isnan, stats.bootstrap_interval(1.0, np.full(10, math.nan), 10)))


def test_paired_interval_never_claims_certainty() -> None:
    units = stats.find_units([None] * 100)
    low, high = stats.paired_share_interval(np.zeros(100), units)
    assert low < 0 < high
    grouped = stats.find_units([f"g{i // 10}" for i in range(100)])
    low, high = stats.paired_share_interval(np.zeros(100), grouped)
    assert low < 0 < high


def test_groups_widen_the_interval_of_a_share() -> None:
    right = np.repeat([1.0, 1.0, 1.0, 0.0, 1.0] * 4, 10)
    rows = stats.share_interval(right, stats.find_units([None] * 200))
    groups = stats.share_interval(right, stats.find_units([f"g{i // 10}" for i in range(200)]))
    assert groups[1] - groups[0] > 2 * (rows[1] - rows[0])
    perfect = stats.share_interval(
        np.ones(200), stats.find_units([f"g{i // 10}" for i in range(200)])
    )
    assert perfect[1] == 1.0
    assert perfect[0] < 0.9


def test_randomisation_counts_the_observed_split() -> None:
    assert stats.randomisation_p(10.0, np.zeros(99)) == 0.01
    assert stats.randomisation_p(0.0, np.ones(99)) == 1.0


def test_holm_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert stats.holm([0.9, 0.8]) == (1.0, 1.0)
    assert stats.holm([]) == ()
