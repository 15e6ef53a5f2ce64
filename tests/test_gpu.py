"""Every measure, the heads and the suite on a GPU agree with the CPU; skipped where there is none.

Float64 measures agree to 1e-9, float32 sums to 1e-4 of a nat, and bf16 training to the noise of its rounding.
"""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from scipy import sparse

from lib.measure import anisotropy, bounds, ngram_spectrum, spectra
from lib.train import heads, loop
from lib.train.loop import Run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
DEVICE = "cuda"
V, D, N = 5000, 96, 700


def draw(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + shape[0])).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_spectra(dtype):
    weight = (draw(V, D) * torch.logspace(0, -3, D)).to(dtype)
    here, there = (spectra.singular_values(w) for w in (weight, weight.to(DEVICE)))
    np.testing.assert_allclose(there, here, rtol=1e-9)
    frequency = np.arange(V, 0, -1.0)
    for change in (spectra.centre, lambda w: spectra.deflate(w, frequency)):
        changed = change(weight.to(DEVICE))
        assert changed.device.type == DEVICE
        torch.testing.assert_close(changed.cpu(), change(weight), rtol=1e-6, atol=1e-7)
    for here, there in zip(spectra.principal(weight, 2), spectra.principal(weight.to(DEVICE), 2), strict=True):
        np.testing.assert_allclose(there, here, atol=1e-8 * abs(here).max())


def test_anisotropy():
    states = draw(N, D) + 1
    assert anisotropy.anisotropy(states.to(DEVICE)) == pytest.approx(anisotropy.anisotropy(states), abs=1e-12)
    removed = anisotropy.all_but_the_top(states.to(DEVICE), 2).cpu()
    torch.testing.assert_close(removed, anisotropy.all_but_the_top(states, 2), rtol=1e-8, atol=1e-8)


def test_bounds():
    logits, change = draw(64, V), draw(64, V) / 10
    here, there = (bounds.divergences(logits.to(at), change.to(at)) for at in ("cpu", DEVICE))
    for name in here:
        np.testing.assert_allclose(there[name], here[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_ngram_error():
    matrix = sparse.random_array((800, 300), density=0.02, rng=np.random.default_rng(0), format="csr")
    ranks = [0, 10, 100, 200, 300]
    here, there = (ngram_spectrum.w_error(matrix, ranks, device=at) for at in ("cpu", DEVICE))
    np.testing.assert_allclose(there, here, atol=1e-6)


def test_losses_and_gradients_of_heads():
    states, weight, labels = draw(N, D), draw(V, D) / 4, torch.arange(N) * 7 % V
    sides = [(states.to(at), weight.to(at), labels.to(at)) for at in ("cpu", DEVICE)]
    here, there = (heads.cross_entropy(*side) for side in sides)
    assert there[0] == pytest.approx(here[0], abs=1e-4)
    for mine, its in zip(here[1:], there[1:], strict=True):
        torch.testing.assert_close(its.cpu(), mine, rtol=1e-3, atol=1e-4 * mine.abs().max().item())
    by_rank = [heads.losses(heads.Head(w), s, y, [8, 32, D])[0].mean(0).cpu() for s, w, y in sides]
    torch.testing.assert_close(by_rank[1], by_rank[0], rtol=0, atol=1e-4)


def test_training_a_head():
    states, labels, start = draw(N, D), torch.arange(N) % 50, heads.Head(draw(50, 8) / 8, draw(8, D) / 8)
    recipe = heads.Recipe(epochs=2, batch=100, dtype=torch.float32, patience=100)
    lost = []
    for at in ("cpu", DEVICE):
        moved = heads.Head(start.out.to(at), start.into.to(at))
        (run,) = heads.train([(moved, 1e-2)], states, labels, (states, labels), recipe)
        lost.append(run.losses)
    np.testing.assert_allclose(lost[1], lost[0], atol=1e-3)


def test_a_run_of_the_suite():
    run = Run(
        name="gpu", width=64, heads=4, layers=2, vocabulary=512, context=64, tokens_per_step=1024, steps=64,
        learning_rate=2e-3, save_every=512, evaluations=4, validation_tokens=2048, seed=0, output_bias=True,
    )  # fmt: skip
    stream = np.random.default_rng(0).zipf(1.5, 20_000).clip(max=run.vocabulary - 1).astype(np.int64)
    rows = torch.from_numpy(stream[: 16 * (run.context + 1)]).view(16, -1)
    here = loop.Training(run, stream)
    there = loop.Training(dataclasses.replace(run, dtype="bfloat16"), stream, DEVICE)
    assert there.evaluate(rows) == pytest.approx(here.evaluate(rows), abs=0.01)  # bf16 keeps 8 bits
    first = copy.deepcopy(here.network.state_dict())
    steps = [(here.update(rows), there.update(rows)) for _ in range(20)]
    assert max(abs(mine - its) for mine, its in steps) < 0.05
    assert steps[-1][0] < steps[0][0] and steps[-1][1] < steps[0][1]
    assert not torch.equal(first["lm_head.weight"], there.network.lm_head.weight.cpu())
