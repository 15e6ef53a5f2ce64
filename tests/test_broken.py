"""Odd inputs that were tried on the audit's code and that it withstands."""

import numpy as np
import pandas as pd
import pytest

from lib.data.criteria import criterion
from lib.measure import checks, judge, learning, onset, stairs
from tests import test_criteria as built
from tests.test_kept import asked, plans  # noqa: F401


def test_what_no_frame_can_say_is_neither_passed_nor_failed():
    empty = built.runs([], saturated=[])
    assert set(checks.late_rise(empty, criterion("C1").limits).values()) == {None}
    assert judge.numbers(checks.fell(built.scores([]), criterion("C3").limits)) == "not re-measured"
    assert set(checks.costs(built.costs(), criterion("C7").limits).values()) == {None}
    assert checks.dimension(pd.DataFrame({"dimension": []}), criterion("C8").limits) is None


def test_ties_are_no_fall():
    assert checks.fell(built.scores([0, 0], half=0), criterion("C3").limits) == {"worse": False, "most": False}


def test_a_run_without_windows_says_nothing_and_a_wild_window_spoils_no_other_run():
    x, walk = stairs.grid(), stairs.Walk(0.1, 0.03)
    costs, folds = stairs.stairs(x, 0.7, 0.2), stairs.blocks(40, 5)
    drawn = stairs.drawn(costs[0], x, walk, 0.1, 0.005, (3, 40), np.random.default_rng(0))
    sound = stairs.held_out(drawn, costs, x, walk, 0.005, folds)
    wild = drawn.copy()
    wild[0, 5], wild[2] = 1e3, np.nan
    found = stairs.held_out(wild, costs, x, walk, 0.005, folds)
    assert np.isfinite(found).all() and found[0, 0] < sound[0, 0]
    assert found[0, 1] == pytest.approx(sound[0, 1]) and found[0, 2] == 0


def test_curves_that_cannot_turn_are_refused_or_do_not_turn():
    steps = np.arange(10.0)
    assert not onset.rise(steps, np.ones(10)).found
    with pytest.raises(ValueError, match="NaN or infinite"):
        onset.rise(steps, np.r_[np.ones(9), np.nan])
    for values in (np.zeros(10), np.r_[np.ones(9), np.nan]):
        with pytest.raises(ValueError, match="no floor to leave"):
            onset.leaves(steps, values, 0.005)
    with pytest.raises(ValueError, match="expected all above the floor"):
        learning.power([1, 2], [np.nan, 1])


def test_a_point_asked_for_twice_comes_twice_and_a_pointer_is_no_record(plans):  # noqa: F811
    point = {"n": 1, "many": [1, 2]}
    assert list(asked(plans, [point, point]).value) == [1, 2, 1, 2]
    with pytest.raises(ValueError, match="can't be called so"):
        asked(plans, [{"m": 1, "many": [1]}])
    (plans / "other").mkdir()
    (plans / "other" / "x.record").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="x.record is damaged"):
        asked(plans, [point])
