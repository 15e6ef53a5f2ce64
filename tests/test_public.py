"""Public training runs: what the detector sees in them, and intervals that are right where the truth is known."""

import numpy as np
import pandas as pd
import pytest

from lib.data import public
from lib.measure.onset import leaves
from lib.study import public as tasks

RISE = 0.005


@pytest.fixture(scope="module")
def found():
    return tasks.runs(RISE)


def test_narrow_runs_saturate_and_wide_ones_do_not(found):
    """29 of 35 narrow runs and none of nine wide ones, by a detector that was fixed before it saw them."""
    counts = found.groupby("model").agg(runs=("saturated", "size"), saturated=("saturated", "sum"))
    assert counts.runs.to_dict() == {
        "pythia-14m": 9, "pythia-31m": 9, "pythia-70m": 10, "pythia-160m": 7, "pythia-410m": 9,
    }  # fmt: skip
    assert counts.saturated.to_dict() == {
        "pythia-14m": 9, "pythia-31m": 6, "pythia-70m": 9, "pythia-160m": 5, "pythia-410m": 0,
    }  # fmt: skip
    assert (found.kind[found.model == "pythia-410m"] == "spike").sum() == 3


def test_perplexities_are_judged_by_their_logarithm():
    """Half as much perplexity again is 0.4 nats on a last word, and no failure of training."""
    table = tasks.perplexities(RISE).set_index("model")
    assert table.saturated[["pythia-70m", "pythia-70m-deduped", "pythia-160m"]].all()
    assert not table.saturated[["pythia-410m", "pythia-1.4b", "pythia-70m-v0"]].any()
    assert not (table.kind == "divergence").any()
    curve = public.perplexities().query("model == 'pythia-70m' and step >= 1000").perplexity
    assert table.change["pythia-70m"] == pytest.approx(np.log(curve.iloc[-1] / curve.min()))


def test_every_model_has_a_width_and_every_curve_is_ordered():
    assert set(public.losses().groupby("model").width.nunique()) == {1}
    assert public.perplexities().width.notna().all()
    for _, curve in public.losses().groupby(["model", "seed"]):
        assert curve.step.is_monotonic_increasing and len(curve) >= 70


def constructed(effects, error=0.0, kind="saturation"):
    """Runs of one model whose effects are known."""
    return pd.DataFrame(
        {
            "model": "x", "width": 64, "effect": effects, "error": error, "onset": 5000.0,
            "kind": kind, "saturated": kind == "saturation",
        }
    )  # fmt: skip


def test_the_interval_over_runs_covers_the_mean():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        frame = constructed(rng.normal(0.03, 0.01, 12), 0.002)
        frame["effect"] += rng.normal(0, 0.002, 12)
        row = tasks.by_width(frame, RISE, 400).iloc[0]
        covered += row.rise_low <= 0.03 <= row.rise_high
    assert covered >= 180  # 95 % of 200, less what 12 runs and the bootstrap cost


def test_seeds_needed_grow_with_the_spread_and_vanish_where_nothing_rises():
    few = tasks.by_width(constructed([0.02, 0.03, 0.04]), RISE, 100).iloc[0]
    many = tasks.by_width(constructed([0.01, 0.03, 0.05]), RISE, 100).iloc[0]
    assert few.seeds == max(2, np.ceil((2 * 0.01 / 0.025) ** 2)) and many.seeds > few.seeds
    assert np.isnan(tasks.by_width(constructed([0.0, 0.004], kind="noise"), RISE, 100).iloc[0].seeds)
    spiky = pd.concat([constructed([0.02, 0.03]), constructed([0.5], kind="spike")])
    assert tasks.by_width(spiky, RISE, 100).iloc[0].rise == pytest.approx(0.025)


def test_a_curve_leaves_its_floor_once_and_for_good():
    steps = np.arange(10.0)
    assert leaves(steps, [3, 2, 1, 1, 1, 1, 1.1, 1.2, 1.2, 1.2], 0.005) == 6
    assert leaves(steps, [3, 2, 1, 1.2, 1.2, 1.2, 1, 1, 1.1, 1.2], 0.005) == 8  # the bump before does not count
    assert np.isnan(leaves(steps, [3, 2, 1, 1.2, 1.2, 1.2, 1, 1, 1, 1], 0.005))
    with pytest.raises(ValueError, match="four or more"):
        leaves([1, 2, 3], [1, 2, 3], 0.005)
