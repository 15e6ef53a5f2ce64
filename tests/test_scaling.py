"""The law of Section 3: recovered from its own values, and fitted as the paper and as Hoffmann et al. do."""

import numpy as np
import pytest
from scipy import optimize

from lib.measure import scaling

TRUTH = scaling.Law(406.4, 0.34, 410.7, 0.28, 1.69)


def runs(noise=0.0, seed=0):
    """Seven widths by seven lengths of training, with relative noise."""
    params, tokens = np.repeat(np.geomspace(1e7, 1e10, 7), 7), np.tile(np.geomspace(1e9, 3e11, 7), 7)
    return params, tokens, TRUTH.predict(params, tokens) * np.exp(noise * np.random.default_rng(seed).normal(size=49))


def test_fit_recovers_its_own_law():
    law = scaling.fit(*runs())
    assert law.A == pytest.approx(TRUTH.A, rel=1e-6) and law.alpha == pytest.approx(TRUTH.alpha, rel=1e-6)
    assert law.gap(*runs()) == pytest.approx(np.zeros(49), abs=1e-9)


def test_fit_is_a_least_squares_minimum():
    params, tokens, loss = runs(noise=0.01)
    law = scaling.fit(params, tokens, loss, B=300.0, beta=0.3, E=1.8)

    def error(constants):
        return np.sum((scaling.Law(*constants, 300.0, 0.3, 1.8).predict(params, tokens) - loss) ** 2)

    other = optimize.minimize(
        error, [300.0, 0.3], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-16, "maxiter": 10_000}
    )
    assert error([law.A, law.alpha]) <= other.fun * (1 + 1e-9)
    assert law.alpha == pytest.approx(other.x[1], rel=1e-4)


def test_full_fit_recovers_all_constants():
    law = scaling.fit_full(*runs())
    for name in ("A", "alpha", "B", "beta", "E"):
        assert getattr(law, name) == pytest.approx(getattr(TRUTH, name), rel=0.01)


def test_full_fit_beats_the_truth_and_ignores_an_outlier():
    params, tokens, loss = runs(noise=0.004)

    def misfit(law, values):
        return np.sum(np.minimum(np.abs(np.log(law.predict(params, tokens) / values)), 0.1))

    assert misfit(scaling.fit_full(params, tokens, loss), loss) <= misfit(TRUTH, loss)
    spoilt = loss.copy()
    spoilt[10] *= 1.5
    assert scaling.fit_full(params, tokens, spoilt).predict(params, tokens) == pytest.approx(
        scaling.fit_full(params, tokens, loss).predict(params, tokens), rel=0.01
    )


def test_gradient_agrees_with_finite_differences():
    rng = np.random.default_rng(0)
    sizes, lengths, logs = rng.normal(size=(3, 20))
    theta = np.array([0.3, -0.2, 0.1, 0.4, 0.3])
    slope = scaling._huber(theta, sizes, lengths, logs, 0.5)[1]
    steps = 1e-6 * np.eye(5)
    differences = [
        (
            scaling._huber(theta + step, sizes, lengths, logs, 0.5)[0]
            - scaling._huber(theta - step, sizes, lengths, logs, 0.5)[0]
        )
        / 2e-6
        for step in steps
    ]
    assert slope == pytest.approx(differences, rel=1e-5)


@pytest.mark.parametrize("full", [False, True])
def test_bootstrap_brackets_the_truth_and_narrows_with_less_noise(full):
    widths = []
    for noise in (0.002, 0.008):
        params, tokens, loss = runs(noise, seed=3)
        laws = scaling.bootstrap(params, tokens, loss, full=full, draws=100, seed=1)
        low, high = scaling.interval(laws.predict(params, tokens), level=0.999)
        assert laws.alpha.shape == (100, 1) and low.shape == (49,)
        assert np.mean((low <= TRUTH.predict(params, tokens)) & (TRUTH.predict(params, tokens) <= high)) > 0.8
        widths.append(np.mean(high - low))
    assert widths[0] < widths[1] / 2


def test_one_resampling_is_the_fit_of_the_resampled_runs():
    params, tokens, loss = runs(noise=0.004)
    laws = scaling.bootstrap(params, tokens, loss, full=True, draws=3, seed=5)
    weights = np.random.default_rng(5).multinomial(49, np.full(49, 1 / 49), size=3)
    for index, count in enumerate(weights):
        rows = np.repeat(np.arange(49), count)
        alone = scaling.fit_full(params[rows], tokens[rows], loss[rows])
        assert laws.predict(params, tokens)[index] == pytest.approx(alone.predict(params, tokens), rel=2e-4)


def test_same_seed_same_draws():
    first, again = (scaling.bootstrap(*runs(0.01), draws=5, seed=2) for _ in range(2))
    assert (first.alpha == again.alpha).all()


@pytest.mark.parametrize("fitted, count", [(scaling.fit, 1), (scaling.fit_full, 4)])
def test_fewer_runs_than_constants_are_refused(fitted, count):
    params, tokens, loss = (values[::8][:count] for values in runs())
    with pytest.raises(ValueError, match=f"{count} runs cannot fix"):
        fitted(params, tokens, loss)


def test_runs_that_cannot_tell_the_constants_apart_are_refused():
    params, tokens, loss = runs()
    with pytest.raises(ValueError, match="one size"):
        scaling.fit(params[:7], tokens[:7], loss[:7])
    with pytest.raises(ValueError, match="three different"):
        scaling.fit_full(params[:7], tokens[:7], loss[:7])
    with pytest.raises(ValueError, match="positive"):
        scaling.fit(params, tokens, -loss)
