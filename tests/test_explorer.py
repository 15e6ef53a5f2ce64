"""The explorer's frames: one name and one colour for a model, whoever measured it, and the paper's own values."""

import numpy as np
import pandas as pd
import pytest

from lib.data import paper
from lib.measure import spectra as measures
from lib.show import charts
from lib.study import explorer, spectra


@pytest.mark.parametrize("name", ["14M", "pythia-14m", "Pythia-14M", "EleutherAI/pythia-14m@step3"])
def test_a_model_has_one_colour_under_all_its_names(name):
    assert charts.colours([name, "31M"]).range == charts.colours(["14M", "pythia-31m-deduped"]).range


def test_no_two_models_of_a_chart_share_a_colour():
    models = ["nano-8", "nano-8-long", "smoke-16", "nano-16-bias", "suite:nano-8-seed1", "smollm2-135m", "14M", "12B"]
    assert len(set(charts.colours(models).range)) == len(models)


def test_sources_of_a_loss_are_told_apart_and_share_names():
    own = pd.DataFrame({"model": "pythia-14m", "step": [0, 1000], "loss": [10.8, 5.0]})
    frame = explorer.loss(own)
    assert set(frame.source) == set(charts.DASHES) == set(charts.SHAPES)
    one = frame[frame.model == "Pythia-14M"]
    assert set(one.source) == set(frame.source)
    theirs = paper.figure("1a").query("model == '14M'").loss
    assert list(one.value[one.source == "paper"]) == list(theirs)


def test_w_errors_and_spectra_are_those_of_the_measures():
    sigma = np.geomspace(9, 0.1, 16)
    about = {"model": "nano-16", "step": 4, "view": spectra.RAW, "width": 16}
    heads = pd.DataFrame(about | {"rank": np.arange(1, 17), "sigma": sigma})
    ours = explorer.w_error(heads, 5).query("source == 'this book'")
    assert ours["rank"].max() < 16 and len(ours) >= 3
    np.testing.assert_allclose(ours.value, measures.w_error(sigma)[ours["rank"]], rtol=1e-3)
    found = explorer.spectrum(heads, 5)
    np.testing.assert_allclose(found.value[found.source == "this book"].iloc[[0, -1]], [1, 0.1 / 9], rtol=1e-3)
    assert set(found.model[found.source == "paper"]) == {"Pythia-14M", "Pythia-31M"}


def test_the_page_opens_with_the_last_state_of_the_narrowest_model():
    layers = pd.DataFrame({"model": "nano-8", "step": [0, 0, 9, 9], "layer": [0, 1, 0, 1], "anisotropy": 0.5})
    found = explorer.anisotropy(layers.assign(final_norm=layers.layer == 1))
    first = explorer.first(found)
    assert (first["model"], first["step"], first["layer"]) == ("nano-8", 9, 2)
    assert first["models"][:2] == ("nano-8", "Pythia-14M") and first["models"][-1] == "Pythia-1.4B"
    late = found[(found.source == "paper") & (found.model == "Pythia-14M")]
    assert list(late.value) == [0.5, 0.9, 0.98] and set(late.layer) == {6}
