"""Smooth decay against a knee: each is recognised where it is true, and the crossing of a level is linear."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.data import paper
from lib.measure import knee

RANKS = np.array([16, 32, 64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096])


def noise(seed):
    return 0.005 * np.random.default_rng(seed).standard_normal(len(RANKS))


@settings(max_examples=15, deadline=None)
@given(st.floats(0.4, 1.5), st.floats(1, 3), st.integers(0, 100))
def test_a_power_law_is_a_smooth_decay(power, floor, seed):
    fits = knee.shapes(RANKS, floor + (RANKS / 16.0) ** -power + noise(seed))
    assert fits["shape"][0] == "smooth decay"
    assert fits["weight"].sum() == pytest.approx(1)
    assert fits["rms"][0] < 0.01


@settings(max_examples=15, deadline=None)
@given(st.floats(60, 1500), st.integers(0, 100))
def test_a_line_that_ends_in_a_plateau_has_its_knee_there(at, seed):
    fits = knee.shapes(RANKS, 2 + 0.4 * np.maximum(np.log(at / RANKS), 0) + noise(seed))
    assert fits["shape"][0] != "smooth decay"
    plateau = fits.set_index("shape").loc["plateau"]
    assert plateau["knee"] == pytest.approx(at, rel=0.1)
    assert plateau["weight"] > 0.05  # a second slope may fit the noise a little better, never by much


def test_two_slopes_have_their_knee_where_they_meet():
    x = np.log(RANKS)
    losses = 5 - 0.5 * x + 0.45 * np.maximum(x - np.log(300), 0) + noise(0)
    fits = knee.shapes(RANKS, losses)
    assert fits["shape"][0] == "knee"
    assert fits["knee"][0] == pytest.approx(300, rel=0.1)


def test_the_criterion_does_not_depend_on_the_unit_of_the_loss():
    losses = 2 + 30.0 / RANKS + noise(1)
    nats, bits = knee.shapes(RANKS, losses), knee.shapes(RANKS, losses / np.log(2))
    assert nats["weight"].to_numpy() == pytest.approx(bits["weight"].to_numpy(), abs=1e-3)


def test_few_points_cannot_pay_for_a_knee():
    fits = knee.shapes(RANKS[:6], noise(2)[:6] + 3)
    assert np.isinf(fits.loc[fits["shape"] == "knee", "aicc"]).all()
    for bad in ((RANKS[:5], RANKS[:5]), (RANKS[::-1], noise(0)), (RANKS, noise(0)[:-1]), (RANKS, noise(0) * np.nan)):
        with pytest.raises(ValueError, match="rank"):
            knee.shapes(*bad)


def test_crossing_is_linear_between_points_in_any_order():
    assert knee.crossing([0, 1, 2], [0, 0, 10], 5) == pytest.approx(1.5)
    assert knee.crossing([2, 0, 1], [10, 0, 0], 5) == pytest.approx(1.5)
    assert np.isnan(knee.crossing([0, 1], [0, 1], 5))


def test_figure_8_passes_five_per_cent_near_the_papers_threshold():
    """The paper's own points, which say 0.6, pass 5 % between its W-errors of 0.56 and 0.74."""
    points = paper.figure("8")
    excess = points["loss"] / points["loss"].min() - 1
    assert 0.56 < knee.crossing(points["w_error"], excess, 0.05) < 0.74


def test_a_price_has_a_rank_on_a_smooth_curve():
    losses = 2 + 30.0 / RANKS
    full = losses[-1]
    for price in (0.02, 0.1, 0.5):
        rank = knee.affordable(RANKS, losses, price)
        assert 30 / rank + 2 - full == pytest.approx(price, rel=0.1)
    assert np.isnan(knee.affordable(RANKS, losses, 10))
    assert knee.affordable(RANKS[::-1], losses[::-1], 0.1) == pytest.approx(knee.affordable(RANKS, losses, 0.1))


def test_readings_stay_within_the_error_and_have_a_seed():
    read = knee.reread([1.0, 2.0], 0.01, 500, seed=3)
    assert read.shape == (500, 2) and np.abs(read - [1, 2]).max() <= 0.01
    assert read.std(axis=0) == pytest.approx(0.01 / 3**0.5, rel=0.1)
    assert (read == knee.reread([1.0, 2.0], 0.01, 500, seed=3)).all()
