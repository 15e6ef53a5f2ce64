"""When curves turn upwards: known turns, no false ones, an interval that covers."""

import numpy as np
import pytest

from lib.measure.onset import departure, lag, rise

STEPS = np.arange(1.0, 61.0)


def sigmoid(middle, width=1.5):
    return 1 / (1 + np.exp(-(STEPS - middle) / width))


def test_halfway_of_a_known_rise():
    found = rise(STEPS, 3 - STEPS / 100 + sigmoid(30))
    assert found.found and found.halfway == pytest.approx(30, abs=0.5) and found.low <= found.halfway <= found.high


def test_unit_and_offset_do_not_move_the_turn():
    curve = np.exp(-STEPS / 10) + sigmoid(40)
    assert rise(STEPS, 7 * curve - 2).halfway == pytest.approx(rise(STEPS, curve).halfway)


def test_falling_noise_and_single_spikes_are_no_rise():
    rng = np.random.default_rng(0)
    falling = np.exp(-STEPS / 10)
    assert not rise(STEPS, falling).found
    false = sum(rise(STEPS, falling + 0.01 * rng.standard_normal(60), least=0.05).found for _ in range(50))
    assert false == 0
    spike = falling.copy()
    spike[40] += 5
    assert not rise(STEPS, spike, least=0.05).found


def test_interval_covers_the_true_turn():
    rng = np.random.default_rng(1)
    curves = [rise(STEPS, sigmoid(30, 3) + 0.05 * rng.standard_normal(60), draws=100) for _ in range(100)]
    assert sum(found.low <= 30 <= found.high for found in curves) >= 88


def test_lag_tells_who_comes_first():
    early, late = rise(STEPS, sigmoid(20)), rise(STEPS, sigmoid(35))
    middle, low, high = lag(early, late)
    assert middle == pytest.approx(15, abs=0.5) and 0 < low < middle < high
    assert lag(late, early)[0] == pytest.approx(-middle)
    assert np.isnan(lag(early, rise(STEPS, -STEPS))[0])


@pytest.mark.parametrize("values", [np.ones(3), np.full(60, np.nan)])
def test_bad_curves_are_refused(values):
    with pytest.raises(ValueError, match=r"\.$"):
        rise(STEPS[: len(values)], values)


def test_a_departure_is_the_step_that_leaves_with_an_interval_back_to_the_checkpoint_before():
    steps = np.arange(0, 100, 5)
    values = np.where(steps <= 50, 2 - steps / 100, 1.5 + (steps - 50) / 50)
    found = departure(steps, values, 0.05)
    assert found.found and found.halfway == 60 and found.low == 55 and found.high == 60
    assert found.floor_step in (45, 50)
    falling = departure(steps, 2 - steps / 100, 0.01)
    assert not falling.found and np.isnan(falling.halfway)
