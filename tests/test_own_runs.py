"""Loss curves of one's own: a rise is found with its size, none where none is, and what is open says what it needs."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from lib.data import curves, public
from lib.data.curves import Curve
from lib.measure.saturation import saturation
from lib.show import own_runs as show
from lib.show import report
from lib.study import own_runs
from lib.study.saturation import detect


def curve(points, rise, noise, seed=0, name="run"):
    """A loss of 3 that falls as a power law over the first half, then stays or climbs to `rise` above; white noise."""
    share = np.arange(1, points + 1) / points
    trend = 3 * np.minimum(share / 0.5, 1) ** -0.1 * (1 + rise * np.clip(2 * share - 1, 0, None))
    losses = trend * np.exp(noise * np.random.default_rng(seed).normal(size=points))
    return Curve(name, "step", 100.0 * np.arange(1, points + 1), losses, "loss", "step", points, ())


@pytest.mark.parametrize(("points", "noise"), [(60, 0.002), (400, 0.005), (20_000, 0.06)])
def test_a_rise_is_found_with_its_size_and_its_beginning(points, noise):
    (run,) = own_runs.judge([curve(points, 0.04, noise)])["runs"]
    assert run["saturated"] and run["kind"] == "saturation" and run["more"] is None
    assert run["rise"]["low"] <= 0.04 <= run["rise"]["high"] and run["rise"]["low"] > 0.005
    assert run["redrawn_saturated"] >= 0.9
    leaves = 100 * points * (0.5 + 0.5 * 0.005 / 0.04)  # the step at which the trend is half a per cent above its floor
    assert run["onset"]["low"] <= leaves + 100 * points / 40 and run["onset"]["high"] >= leaves - 100 * points / 40


@pytest.mark.parametrize(("points", "noise"), [(60, 0.002), (400, 0.005), (20_000, 0.06), (20_000, 0.15)])
def test_no_rise_is_none_however_noisy_a_batch_is(points, noise):
    """Of single batches the detector would call most spikes: their extremes lie more than a quarter apart."""
    runs = [own_runs.judge([curve(points, 0, noise, seed)], draws=10)["runs"][0] for seed in range(3)]
    assert not any(run["saturated"] for run in runs)
    assert all(run["kind"] in ("noise", "still falling") for run in runs)
    assert all(run["redrawn_saturated"] <= 0.1 and run["onset"] is None for run in runs)


def test_a_failure_is_no_saturation():
    points = curve(4000, 0, 0.03)
    points.losses[-600:] *= 3
    (run,) = own_runs.judge([points], draws=2)["runs"]
    assert run["kind"] == "divergence" and run["more"] is None
    assert "run diverges: the loss goes" in show.verdict(own_runs.judge([points], draws=2))[0]


def test_a_spike_before_the_best_has_its_height_and_a_failed_end_is_said():
    points = curve(100, 0, 0.001)
    points.losses[30] *= 1.5
    (run,) = own_runs.judge([points], draws=2)["runs"]
    assert run["kind"] == "spike" and "rises by 49" in run["reason"]
    said = show.verdict(own_runs.judge([replace(points, failed=10_100.0)], draws=2))
    assert said[0].startswith("run has no finite loss from step 10,100 on")


def test_the_scale_of_a_loss_does_not_matter():
    tiny = curve(60, 0.04, 0.002)
    onset, other = (
        own_runs.judge([one], draws=2)["runs"][0]["onset"] for one in (tiny, replace(tiny, losses=tiny.losses * 1e-300))
    )
    assert onset == other


def test_published_runs_get_the_verdict_of_chapter_three():
    found = detect(public.losses().query("seed == 5"), ["model", "width", "seed"]).set_index("model")
    for model, points in public.losses().query("seed == 5").groupby("model"):
        one = Curve(model, "step", points.step.to_numpy(float), points.loss.to_numpy(), "loss", "step", len(points), ())
        (run,) = own_runs.judge([one], draws=2)["runs"]
        assert run["kind"] == found.kind[model] and run["rise"]["value"] == found.effect[model]


def test_as_many_points_as_it_asks_for_settle_an_open_curve():
    opened = [own_runs.judge([curve(80, 0, 0.015, seed)], draws=2)["runs"][0]["more"] for seed in range(5)]
    factor = np.median([more["factor"] for more in opened if more])
    assert sum(more is not None for more in opened) >= 3 and factor > 1.5
    enough = round(80 * factor)

    def share(points, rise):
        seen = (own_runs._points(curve(points, rise, 0.015, seed)) for seed in range(10, 30))
        return np.mean([saturation(steps, losses).saturated for steps, losses, _ in seen])

    assert share(enough, 0.015) >= 0.7 > 0.4 >= share(80, 0.015)
    assert share(enough, 0) == 0


def test_too_few_points_say_how_many_are_missing():
    (run,) = own_runs.judge([curve(8, 0.1, 0.0)])["runs"]
    assert not run["saturated"] and run["redrawn_saturated"] is None and run["more"]["points"] >= 4
    assert any(
        "is undecided: fewer than 12 points" in said for said in show.verdict(own_runs.judge([curve(8, 0.1, 0.0)]))
    )


def test_several_files_are_seeds_of_one_setting():
    rising = [curve(100, 0.03 + 0.002 * seed, 0.003, seed, f"seed {seed}") for seed in range(4)]
    together = own_runs.judge(rising, draws=5)["seeds"]
    assert together["runs"] == together["saturated"] == 4 and together["share_high"] == 1 > together["share_low"] > 0.4
    assert together["rise_low"] < together["rise"] < together["rise_high"] and 0.02 < together["rise"] < 0.04
    assert together["onset_first"] <= together["onset"] <= together["onset_last"]
    mixed = own_runs.judge([rising[0], curve(100, 0, 0.003, 9, "flat")], draws=5)
    assert mixed["seeds"]["saturated"] == 1 and mixed["seeds"]["rise_low"] < 0.01
    said = show.verdict(mixed)
    assert said[0].startswith("1 of 2 runs saturate") and any("seed 0 saturates" in one for one in said)
    failed = [curve(100, 0, 0.003, seed, str(seed)) for seed in range(2)]
    for one in failed:
        one.losses[60:70] *= 2
    assert own_runs.judge(failed, draws=2)["seeds"]["calm"] == 0


def test_numbers_are_json_and_the_page_draws_them():
    runs = [curve(300, rise, 0.01, seed, f"seed {seed}") for seed, rise in enumerate((0.04, 0.0))]
    numbers, drawn = own_runs.judge(runs, draws=5), own_runs.drawn(runs)
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert (numbers["schema"], numbers["version"]) == ("loss-curves", 1)
    assert len(drawn) <= 1200 and set(drawn.series) == {"points", "means"} and set(drawn.run) == {"seed 0", "seed 1"}
    page = show.blocks(numbers, drawn)
    assert len(show.table(numbers)) == 2
    for block in (block for block in page if isinstance(block, report.Chart)):
        assert "<svg" in report.markup(block)
    assert numbers == own_runs.judge(runs, draws=5)


def test_a_hundred_thousand_rows_take_less_than_five_seconds(tmp_path):
    long, path = curve(100_000, 0.03, 0.05), tmp_path / "run.csv"
    cells = zip(long.steps, long.losses, strict=True)
    path.write_text("step,loss\n" + "\n".join(f"{step:.0f},{loss:.5f}" for step, loss in cells))
    start = time.process_time()
    found = curves.read_all([path])
    numbers = own_runs.judge(found)
    page = show.blocks(numbers, own_runs.drawn(found))
    markup = [report.markup(block) for block in page if isinstance(block, report.Chart)]
    assert time.process_time() - start < 5
    assert numbers["runs"][0]["saturated"] and sum(map(len, markup)) < 1e6
