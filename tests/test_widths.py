"""The grid meets its budgets; the rule's checks pass and fail on runs whose best width is known."""

import collections
import json

import numpy as np
import pandas as pd
import pytest

from lib.data import rules
from lib.run import kept, records
from lib.study import trials, width_public, width_rule, widths


def planted(curve, noise=0.002):
    """Runs of the whole grid with losses that a function of (setting, what is known of a run) gives."""
    rng, settings = np.random.default_rng(0), widths.settings()
    about = [
        {"setting": number} | setting.about(width, seed, factor)
        for number, setting in enumerate(settings)
        for width in setting.widths
        for seed, factors in zip(widths.SEEDS, (setting.rates, (1,), (1,)), strict=True)
        for factor in factors
    ]
    losses = [curve(settings[entry["setting"]], entry) + rng.normal(0, noise) for entry in about]
    return pd.DataFrame(about).assign(loss=losses)


def by_share(setting, entry):
    """Best where the head takes half of the operations, better untied."""
    return 5 + 0.5 * (entry["flops_share"] - 0.55) ** 2 + 0.1 * setting.tied


def by_width(setting, entry):
    """The wider the better, better tied, one rate as good as another."""
    return 5 - 0.1 * np.log2(entry["width"]) - 0.1 * setting.tied


def test_every_run_can_be_had_and_none_is_asked_for_twice():
    grid = widths.grid()
    assert len({repr(point) for point in grid}) == len(grid)
    for point in grid:
        trials.points(point)
    seeds = collections.Counter(point["seed"] for point in grid)
    assert set(seeds) == {0, 1, 2}


def test_runs_of_a_budget_spend_the_same():
    for setting in widths.settings():
        shapes = [setting.shape(width) for width in setting.widths]
        if setting.fixed == "compute":
            size = widths.common()["tokens_per_step"]
            spent = [shape.flops * setting.length(shape.width) * size for shape in shapes]
            assert spent == pytest.approx([setting.budget] * len(spent), rel=0.01)
        else:
            assert [getattr(shape, setting.fixed) for shape in shapes] == pytest.approx(
                [setting.budget] * len(shapes), rel=0.06
            )


def test_a_planted_share_is_found_and_serves():
    runs = planted(by_share)
    found = width_rule.profiles(runs, draws=100)
    checks = width_rule.checks(runs, found)
    assert set(checks) == set(rules.width().checks)
    assert checks["operations"] is not False
    assert checks["tied"] is False
    served = [one.served("flops_share", 0.02) for one in found if one.setting.budget == 8e11]
    low, high = width_rule.shared(served)
    assert 0.4 < low < 0.55 < high < 0.7


def test_where_wider_is_better_the_advice_passes_and_no_share_serves():
    runs = planted(by_width)
    checks = width_rule.checks(runs, width_rule.profiles(runs, draws=100))
    assert checks["body"] and checks["shallow"] and checks["tied"] and checks["rate"]
    assert checks["inside"] is False
    assert not checks["one"]


def test_a_better_rate_is_seen_to_change_the_best_width():
    runs = planted(lambda setting, entry: by_width(setting, entry) - (entry["factor"] == 0.5) * 10 / entry["width"])
    row = width_rule.best_with_rates(runs).iloc[0]
    assert row.alone > row.chosen
    assert row.gained > 0.1


def test_the_book_never_trains_what_is_kept():
    """Every run of the plan has a sound record, and no other is kept."""
    blobs = [records.checked(path) for path in (kept.FOLDER / "widths").glob("*.record")]
    found = [records.manifest(blob)["parameters"] for blob in blobs]
    wanted = [point | {"text": "laptop"} for point in widths.grid()]
    assert sorted(map(_key, found)) == sorted(map(_key, wanted))


def _key(parameters):
    return json.dumps(parameters, sort_keys=True)


def test_a_wide_shallow_model_is_held_against_its_neighbours_in_size():
    frame = width_public.pythia(50304, 2048)
    line = frame.assign(paper=10 - np.log(frame.parameters) / 10)
    assert width_public.shallow(line).excess[0] == pytest.approx(0, abs=1e-9)
    line.loc[line.model == "pythia-1b", "paper"] += 0.5
    assert width_public.shallow(line).excess[0] == pytest.approx(0.5)
