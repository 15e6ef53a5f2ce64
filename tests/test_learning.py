"""Power laws of training: their own constants come back, a range holds the truth, and pairs are compared as pairs."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.measure import learning

LENGTHS = np.array([36, 72, 143, 286])


@settings(max_examples=30, deadline=None)
@given(st.floats(0.5, 20), st.floats(0.05, 1), st.floats(0, 5))
def test_a_power_law_gives_its_constants_and_goes_on(factor, exponent, floor):
    losses = floor + factor * LENGTHS**-exponent
    assert learning.power(LENGTHS, losses, floor) == pytest.approx((factor, exponent), rel=1e-6)
    ahead = learning.continued(LENGTHS, losses, 2860, floor)
    assert ahead == pytest.approx(floor + factor * 2860**-exponent, rel=1e-6)


def runs(excess, floor, noise=0.2, seeds=(0, 1)):
    """Runs of an arm whose loss falls to a floor, and of one that is at it, on 16 windows."""
    rng = np.random.default_rng(0)
    text = rng.normal(0, noise, 16)
    rows = [
        {"arm": arm, "seed": seed, "updates": length, "rank": rank, "windows": list(level + text)}
        for seed in seeds
        for rank, low in ((4, floor + 1), (16, floor))
        for length in LENGTHS
        for arm, level in (("scaled", low + excess * length**-0.5), ("trained", low))
    ]
    return pd.DataFrame(rows)


def test_the_range_of_longer_runs_holds_what_they_reach():
    ahead = learning.further(runs(8.0, 3.0), "scaled", "trained", [286, 2860], draws=200)
    assert list(ahead["rank"]) == [4, 4, 16, 16]
    for row in ahead.itertuples():
        truth = 3 + (row.rank == 4) + 8 * row.updates**-0.5
        assert row.low < truth < row.high
    near, far = ahead[ahead["rank"] == 16].itertuples()
    assert far.high < near.high and far.high - far.low > near.high - near.low


def test_two_lengths_are_too_few_to_continue():
    few = runs(8.0, 3.0)
    assert learning.further(few[few.updates > 100], "scaled", "trained", [2860], draws=10).empty


def test_pairs_cancel_what_the_text_does():
    """Windows differ by far more than the rank costs, and the cost is still exact."""
    costs = learning.matched(runs(8.0, 3.0, noise=5.0), full=16)
    assert len(costs) == 2 * len(LENGTHS) and set(costs["rank"]) == {4}
    assert costs.cost.to_numpy() == pytest.approx(1)
    assert (costs.high - costs.low).max() < 1e-9


def test_the_interval_over_windows_widens_with_their_differences():
    rng = np.random.default_rng(1)
    base = {"arm": "scaled", "seed": 0, "updates": 36}
    whole = base | {"rank": 8, "windows": [3.0] * 400}
    costs = learning.matched(pd.DataFrame([base | {"rank": 2, "windows": list(rng.normal(4, 0.5, 400))}, whole]), 8)
    assert costs.low[0] < 1 < costs.high[0]
    assert costs.high[0] - costs.low[0] == pytest.approx(2 * 1.966 * 0.5 / 20, rel=0.15)


def test_bad_input_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="one of each, 2 or more"):
        learning.power(LENGTHS, [1.0])
    with pytest.raises(ValueError, match="above the floor"):
        learning.power(LENGTHS, [4, 3, 2, 1], floor=1)
