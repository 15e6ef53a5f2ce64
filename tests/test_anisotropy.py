"""Anisotropy: agreement with the definition over all pairs, limits, merging, and the coverage of its interval."""

import numpy as np
import pytest
import torch

from lib.measure.anisotropy import all_but_the_top, anisotropy, from_sum, interval, unit_sum


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def all_pairs(states):
    """The definition, term by term."""
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    cosines = unit @ unit.T
    return cosines[~np.eye(len(states), dtype=bool)].mean()


@pytest.mark.parametrize("mean", [0.0, 0.3, 5.0])
def test_equals_the_definition_over_all_pairs(rng, mean):
    states = rng.standard_normal((1300, 24)) + mean
    assert anisotropy(states) == pytest.approx(all_pairs(states), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_types_are_widened_before_anything_else(rng, dtype):
    states = torch.from_numpy(rng.standard_normal((700, 24)) + 1).to(dtype)
    assert anisotropy(states) == pytest.approx(all_pairs(states.double().numpy()), abs=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_on_a_gpu(rng):
    states = torch.from_numpy(rng.standard_normal((700, 24)) + 1)
    assert anisotropy(states.cuda()) == pytest.approx(anisotropy(states), abs=1e-12)


def test_limits(rng):
    assert anisotropy(rng.standard_normal((20000, 64))) == pytest.approx(0, abs=1e-3)
    assert anisotropy(np.outer(rng.uniform(1, 9, 50), rng.standard_normal(8))) == pytest.approx(1)
    assert anisotropy([[1.0, 0.0], [-3.0, 0.0]]) == pytest.approx(-1)


def test_rotation_and_the_length_of_each_state_change_nothing(rng):
    states = rng.standard_normal((300, 24)) + 1
    turn = np.linalg.qr(rng.standard_normal((24, 24)))[0]
    assert anisotropy(states @ turn * rng.uniform(0.1, 9, (300, 1))) == pytest.approx(anisotropy(states))


def test_batches_merge(rng):
    states = rng.standard_normal((1000, 24)) + 1
    total = sum(unit_sum(part) for part in np.array_split(states, [3, 400, 401]))
    assert from_sum(total, 1000) == pytest.approx(anisotropy(states))


def test_layers_are_measured_together(rng):
    states = rng.standard_normal((3, 50, 8)) + 1  # layers, N, d
    total = np.stack([unit_sum(layer) for layer in states])
    assert from_sum(total, 50) == pytest.approx([anisotropy(layer) for layer in states])


def test_interval_leaves_out_each_document_in_turn(rng):
    documents = [rng.standard_normal((n, 6)) + rng.standard_normal(6) for n in (5, 9, 4, 7)]
    totals, counts = np.stack([unit_sum(d) for d in documents]), np.array([len(d) for d in documents])
    estimate, low, high = interval(totals, counts)
    without = [anisotropy(np.concatenate(documents[:i] + documents[i + 1 :])) for i in range(4)]
    assert estimate == pytest.approx(anisotropy(np.concatenate(documents)))
    assert (high - low) / 2 == pytest.approx(np.sqrt(3 * np.var(without)) * 3.182446, rel=1e-6)


def test_interval_covers_the_truth_when_tokens_of_a_document_are_alike(rng):
    """Documents share a topic, so an interval over tokens would be far too narrow."""

    def draw(documents):
        topics = rng.standard_normal((documents, 1, 16)) * 0.5 + 0.3
        states = topics + rng.standard_normal((documents, 30, 16))
        units = states / np.linalg.norm(states, axis=2, keepdims=True)
        return units.sum(1), np.full(documents, 30)

    truth = from_sum(draw(20000)[0].sum(0), 600000)
    hits = sum(bool(low <= truth <= high) for _, low, high in (interval(*draw(60)) for _ in range(300)))
    assert 0.90 <= hits / 300 <= 0.99


def test_all_but_the_top_removes_mean_and_leading_directions(rng):
    states = rng.standard_normal((2000, 12)) * np.array([30, 20] + [1] * 10) + 5
    assert np.abs(all_but_the_top(states).mean(0).numpy()).max() < 1e-9
    spectrum = np.linalg.svd(all_but_the_top(states, 2).numpy(), compute_uv=False)
    assert spectrum[0] < 60 and spectrum[-2:] == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: anisotropy(np.ones(3)), r"\(N, d\)"),
        (lambda: anisotropy(np.ones((1, 3))), "two states"),
        (lambda: anisotropy([[1.0, 2.0], [0.0, 0.0]]), "zero"),
        (lambda: anisotropy([[1.0, 2.0], [np.nan, 0.0]]), "not finite"),
        (lambda: interval(np.ones((2, 3)), np.ones(2)), "at least three"),
        (lambda: all_but_the_top(np.ones((4, 3)), 3), "0 to 2"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [1e-310, 1e-170, 1e160, 1e300])
def test_the_size_of_states_does_not_matter(size):
    states = np.random.default_rng(0).standard_normal((50, 6)) + 1
    assert anisotropy(states * size) == pytest.approx(anisotropy(states), abs=1e-4 if size < 1e-300 else 1e-12)
