"""The spectrum of a head: identities, limits, and agreement with a float64 SVD."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.measure import spectra
from lib.study import spectra as tasks

ROWS, WIDTH = 3000, 48  # more rows than one block


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def head(rng, condition, rows=ROWS, width=WIDTH):
    """U S V^T with geometric singular values from 1 down to 1 / condition."""
    left = np.linalg.qr(rng.standard_normal((rows, width)))[0]
    right = np.linalg.qr(rng.standard_normal((width, width)))[0]
    sigma = np.geomspace(1, 1 / condition, width)
    return left * sigma @ right, sigma


@pytest.mark.parametrize("condition", [1e2, 9e3, 1.1e4, 1e6])
def test_every_singular_value_of_a_constructed_head(rng, condition):
    weight, sigma = head(rng, condition)
    assert spectra.singular_values(weight) == pytest.approx(sigma, rel=1e-6)


@pytest.mark.parametrize("condition", [1e2, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_types_are_widened_exactly(rng, condition, dtype):
    weight = torch.from_numpy(head(rng, condition)[0]).to(dtype)
    slow = torch.linalg.svdvals(weight.double()).numpy()
    assert spectra.singular_values(weight) == pytest.approx(slow, rel=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_on_a_gpu(rng):
    weight = torch.from_numpy(head(rng, 1e6)[0])
    assert spectra.singular_values(weight.cuda()) == pytest.approx(spectra.singular_values(weight), rel=1e-6)


def test_rank_deficient_and_wide_heads_end_in_zeros(rng):
    weight = rng.standard_normal((ROWS, 5)) @ rng.standard_normal((5, WIDTH))
    sigma = spectra.singular_values(weight)
    assert sigma[:5] == pytest.approx(np.linalg.svd(weight, compute_uv=False)[:5])
    assert (sigma[5:] < 1e-12 * sigma[0]).all()
    wide = rng.standard_normal((5, WIDTH))
    assert spectra.singular_values(wide)[:5] == pytest.approx(np.linalg.svd(wide, compute_uv=False))
    assert not spectra.singular_values(np.zeros((4, 3))).any()


def test_rotating_the_hidden_space_or_the_vocabulary_changes_nothing(rng):
    weight, sigma = head(rng, 1e3)
    turn = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
    assert spectra.singular_values(weight[rng.permutation(ROWS)] @ turn) == pytest.approx(sigma, rel=1e-9)


def test_isotropic_gaussian_is_nearly_flat_and_one_direction_is_ln_d(rng):
    gaussian = spectra.singular_values(rng.standard_normal((ROWS, WIDTH)))
    # Marchenko-Pastur: the eigenvalues of W^T W spread by sqrt(d / V) about their mean, and KL is half of its square
    assert spectra.singular_entropy(gaussian) == pytest.approx(WIDTH / ROWS / 2, rel=0.1)
    single = spectra.singular_values(np.outer(rng.standard_normal(ROWS), rng.standard_normal(WIDTH)))
    assert spectra.singular_entropy(single) == pytest.approx(np.log(WIDTH))
    assert spectra.effective_rank(single) == pytest.approx(1)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40).filter(any), st.sampled_from([1, 2]))
def test_entropy_rank_and_bounds_agree(sigma, power):
    kl = spectra.singular_entropy(sigma, power)
    assert -1e-12 <= kl <= np.log(len(sigma)) + 1e-12
    assert spectra.effective_rank(sigma, power) == pytest.approx(len(sigma) * np.exp(-kl))
    assert spectra.singular_entropy(np.multiply(sigma, 7), power) == pytest.approx(kl, abs=1e-9)


def test_uniform_spectrum_has_no_divergence_and_full_rank():
    assert spectra.singular_entropy(np.ones(9)) == pytest.approx(0, abs=1e-12)
    assert spectra.effective_rank(np.ones(9), power=1) == pytest.approx(9)


def test_w_error_is_the_error_of_the_truncated_svd(rng):
    weight = rng.standard_normal((60, 12))
    error = spectra.w_error(spectra.singular_values(weight))
    left, sigma, right = np.linalg.svd(weight, full_matrices=False)
    norm = np.linalg.norm(weight)
    slow = [np.linalg.norm(weight - left[:, :r] * sigma[:r] @ right[:r]) / norm for r in range(13)]
    assert error == pytest.approx(slow, abs=1e-9)


def test_centring_leaves_the_softmax_unchanged_and_removes_the_mean_row(rng):
    weight = rng.standard_normal((ROWS, WIDTH)) + 3
    centred = spectra.centre(weight)
    states = torch.from_numpy(rng.standard_normal((5, WIDTH)))
    before, after = (torch.log_softmax(states @ torch.from_numpy(w).T, -1) for w in (weight, centred))
    assert torch.allclose(before, after, atol=1e-10)
    assert np.abs(centred.mean(0)).max() < 1e-12


def test_deflating_leaves_nothing_along_the_direction_and_the_rest_alone(rng):
    weight, direction = rng.standard_normal((ROWS, WIDTH)), rng.standard_normal(ROWS)
    rest = spectra.deflate(weight, direction)
    assert np.abs(direction @ rest).max() < 1e-9
    assert spectra.deflate(rest, direction) == pytest.approx(rest, abs=1e-12)
    across = np.linalg.qr(np.column_stack([direction, rng.standard_normal(ROWS)]))[0][:, 1]
    assert across @ rest == pytest.approx(across @ weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_centring_keeps_the_kind_and_never_rounds_below_float32(dtype):
    assert spectra.centre(torch.ones(4, 3, dtype=dtype)).dtype == torch.promote_types(dtype, torch.float32)
    assert spectra.centre(np.ones((4, 3), np.float32)).dtype == np.float32
    assert isinstance(spectra.centre([[1.0, 2.0], [3.0, 4.0]]), np.ndarray)


def test_principal_triplets_rebuild_the_head(rng):
    weight, sigma = head(rng, 30)
    left, values, right = spectra.principal(weight, WIDTH)
    assert values == pytest.approx(sigma) and left * values @ right.T == pytest.approx(weight, abs=1e-9)
    assert (left.mean(0) >= 0).all()


def test_gram_of_blocks_adds_up(rng):
    weight = rng.standard_normal((ROWS, WIDTH))
    parts = sum(spectra.gram(part) for part in np.array_split(weight, 7))
    assert parts.numpy() == pytest.approx(weight.T @ weight)
    assert spectra.gram(weight).numpy() == pytest.approx(weight.T @ weight)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: spectra.singular_values(np.ones(3)), r"\(V, d\)"),
        (lambda: spectra.singular_values(np.ones((0, 3))), r"\(V, d\)"),
        (lambda: spectra.singular_values([[np.nan, 1.0]]), "NaN"),
        (lambda: spectra.singular_entropy([0.0, 0.0]), "not all zero"),
        (lambda: spectra.singular_entropy([1.0, -1.0]), ">= 0"),
        (lambda: spectra.singular_entropy([1.0], power=0), "positive"),
        (lambda: spectra.w_error([1.0, 2.0]), "descending"),
        (lambda: spectra.deflate(np.ones((4, 2)), np.ones(3)), "4 finite numbers"),
        (lambda: spectra.deflate(np.ones((4, 2)), np.zeros(4)), "not all zero"),
        (lambda: spectra.principal(np.ones((4, 2)), 2), "1 directions"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [1e-310, 1e-170, 1e-30, 1.0, 1e160, 1e300])
def test_a_spectrum_scales_with_its_head_at_any_size(size):
    weight = np.random.default_rng(0).standard_normal((300, 8)) * np.geomspace(1, 1e-3, 8)
    sigma = np.linalg.svd(weight, compute_uv=False)
    scaled = spectra.singular_values(weight * size) / size
    assert scaled == pytest.approx(sigma, rel=1e-9 if size > 1e-300 else 1e-3)  # the smallest floats have few digits
    assert spectra.principal(weight * size, 2)[1] / size == pytest.approx(sigma[:2], rel=1e-6)
    centred = spectra.centre(weight * size) / size
    assert centred == pytest.approx(weight - weight.mean(0), abs=1e-12 if size > 1e-300 else 1e-5)


@pytest.mark.parametrize("size", [1e-310, 1e-30, 1.0, 1e300])
@pytest.mark.parametrize("rows", [3, 5000, 50_257])
def test_rows_that_are_all_equal_leave_nothing_when_centred(rows, size):
    """Else the spectrum would be one of rounding errors: flat or collapsed, whichever they happen to be."""
    row = np.random.default_rng(rows).standard_normal(4) * size
    left = spectra.centre(np.tile(row, (rows, 1)))
    assert not left.any()
    with pytest.raises(ValueError, match="not all zero"):
        spectra.singular_entropy(spectra.singular_values(left))
    with pytest.raises(ValueError, match="all zero"):
        spectra.principal(left)


def test_what_is_small_but_real_is_kept():
    """A head that varies by a part in 1e12 has the spectrum of what varies."""
    rng = np.random.default_rng(0)
    row, rest = rng.standard_normal(8), rng.standard_normal((500, 8)) * np.geomspace(1, 0.1, 8)
    weight = row + 1e-12 * rest
    varies = weight - weight[0]  # exact: neighbours of one another
    expected = np.linalg.svd(varies - varies.mean(0), compute_uv=False)
    assert spectra.singular_values(spectra.centre(weight)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_is_read_as_the_numbers_that_it_holds(dtype):
    weight = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert spectra.singular_values(weight) == pytest.approx(spectra.singular_values(weight.float()))
    assert torch.equal(spectra.centre(weight), spectra.centre(weight.float()))
    assert torch.equal(spectra.deflate(weight, np.arange(200.0)), spectra.deflate(weight.float(), np.arange(200.0)))


@pytest.mark.parametrize("function", [spectra.singular_values, spectra.centre, spectra.gram, spectra.principal])
@pytest.mark.parametrize(
    "weight",
    [
        torch.ones(4, 2, dtype=torch.int8),
        np.ones((4, 2), bool),
        np.ones((4, 2), complex),
        np.ones((4, 2), int).astype(object),
    ],
    ids=["int8", "bool", "complex", "object"],
)
def test_what_is_no_float_is_refused_by_its_dtype(function, weight):
    with pytest.raises(ValueError, match="has dtype .*expected a float type"):
        function(weight)
    assert spectra.singular_values([[3, 0], [0, 4]]) == pytest.approx([4, 3])


def test_the_tail_that_makes_two_figures_agree_is_the_one_that_made_them():
    width, ratio, tail = 64, 0.3, 0.5
    sigma = np.r_[1.0, ratio, np.full(width - 2, ratio * tail)]
    ratios = pd.DataFrame({"model": ["m"], "width": [width], "step": [10], "ratio": [ratio]})
    read = pd.DataFrame({"model": "m", "step": [0, 20], "entropy": spectra.singular_entropy(sigma, 2)})
    found = tasks.tails(ratios, read).set_index("power")["tail"]
    assert found[2] == pytest.approx(tail, rel=1e-6) and found[1] < tail / 2
