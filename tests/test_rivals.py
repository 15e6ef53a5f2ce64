"""Rivals of chapter 8: a language of known rank, spectra and losses late, what a head hands down."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from lib.run.tasks import heads, rivals
from lib.train import bigram


@pytest.fixture
def seen(monkeypatch):
    """What the source of `known_rank` gives to the training, which is left out."""
    kept = []

    def train(runs, text, *rest):
        kept.append(text)
        return [{"run": place, "step": 0, "gap": 1.0} for place in range(len(runs))]

    monkeypatch.setattr(bigram, "train", train)
    return kept


def test_the_source_has_the_rank_that_it_says_and_its_entropy(seen):
    for rank in (2, 5):
        rivals.known_rank(rank, [3], 20, 40, 3.0, 1.0, 1, 2)
        text = seen[-1]
        p = text.labels.double()
        assert torch.linalg.matrix_rank(p.log(), rtol=1e-5) == rank
        assert torch.allclose(p.sum(1), torch.ones(20, dtype=torch.float64), atol=1e-6)
        assert text.entropy == pytest.approx(float(-(text.shares.double() @ (p * p.log()).sum(1))), rel=1e-5)
        assert float(text.shares[0] / text.shares[1]) == pytest.approx(2)
    with pytest.raises(ValueError, match="expected 2 to 20"):
        rivals.known_rank(1, [3], 20, 40, 3.0, 1.0, 1, 2)


def test_a_wide_head_learns_it_and_a_narrow_one_does_not():
    found = rivals.known_rank(3, [2, 6], 24, 40, 2.0, 0.0, 400, 2)
    last = found[found.step == 400].groupby("width").gap.mean()
    assert last[6] < 0.1 * last[2] and rivals.knee(found) == 6
    assert rivals.knee(found[found.width == 2]) is None


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


def test_changes_are_after_less_before(monkeypatch):
    frames = {"a": 5.0, "b": 4.5}
    monkeypatch.setattr(
        rivals,
        "by_frequency",
        lambda address, *_: pd.DataFrame({"band": [1, 2], "share": 0.5, "loss": frames[address] + np.arange(2)}),
    )
    found = rivals.changed(["a", "b"], "laptop", 1, 2)
    assert found.change.tolist() == [-0.5, -0.5] and found.before.tolist() == [5.0, 6.0]
