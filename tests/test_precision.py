"""Storing in few bits: equal to torch's own on every half, and training through it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lib.train import neox, precision


def halves():
    """All 65,536 halves that are numbers, and the midpoints of neighbours, as float32."""
    every = torch.from_numpy(np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32))
    numbers = every[torch.isfinite(every)].unique()
    return torch.cat([numbers, (numbers[1:] + numbers[:-1]) / 2])


@pytest.fixture(params=[False, True], ids=["denormals", "flushed"])
def flushed(request):
    torch.set_flush_denormal(request.param)
    yield
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("kappa", [1.0, 2.0**-12, 2.0**8])
def test_every_half_and_every_midpoint_is_stored_as_torch_stores_it(flushed, kappa):
    x = torch.cat([halves(), torch.tensor([65519.0, 65520.0, 1e30, 2.0**-25, 2.0**-25 * 1.0001])]) / kappa
    for values in (x, torch.nextafter(x, torch.tensor(torch.inf)), torch.nextafter(x, torch.tensor(-torch.inf))):
        expected = (values * kappa).half().float() / kappa
        found = precision.rounded(values, "fp16", kappa)
        assert torch.equal(found.view(torch.int32), expected.view(torch.int32))
        by_numpy = (values * kappa).numpy().astype(np.float16).astype(np.float32)
        if kappa == 1:
            assert np.array_equal(found.numpy().view(np.int32), by_numpy.view(np.int32))


def test_seven_bits_of_mantissa_are_bfloat16():
    x = torch.randn(10000, generator=torch.Generator().manual_seed(0)) * 1e3
    ties = x.bfloat16().float() * (1 + 2.0**-9)
    for values in (x, ties, -ties):
        assert torch.equal(precision.rounded(values, "mantissa7"), precision.rounded(values, "bf16"))
    assert torch.equal(precision.rounded(x, "fp32", 0.25), x)


def test_stochastic_rounding_has_the_right_mean_and_only_neighbours():
    generator = torch.Generator().manual_seed(0)
    for value in (1.0003, 2.0**-25, -3.3e-7, 700.2):
        x = torch.full((200_000,), value)
        found = precision.rounded(x, "fp16", 1.0, True, generator)
        assert torch.equal(found, found.half().float()) and len(found.unique()) == 2
        spacing = float(found.max() - found.min())
        assert abs(float(found.double().mean()) - float(x[0])) < 0.01 * spacing


def test_the_loss_and_its_gradient_are_those_of_rounding_by_hand():
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(700, 12, generator=generator).requires_grad_()
    weight = torch.randn(900, 12, generator=generator).requires_grad_()
    targets = torch.randint(900, (700,), generator=generator)
    loss, delta = precision.head_loss(states, weight, targets, gradient="fp16", kappa=2.0**-10)
    by_states, by_weight = torch.autograd.grad(loss, [states, weight])
    logits = states @ weight.T
    p = logits.softmax(-1) - F.one_hot(targets, 900)
    g = (p * 2.0**-10).half().float() * 2.0**10
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets))
    torch.testing.assert_close(by_states, g @ weight / 700, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(by_weight, g.T @ states / 700, rtol=1e-3, atol=1e-6)
    assert float(delta) > 1e-3 and float(delta) == pytest.approx(-float(g.sum()) / 700, rel=1e-3)


def test_balanced_gradients_sum_to_zero_and_z_loss_pulls_the_offset_back():
    generator = torch.Generator().manual_seed(2)
    states, weight = torch.randn(64, 8, generator=generator), torch.randn(500, 8, generator=generator)
    targets = torch.randint(500, (64,), generator=generator)
    _, delta = precision.head_loss(states, weight, targets, gradient="fp16", kappa=2.0**-12, balanced=True)
    assert abs(float(delta)) < 1e-5
    _, delta = precision.head_loss(states, weight, targets, z_loss=0.01)
    normaliser = (states @ weight.T).logsumexp(-1)
    assert float(delta) == pytest.approx(-0.02 * float(normaliser.mean()), rel=1e-3)


def test_float32_is_the_head_loss_of_the_suite():
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(300, 16, generator=generator).requires_grad_()
    weight = torch.randn(4096, 16, generator=generator).requires_grad_()
    targets = torch.randint(4096, (300,), generator=generator)
    ours, _ = precision.head_loss(states, weight, targets)
    theirs = neox.head_loss(states, weight, targets)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad(loss, [states, weight]) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_attention_without_rounding_is_torchs_and_with_it_breaks_the_zero_sum_over_keys():
    generator = torch.Generator().manual_seed(4)
    parts = [torch.randn(2, 3, 20, 8, generator=generator).requires_grad_() for _ in range(3)]
    upstream = torch.randn(2, 3, 20, 8, generator=generator)
    ours, theirs = precision.attention(*parts), F.scaled_dot_product_attention(*parts, is_causal=True)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, parts, upstream), torch.autograd.grad(theirs, parts, upstream), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    query = torch.ones_like(parts[0])  # then the gradient by a key bias is the sum of dS
    exact = torch.autograd.grad(precision.attention(query, *parts[1:]), parts[1], upstream)[0].sum(-2)
    coarse = precision.attention(query, *parts[1:], gradient="fp16", kappa=2.0**-16)
    assert float(torch.autograd.grad(coarse, parts[1], upstream)[0].sum(-2).abs().max()) > 100 * float(
        exact.abs().max()
    )


@pytest.mark.parametrize("dtype", ["float8", "mantissa0", "mantissa23", "fp64"])
def test_an_unknown_format_is_refused(dtype):
    with pytest.raises(ValueError, match="expected fp32, bf16, fp16"):
        precision.rounded(torch.ones(3), dtype)


def test_kappa_is_a_power_of_two():
    for kappa in (0.0, 0.3, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected a power of two"):
            precision.rounded(torch.ones(3), "fp16", kappa)


@pytest.mark.parametrize("balanced", [False, True])
def test_expected_labels_are_the_mean_over_every_label(balanced):
    generator = torch.Generator().manual_seed(4)
    states, weight = torch.randn(3, 5, generator=generator), torch.randn(40, 5, generator=generator) * 2
    shares = torch.rand(3, 40, generator=generator) ** 8
    shares /= shares.sum(1, keepdim=True)
    how = {"gradient": "fp16", "kappa": 2.0**-10, "balanced": balanced}

    def gradients(targets):
        ours = [part.clone().requires_grad_() for part in (states, weight)]
        loss, delta = precision.head_loss(*ours, targets, **how)
        loss.backward()
        return [loss.detach(), delta, *(part.grad for part in ours)]

    found = gradients(lambda part: shares[part])
    wanted = [0.0, 0.0, torch.zeros_like(states), torch.zeros_like(weight)]
    for row, label in np.ndindex(3, 40):  # of each position alone, the others left at a label whose part is taken away
        targets = torch.zeros(3, dtype=torch.long)
        targets[row] = label
        rest = gradients(torch.zeros(3, dtype=torch.long))
        for place, (one, zero) in enumerate(zip(gradients(targets), rest, strict=True)):
            wanted[place] = wanted[place] + shares[row, label] * (one - zero)
    for place, zero in enumerate(gradients(torch.zeros(3, dtype=torch.long))):
        torch.testing.assert_close(found[place], wanted[place] + zero, atol=2e-6, rtol=1e-4)
    with pytest.raises(ValueError, match="need drawn ones"):
        precision.head_loss(states, weight, lambda part: shares[part], z_loss=1e-4)
