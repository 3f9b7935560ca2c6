"""Which weights between start and end are kept: metrics within their noise leave it to the loss."""

import math

import pytest

from tunewright.train.loop import choose_mix

LOOKS = {1.0: (0.986, 0.0103), 0.0: (0.958, 0.0438), 0.5: (0.986, 0.0120), 0.75: (0.985, 0.0079)}


def test_without_noise_the_metric_decides_and_the_loss_settles_ties():
    assert choose_mix(LOOKS, 0.0) == 1.0
    assert choose_mix({**LOOKS, 0.75: (0.987, 9.0)}, 0.0) == 0.75


def test_within_the_noise_the_loss_decides():
    assert choose_mix(LOOKS, 0.01) == 0.75
    assert choose_mix({**LOOKS, 0.0: (0.90, 0.0001)}, 0.01) == 0.75


@pytest.mark.parametrize("spread", [0.0, 0.05, math.nan, math.inf])
def test_what_is_not_a_number_never_wins(spread):
    nothing = (math.nan, math.nan)
    assert choose_mix({1.0: (0.5, 1.0), 0.5: nothing}, spread) == 1.0
    assert choose_mix({1.0: nothing, 0.5: nothing}, spread) == 1.0
    assert choose_mix({1.0: (0.5, math.nan), 0.5: (0.5, math.nan)}, spread) == 1.0
