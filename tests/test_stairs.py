"""Stairs that are there are found at their own levels, and none where there are none; the likelihood is exact."""

import itertools

import numpy as np
import pandas as pd
import pytest

from lib.measure import stairs
from lib.study import causes_public as task

FLOOR = 0.004


def test_levels_are_those_of_fp16():
    """A spacing of one, from 1,024 on, costs c / 24; numpy's own float16 agrees on the spacing."""
    assert stairs.level(10, 0.7) == pytest.approx(0.7 / 24)
    assert stairs.level([9, 10, 11], 0.7) == pytest.approx(np.array([1, 4, 16]) * 0.7 / 96)
    for octave in (5, 9, 12):
        assert np.spacing(np.float16(2**octave)) == 2.0 ** (octave - stairs.DIGITS)


def test_sharp_stairs_are_flat_and_wide_ones_smooth():
    x = stairs.grid()
    sharp = stairs.stairs(x, 0.7, 0.01)[0]
    inside = np.abs(x - np.floor(x) - 0.5) < 0.3
    np.testing.assert_allclose(sharp[inside], stairs.level(np.floor(x[inside]), 0.7), rtol=1e-3)
    wide = np.log(stairs.stairs(x, 0.7, 1.0)[0])
    assert np.ptp(np.diff(wide)) < 0.04 * np.diff(wide).mean()  # nearly a straight line: no level is left
    np.testing.assert_allclose(stairs.stairs(x, 0.7, 0.2, (1, 2))[1], 2 * stairs.stairs(x, 0.7, 0.2)[0])


def test_the_walk_is_summed_over_exactly():
    """Against the sum over all paths, on a grid of four places and three windows."""
    x, walk, floor = np.array([8.0, 9.0, 10.0, 11.0]), stairs.Walk(1.0, 0.1, jumps=0.2), 0.01
    costs, excess = stairs.smooth(x, 0.7), np.array([[0.004, 0.02, 0.03]])
    moves = stairs.transition(x, walk)
    np.testing.assert_allclose(moves.sum(1), 1)

    def total(seen):
        chance = 0.0
        for path in itertools.product(range(4), repeat=3):
            start = np.full(4, 0.25) @ moves[:, path[0]]
            steps = moves[path[0], path[1]] * moves[path[1], path[2]]
            scale = np.hypot(floor, 0.1 * costs[0][list(path)])
            square = ((excess[0] - costs[0][list(path)]) / scale) ** 2
            chance += start * steps * np.prod(np.where(seen, (1 + square / 4) ** -2.5 / scale, 1))
        return np.log(chance)

    folds = np.array([[True, False, True], [False, True, False]])
    wanted = sum(total(np.ones(3, bool)) - total(~fold) for fold in folds)
    assert stairs.held_out(excess, costs, x, walk, floor, folds)[0, 0] == pytest.approx(wanted, rel=1e-5)


def test_an_unknown_window_says_nothing():
    x, walk = stairs.grid(), stairs.Walk(0.1, 0.05)
    known = stairs.drawn(stairs.smooth(x, 0.7)[0], x, walk, 0.05, FLOOR, (3, 20), np.random.default_rng(0))
    folds = stairs.blocks(20, 4)
    padded = np.column_stack([known, np.full((3, 4), np.nan)])
    longer = np.column_stack([folds, np.array([[True] * 4, [False] * 4])])
    costs = stairs.smooth(x, 0.7)
    np.testing.assert_allclose(
        stairs.held_out(padded, costs, x, walk, FLOOR, longer), stairs.held_out(known, costs, x, walk, FLOOR, folds)
    )
    with pytest.raises(ValueError, match="do not fit"):
        stairs.held_out(known[0], costs, x, walk, FLOOR, folds)


@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_planted_levels_are_found_at_their_shift(shift):
    x, walk, shifts = stairs.grid(), stairs.Walk(0.1, 0.03), (1.0, 2**0.5, 2.0, 2**1.5)
    planted = stairs.stairs(x, 0.7, 0.15, (shift,))[0]
    excess = stairs.drawn(planted, x, walk, 0.05, FLOOR, (12, 80), np.random.default_rng(1))
    scores = stairs.held_out(excess, stairs.stairs(x, 0.7, 0.15, shifts), x, walk, FLOOR, stairs.blocks(80, 5)).sum(1)
    smooth = stairs.held_out(excess, stairs.smooth(x, 0.7), x, walk, FLOOR, stairs.blocks(80, 5)).sum()
    assert shifts[scores.argmax()] == shift and scores.max() > smooth + 10


def test_without_levels_none_are_found():
    x, walk = stairs.grid(), stairs.Walk(0.1, 0.03, jumps=0.03)
    excess = stairs.drawn(stairs.smooth(x, 0.7)[0], x, walk, 0.05, FLOOR, (12, 80), np.random.default_rng(2))
    folds = stairs.blocks(80, 5)
    sharp = stairs.held_out(excess, stairs.stairs(x, 0.7, 0.15), x, stairs.Walk(0.1, 0.03), FLOOR, folds).sum()
    assert stairs.held_out(excess, stairs.smooth(x, 0.7), x, walk, FLOOR, folds).sum() > sharp + 10


def test_a_run_does_not_choose_its_own_parameters():
    scores = np.array([[9.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    assert stairs.chosen_elsewhere(scores).tolist() == [0.0, 0.0, 0.0]


def scored(levels, rivals):
    """A frame of likelihoods: scores of runs at each shift, and of the rivals."""
    index = [(kind, shift) for kind, part in (("stairs", task.SHIFTS), ("drift", [np.nan]), ("jumps", [np.nan]))
             for shift in part]  # fmt: skip
    table = np.column_stack([levels, rivals])
    rows = [("m", run, kind, shift, table[run, at]) for at, (kind, shift) in enumerate(index) for run in range(8)]
    return pd.DataFrame(rows, columns=["model", "seed", "kind", "shift", "score"])


def test_the_criterion_can_say_each_of_its_answers():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (8, 10))
    right, wrong = (np.where(np.arange(8) == at, 5.0, 0.0) for at in (0, 4))
    answers = {
        "supported": (right, 0.0),
        "stairs, not at these levels": (wrong + 3, 0.0),
        "not supported": (right, 9.0),
    }
    for answer, (levels, rival) in answers.items():
        found = task.comparisons(scored(levels + noise[:, :8], rival + noise[:, 8:]), 200)
        assert task.answer(found) == answer


def test_the_public_excess_is_flat_before_and_high_after():
    excess = task.excess()
    assert task.noise(excess) < 0.01
    late = excess[excess.step > 130_000].groupby("model").excess.mean()
    assert (late.drop(task.WIDE) > 0.03).all() and abs(late[task.WIDE]) < 0.003
    assert excess.step.min() > task.FITTED[1]
    assert len(excess[excess.model != task.WIDE].groupby(["model", "seed"])) == 31
    assert task.shown(excess).excess.min() > 0 and len(task.shown(excess)) < 2000
