"""Causes that go together are told apart where the data can, and not where they can't; luck is told from rises."""

import numpy as np
import pandas as pd
import pytest

from lib.data import public
from lib.measure import separation
from lib.study import width_or_rate as task


@pytest.fixture(scope="module")
def perplexities():
    return task.perplexity_rises(200)


def test_inflation_is_that_of_two_correlated_causes():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 50_000))
    causes = np.column_stack([first, 0.8 * first + 0.6 * second])
    np.testing.assert_allclose(separation.inflation(causes), 1 / (1 - 0.8**2), rtol=0.03)
    assert np.isinf(separation.inflation(np.column_stack([first, 2 * first]))).all()


def test_a_partial_correlation_names_the_cause():
    rng = np.random.default_rng(0)
    cause = rng.standard_normal(4000)
    bystander = cause + rng.standard_normal(4000)
    outcome = cause + rng.standard_normal(4000)
    assert separation.rank_correlation(outcome, bystander) > 0.4
    assert abs(separation.partial(outcome, bystander, cause[:, None])) < 0.06
    assert separation.partial(outcome, cause, bystander[:, None]) > 0.4
    assert np.isnan(separation.partial(outcome, cause, 3 * cause[:, None]))  # nothing is left


def test_the_interval_is_over_models_not_over_runs():
    """Two models with many runs each say little of a cause, and runs alone would say it with certainty."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"model": np.repeat(["a", "b"], 40), "cause": np.repeat([0, 1], 40)})
    frame["rise"] = frame.cause + 0.1 * rng.standard_normal(80)

    def statistic(part):
        return separation.rank_correlation(part.rise, part.cause)

    *_, defined = separation.over_models(frame, statistic, 200, rng)
    assert 0.3 < defined < 0.7  # half of the draws hold one model twice
    assert separation.over_models(frame, statistic, 200, rng, models=False)[3] == 1


def test_the_best_of_many_is_lucky():
    rng = np.random.default_rng(0)
    flat = 0.1 * rng.standard_normal(15)
    chance = separation.chance_rises(np.zeros(15), 0.1, 4000, rng)
    drawn = separation.last_over_best(0.1 * rng.standard_normal((4000, 15)))
    assert chance.mean() == pytest.approx(drawn.mean(), rel=0.05) and chance.mean() > 0.1
    assert separation.chance_rises(flat, 0.1, 4000, rng).mean() > 0.1
    risen = np.concatenate([np.linspace(1, 0, 8), np.linspace(0.1, 0.7, 7)])
    assert (separation.chance_rises(risen, 0.02, 500, rng) < 0.7).all()
    around = separation.redrawn_rises(risen, 0.02, 4000, rng)
    assert around.mean() == pytest.approx(0.7, abs=0.005)


def test_noise_and_turn_are_those_of_the_curve():
    rng = np.random.default_rng(0)
    straight = np.linspace(3, 1, 2000)
    assert separation.scatter(straight) == pytest.approx(0, abs=1e-9)
    assert separation.scatter(straight + 0.1 * rng.standard_normal(2000)) == pytest.approx(0.1, rel=0.05)
    turn = np.array([3.0, 2.0, 1.0, 1.5, 2.5])
    np.testing.assert_allclose(separation.turning(turn), turn)


def test_both_releases_are_read_at_the_same_tokens(perplexities):
    assert len(perplexities) == 32 and (perplexities.groupby("release").size() == 16).all()
    common = task._common()
    assert (common.groupby(["model", "release"]).size() == 15).all()
    assert perplexities.width.notna().all() and perplexities.sum_lr.isna().sum() == 4


def test_the_suite_cannot_tell_width_from_learning_rate(perplexities):
    table = task.collinear(perplexities).set_index("data")
    assert table["rank correlation"]["the suite (v1)"] < -0.95
    assert table["variance inflation"]["perplexities, v1 and v0"] < table["variance inflation"]["perplexities, v1"]


def test_twins_are_those_of_the_paper_of_facts(perplexities):
    """Rises of 70M and of 160M against the first release, as they can be read off the curves themselves."""
    table = task.twins(perplexities, 200).set_index(["size", "deduplicated"])
    curve = public.perplexities().query("model == 'pythia-70m-v0'").perplexity
    assert table.v0["70m", False] == pytest.approx(np.log(curve.iloc[-1] / curve.min()))
    assert table.same_sum["70m", False] and not table.same_sum["160m", False]
    assert (table.difference["70m"] > 0.2).all() and abs(table.difference["1b"]).max() < 0.05
    assert task.yardstick(table.reset_index())["rise"] < 0.06


def test_training_rises_leave_out_what_blew_up():
    rises = task.training_rises()
    assert len(rises) == 42 and set(rises.seed[rises.model == "pythia-410m"]) == {1, 2, 5, 6, 7, 8, 9}
    assert rises.sum_lr.notna().all() and (rises.rise >= 0).all()


def test_luck_needs_seeds_that_stay_calm():
    table = task.by_luck(0.005).set_index("model").both_calm
    assert 0 < table["pythia-70m"] < table["pythia-160m"] < 0.25
