"""A known lowest point is found again, with an interval that holds it; ends are said to be ends."""

import numpy as np
import pytest

from lib.measure import valley

WIDTHS = np.array([8, 16, 32, 64, 128])


def bowl(best, depth=0.1):
    return 4 + depth * (np.log2(WIDTHS) - np.log2(best)) ** 2


def test_the_lowest_point_of_a_parabola_is_found():
    found = valley.fit(WIDTHS, bowl(40))
    assert found.best == pytest.approx(40)
    assert found.regret(80) == pytest.approx(0.1)
    assert np.isnan(found.regret(200))
    assert min(found.regret(width) for width in WIDTHS) >= 0


@pytest.mark.parametrize("losses, end", [(bowl(300), 128), (bowl(2), 8), (-bowl(20), 128), (-WIDTHS, 128)])
def test_where_there_is_no_valley_an_end_is_best(losses, end):
    found = valley.fit(WIDTHS, losses)
    assert found.best == end
    assert found.regret(end) == pytest.approx(0)


def test_resampled_seeds_hold_the_truth():
    rng, held = np.random.default_rng(0), 0
    for trial in range(60):
        runs = {d: loss + rng.normal(0, 0.01, 5) for d, loss in zip(WIDTHS, bowl(30), strict=True)}
        low, high = valley.interval(valley.resampled(runs, 200, trial).best)
        held += low <= 30 <= high
    assert held >= 48  # five seeds make intervals somewhat too short


def test_two_sizes_are_too_few():
    with pytest.raises(ValueError, match="3 or more"):
        valley.fit([8, 16, 16], [1, 2, 3])
