"""Heads trained for so many updates: alike but for the start, each token once, the rate chosen on short runs."""

import numpy as np
import pytest

from lib.study import updates
from tests.test_heads import address, body  # noqa: F401

SETTINGS = dict(ranks=[2, 16], rates=[0.0001, 0.03], search=4, tokens=1024, validation=512, batch=64, context=16)


def test_more_updates_help_a_random_draw_and_the_best_rate_is_taken(address):  # noqa: F811
    short, long = (updates.trained(address, "wiki-en", "scaled", updates=n, **SETTINGS) for n in (1, 14))
    assert (long.loss < short.loss).all()
    for row in long.itertuples():
        assert row.rate == SETTINGS["rates"][int(np.argmin(row.tried))]
        assert len(row.windows) == 512 // 16 and np.mean(row.windows) == pytest.approx(row.loss, rel=1e-5)
        assert row.steps[0] == 0 and row.steps[-1] == 14 and min(row.curve) == row.curve[row.steps.index(row.step)]


def test_from_the_real_head_the_full_rank_starts_at_the_real_head(address):  # noqa: F811
    found = updates.trained(address, "wiki-en", "trained", updates=2, **SETTINGS).set_index("rank")
    random = updates.trained(address, "wiki-en", "scaled", updates=2, **SETTINGS).set_index("rank")
    assert found.curve[16][0] < found.curve[2][0]
    assert found.curve[16][0] < random.curve[16][0]


def test_the_seed_draws_the_start_and_not_the_rate(address):  # noqa: F811
    one, two = (updates.trained(address, "wiki-en", "scaled", updates=3, seed=seed, **SETTINGS) for seed in (0, 1))
    assert list(one.rate) == list(two.rate) and list(one.tried) == list(two.tried)
    assert (one.loss != two.loss).all()


def test_too_few_tokens_and_an_unknown_arm_are_refused(address):  # noqa: F811
    with pytest.raises(ValueError, match="raise tokens, or lower updates or batch"):
        updates.trained(address, "wiki-en", "scaled", updates=16, **SETTINGS)
    with pytest.raises(ValueError, match="pass one of scaled, trained"):
        updates.trained(address, "wiki-en", "refit", updates=1, **SETTINGS)
