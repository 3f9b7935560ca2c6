"""Charts: what stands where."""

import math
import random

from tunewright.report import charts


def test_whiskers_stand_where_the_figures_are():
    scale = charts.Scale(0.0, 10.0)
    drawn = str(charts.whisker(5.0, (2.5, 7.5), scale, tone="s1"))
    assert 'cx="50.00%"' in drawn and 'x1="25.00%"' in drawn and 'x2="75.00%"' in drawn
    assert "off scale" in str(charts.whisker(99.0, (98.0, 99.5), scale, tone="s1"))
    assert "circle" not in str(charts.whisker(math.nan, (math.nan, 1.0), scale, tone="s1"))


def test_ticks_are_round_inside_and_few():
    rng = random.Random(1)
    for _ in range(500):
        span = 10 ** rng.uniform(-6, 6)
        low = rng.uniform(-1000, 1000) * span
        ticks = charts.Scale(low, low + span).ticks(6)
        assert 1 <= len(ticks) <= 7
        assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)


def test_scale_of_equal_or_no_values_is_still_a_scale():
    for values in ([], [3.0], [0.0, 0.0], [math.nan, None], [-2.0, -2.0]):
        scale = charts.make_scale(values)
        assert scale.low < scale.high
    assert charts.make_scale([0.0, 0.0]).ticks()[0] == 0.0  # no share is below 0


def test_focus_leaves_far_systems_out_and_near_ones_in():
    items = [(0.93, 0.936, 0.944), (0.90, 0.912, 0.92), (0.009, 0.013, 0.017)]
    scale = charts.focus_scale(items, 0.936)
    assert scale.holds(0.944) and scale.holds(0.90) and not scale.holds(0.013)


def test_thinning_keeps_ends_and_means():
    points = [(float(i), 2.0) for i in range(1, 10_001)]
    thin = charts.thin_out(points)
    assert len(thin) <= charts.MAX_POINTS and thin[-1] == (10_000.0, 2.0)
    assert charts.thin_out([(1.0, math.nan), (2.0, 1.0)]) == ((2.0, 1.0),)


def test_confused_classes_stand_side_by_side():
    size = 30
    matrix = [[40 if i == j else 0 for j in range(size)] for i in range(size)]
    matrix[2][27] = matrix[27][2] = 15
    order = charts.order_classes(matrix)
    assert sorted(order) == list(range(size))
    assert abs(order.index(2) - order.index(27)) == 1
