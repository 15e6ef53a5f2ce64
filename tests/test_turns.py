"""Chapter 8's runs: which run is which arm, what explains a rise, and what rounding logits costs."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from lib.measure import offsets
from lib.study import departures, heads, rounding, turns


def test_every_arm_has_its_seeds_and_keeps_its_name():
    points = turns.grid()
    assert len(points) == len(turns.ARMS) * len(turns.SEEDS) >= 4 * len(turns.ARMS)
    frame = pd.concat([pd.DataFrame({"step": [0, 9], "kappa": point.get("kappa", 1.0)}) for point in points])
    told = turns.named(frame)
    assert list(dict.fromkeys(told.arm)) == list(turns.ARMS)
    for arm, part in told.groupby("arm"):
        assert set(part.kappa) == {turns.ARMS[arm].get("kappa", 1.0)} and sorted(set(part.seed)) == [0, 1, 2, 3]


def doses(law):
    """Runs of `turns.doses` whose rise follows a law of delta, summed rate and width."""
    noise, frames = np.random.default_rng(0), []
    for point in turns.doses():
        delta = (2.0**-12 / point["kappa"]) ** 0.5 * 0.05
        rise = law(delta, point["learning_rate"], point["width"]) * noise.uniform(0.9, 1.1)
        frames.append(pd.DataFrame({"step": [0, 5, 9], "loss": [8.0, 5.0, 5.0 + rise], "delta": [0, delta, delta]}))
    return turns.dosed(pd.concat(frames).assign(offset=1.0))


def test_what_explains_a_rise_is_found():
    by_dose = turns.explained(doses(lambda delta, rate, width: delta * rate), 100).set_index(["cause", "given"])
    assert by_dose.low["dose", "width"] > 0.9 and by_dose.low["width", "dose"] < 0 < by_dose.high["width", "dose"]
    by_width = turns.explained(doses(lambda delta, rate, width: 1 / width), 100).set_index(["cause", "given"])
    assert by_width.high["width", "dose"] < -0.8
    assert by_width.low["dose", "width"] < 0.1 and by_width.high["dose", "width"] > -0.1


def test_a_dose_is_delta_times_the_sum_of_learning_rates():
    found = doses(lambda delta, rate, width: delta)
    assert np.allclose(found.dose, found.delta * found.sum_lr)
    by_rate = found.groupby("learning_rate").sum_lr.first()
    assert np.allclose(by_rate / by_rate.index, by_rate.iloc[0] / by_rate.index[0])


@pytest.fixture
def material(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    states, weight = torch.randn(512, 8, generator=generator), torch.randn(300, 8, generator=generator)
    labels = torch.multinomial((states @ weight.T).softmax(1), 1, generator=generator)[:, 0]
    kept = SimpleNamespace(validation=(states, labels), head=SimpleNamespace(out=weight), context=64)
    monkeypatch.setattr(heads, "prepared", lambda *_: kept)
    return kept


def test_rounding_at_an_offset_costs_what_the_spacing_says(material):
    found = rounding.costs("any", "any", 512, [8, 9, 10, 11])
    fp16 = found[found.format == "fp16"].set_index("octave")
    assert (fp16.spacing == [0.25, 0.5, 1.0, 2.0]).all() and np.allclose(fp16.expected[9] / fp16.expected[8], 4)
    assert rounding.agreement(found, finest=2.0) < 1.5
    assert np.allclose(found.cost[found.format == "bf16"].iloc[0], fp16.cost[11], rtol=0.2)


def test_health_says_where_logits_lie_and_what_is_lost(material):
    material.head.out = material.head.out + 0.0
    states = torch.cat([material.validation[0], torch.ones(512, 1)], 1)
    material.validation = states, material.validation[1]
    material.head.out = torch.cat([material.head.out, torch.full((300, 1), 700.0)], 1)
    found = rounding.health("any", "any", 512)
    assert found["offset"] == pytest.approx(700, abs=1) and found["spacing_fp16"] == 0.5 and found["spacing_bf16"] == 4
    assert found["cost_bf16"] > 10 * found["cost_fp16"] > 0
    assert found["delta_16"] > found["delta_1"]
    assert offsets.spacing(0.0, 10) == 0


def test_a_departure_is_for_good_and_clocks_tell_apart_what_is_shared():
    steps = np.arange(24500, 143001, 500)
    rows = []
    for model in ("pythia-14m", "pythia-31m", "pythia-70m", "pythia-160m"):
        moved = departures.schedule(model)[steps]
        for seed in range(6):
            gone = moved > 30 + seed
            spike = (steps == 30000) * 0.5
            rows.append(pd.DataFrame({"model": model, "seed": seed, "step": steps, "excess": 0.04 * gone + spike}))
    excess = pd.concat(rows)
    table = departures.by_level(excess, [0.02, 0.05], 200)
    assert departures.shared(table, 0.02) == "summed learning rate"
    by_clock = table[table.level == 0.02].set_index("clock")
    assert by_clock.ratio["sum_lr"] == pytest.approx(1, abs=0.05) and by_clock.low["step"] > 1.2
    assert by_clock["first"]["step"] == pytest.approx(30, abs=1)
    never = departures.departures(excess, 0.05)
    assert np.isinf(never.step).all()


def test_the_schedule_sums_to_what_the_recipe_says():
    for model, total in (("pythia-70m", 78.6), ("pythia-160m", 47.2), ("pythia-410m", 23.6)):
        assert departures.schedule(model)[-1] == pytest.approx(total, abs=0.06)


def test_what_fp16_takes_is_the_tail_that_it_flushes(material):
    found = rounding.lost("any", "any", 512, [0, -12, -16]).set_index("kappa")
    assert (found.delta.diff()[1:] > 0).all() and (found.flushed.diff()[1:] > 0).all()
    assert found.delta[2.0**-16] == pytest.approx(found["tail"][2.0**-16], rel=0.3)
    assert (found.low < found.delta).all() and (found.delta < found.high).all()
