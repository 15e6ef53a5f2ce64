"""The detector of saturation tells a lasting rise from everything that looks like one."""

import numpy as np
import pandas as pd
import pytest

from lib.measure.saturation import saturation
from lib.study import saturation as tasks
from lib.study.saturation import error_rates


def falling(n):
    """A loss of 5 that falls as a power law towards 2.5 over n even steps."""
    steps = np.arange(1, n + 1) * 10.0
    return steps, 2.5 + 2.5 * np.arange(1, n + 1) ** -0.5


def turning(n, rise, turn=0.5):
    """The same up to a turn, then a straight climb to `rise` above the best."""
    steps, losses = falling(n)
    best = int(turn * n)
    losses[best:] = losses[best] * (1 + rise * np.linspace(0, 1, n - best))
    return steps, losses


def noisy(losses, size, seed, correlation=0.0):
    """Relative first-order autoregressive noise of one size."""
    draws = np.random.default_rng(seed).normal(size=len(losses))
    for i in range(1, len(draws)):
        draws[i] = correlation * draws[i - 1] + np.sqrt(1 - correlation**2) * draws[i]
    return losses * np.exp(size * draws)


@pytest.mark.parametrize("n", [20, 40])
def test_without_noise_effect_is_the_rise_read_off(n):
    result = saturation(*turning(n, 0.03))
    assert result.saturated and result.kind == "saturation"
    assert result.best_step == (n // 2 + 1) * 10 and result.final_step == n * 10
    assert result.rise == pytest.approx(result.final_loss / result.best_loss - 1)
    assert result.rise == pytest.approx(0.03) and result.effect == pytest.approx(0.03, abs=0.004)
    assert result.interval[0] <= 0.03 <= result.interval[1]


@pytest.mark.parametrize("n", [40, 143, 1000])
@pytest.mark.parametrize("correlation", [0.0, 0.3])
def test_finds_a_rise_of_two_percent_under_noise(n, correlation):
    steps, losses = turning(n, 0.02)
    results = [saturation(steps, noisy(losses, 0.004, seed, correlation)) for seed in range(10)]
    assert sum(result.saturated for result in results) >= 9
    assert np.mean([result.effect for result in results]) == pytest.approx(0.02, abs=0.004)
    assert sum(result.interval[0] <= 0.02 <= result.interval[1] for result in results) >= 9


@pytest.mark.parametrize("n", [20, 143, 1000])
@pytest.mark.parametrize("shape", ["falling", "flat"])
@pytest.mark.parametrize("size", [0.001, 0.008])
def test_noise_is_no_saturation(n, shape, size):
    steps, losses = falling(n)
    losses = losses if shape == "falling" else np.full(n, 3.0)
    results = [saturation(steps, noisy(losses, size, seed)) for seed in range(12)]
    assert not any(result.saturated for result in results)
    assert 0.7 * size < np.median([result.noise for result in results]) < 2 * size  # a steep trend counts as noise


def test_a_constant_loss_does_not_fall():
    assert saturation(falling(300)[0], np.full(300, 3.3)).kind == "noise"


def test_autocorrelated_noise_is_averaged_out_on_long_curves():
    steps, losses = falling(600)
    assert not any(saturation(steps, noisy(losses, 0.004, seed, 0.6)).saturated for seed in range(12))


def test_names_what_else_it_saw():
    steps, losses = falling(100)
    assert saturation(steps, noisy(losses, 0.001, 0)).kind == "still falling"
    bump = losses * (1 + 0.15 * np.exp(-0.5 * ((np.arange(100) - 10) / 3) ** 2))
    assert saturation(steps, noisy(bump, 0.001, 0)).kind == "warm-up bump"
    spike = losses * (1 + 0.05 * (np.abs(np.arange(100) - 70) < 4))
    assert saturation(steps, noisy(spike, 0.001, 0)).kind == "spike"
    last = losses.copy()
    last[-1] *= 1.05
    assert saturation(steps, noisy(last, 0.001, 0)).kind == "spike"
    assert saturation(*turning(100, 0.3)).kind == "divergence"
    assert saturation(steps, noisy(np.full(100, 3.0), 0.004, 1)).kind == "noise"


def test_a_rise_past_25_percent_is_a_failure_not_saturation():
    assert saturation(*turning(60, 0.24)).saturated
    assert not saturation(*turning(60, 0.26)).saturated


def test_the_smallest_rise_that_counts_is_a_parameter():
    curve = turning(60, 0.004)
    assert not saturation(*curve).saturated
    assert saturation(*curve, min_rise=0.002).saturated


def test_a_lucky_low_point_is_not_the_best_level():
    steps, losses = np.arange(1.0, 41), noisy(np.full(40, 3.0), 0.002, 3)
    losses[20] *= 0.97
    result = saturation(steps, losses)
    assert result.best_step == 21 and result.rise > 0.02 and not result.saturated


def test_irregular_steps_and_tokens_for_steps_change_nothing():
    steps, losses = turning(60, 0.02)
    pythia = np.concatenate([[0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512], 1000 * np.arange(1, 50)])
    assert saturation(pythia, noisy(losses, 0.002, 0)).saturated
    by_steps, by_tokens = (saturation(scale * steps, noisy(losses, 0.002, 0)) for scale in (1, 4096))
    assert by_steps.interval == pytest.approx(by_tokens.interval) and by_steps.kind == by_tokens.kind


def test_known_noise_serves_where_points_are_few():
    steps, losses = [1, 2, 3, 4, 5, 6], [4.0, 3.2, 3.0, 3.05, 3.1, 3.1]
    assert "too few" in saturation(steps, losses).reason
    assert saturation(steps, losses, noise=0.002).saturated
    assert not saturation(steps, losses, noise=0.02).saturated


@pytest.mark.parametrize(
    "steps, losses, message",
    [
        ([1, 2], [3, 2], "at least 3"),
        ([1, 2, 3], [3, 2], "at least 3"),
        ([1, 3, 2], [3, 2, 2], "increase"),
        ([1, 2, 3], [3, np.nan, 2], "finite"),
        ([1, 2, 3], [3, 0, 2], "positive"),
    ],
)
def test_bad_curves_are_refused_in_one_sentence(steps, losses, message):
    with pytest.raises(ValueError, match=message):
        saturation(steps, losses)


def test_errors_are_rarer_for_a_larger_rise_and_oftener_for_a_drift():
    small, large, drifting = (
        error_rates(28, 0.004, correlation, rise, curves=150)
        for correlation, rise in ((0.0, 0.006), (0.0, 0.04), (0.7, 0.04))
    )
    assert small["missed"] > 0.5 and large["missed"] == 0
    assert small["false_alarms"] == large["false_alarms"] <= 0.02 < drifting["false_alarms"]


def test_a_rise_far_above_the_error_of_reading_survives_it_and_one_below_does_not():
    steps = np.arange(28)
    turn = 3 + np.maximum(0, steps - 14) / 14
    curves = pd.concat(
        pd.DataFrame({"model": name, "step": steps, "loss": 3 - 0.02 * steps.clip(max=14) / 14 + size * (turn - 3)})
        for name, size in (("clear", 0.2), ("none", 0.0))
    )
    again = tasks.reread(curves, 0.003, 40)
    assert again["clear"] == 1 and again["none"] < 0.2


def test_undoing_the_choice_of_the_best_takes_off_what_chance_gives():
    rows = [("SciQ", "accuracy", 80.0, 70.0, np.nan), ("SciQ", "accuracy", 80.0, 78.0, 79.0)]
    table = pd.DataFrame(rows, columns=["task", "metric", "best", "final", "final, EleutherAI"])
    found = tasks.falls(table, {}, tried=28)
    error = np.sqrt(80 * 20 / 1000)
    assert list(found.worse) == [10, 1]  # the public result counts where there is one
    largest = np.random.default_rng(0).standard_normal((20_000, 28)).max(1).mean()
    np.testing.assert_allclose(found.worse - found.corrected, largest * error, rtol=0.02)
    assert found.corrected_low[0] > 0 > found.corrected_low[1]
