"""Rivals of chapter 8: a spectrum that turns, a band that rises, what a head hands down."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from lib.study import heads, rivals


def test_a_head_hands_down_what_lies_in_its_span(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    states, weight = torch.randn(128, 4, generator=generator), torch.randn(60, 4, generator=generator)
    labels = torch.randint(60, (128,), generator=generator)
    kept = SimpleNamespace(validation=(states, labels), head=SimpleNamespace(out=weight), context=64)
    monkeypatch.setattr(heads, "prepared", lambda *_: kept)
    found = rivals.passed("any", "any", 128)
    g = (states @ weight.T).softmax(1) - torch.nn.functional.one_hot(labels, 60)
    kept_part = g @ weight @ torch.linalg.pinv(weight)
    assert found["share"] == pytest.approx(float(kept_part.square().sum() / g.square().sum()), rel=1e-3)
    assert found["null"] == 4 / 60 and 0 < found["share"] < 1


@pytest.mark.parametrize(("entropy", "rises"), [([3, 1, 1, 1, 2, 3], True), ([3, 2, 1.5, 1.2, 1.1, 1.0], False)])
def test_an_entropy_rises_again_only_if_it_does(entropy, rises):
    steps = [512, 1024, 2048, 3072, 3584, 4096]
    frame = pd.DataFrame({"run": "a", "view": "raw", "step": steps, "entropy": entropy, "loss": range(6, 0, -1)})
    found = rivals.again(frame.assign(entropy=frame.entropy.astype(float)), 512)
    assert found.again.tolist() == [rises] and (found.harm <= 0).all()


def test_a_band_that_rises_is_told_from_one_that_falls():
    steps = np.arange(1, 25) * 256
    falls = 4 + np.exp(-steps / 800)
    curves = {1: falls, 2: falls + 0.3 * np.maximum(0, steps / steps[-1] - 0.4)}
    frame = pd.concat(pd.DataFrame({"run": "a", "band": k, "step": steps, "loss": y}) for k, y in curves.items())
    assert rivals.band_verdicts(frame, 0.005).set_index("band").saturated.to_dict() == {1: False, 2: True}
