"""The theory of Section 5.2 on problems small enough to know the answer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.measure import bounds
from lib.measure.softmax_problem import (
    best_head,
    draw,
    extremal,
    gradient,
    hessian_product,
    loss,
    losses,
    optimum,
    problem,
)

ABOVE = ["bennett", "range", "confident_range", "norm", "confident_norm", "first_order", "extreme"]
problems = st.builds(
    draw,
    vocabulary=st.integers(2, 10),
    width=st.integers(1, 8),
    contexts=st.integers(1, 60),
    temperature=st.floats(0.4, 4),
    skew=st.floats(0, 2),
    misfit=st.floats(0, 1),
    seed=st.integers(0, 10_000),
)
few = settings(max_examples=25, deadline=None)


def random_head(task, seed=0, scale=1.0):
    shape = task.labels.shape[1], task.states.shape[1]
    return scale * np.random.default_rng(seed).standard_normal(shape)


@few
@given(problems)
def test_derivatives_agree_with_autograd(task):
    head, direction = random_head(task, 1), random_head(task, 2)
    states, labels, weights = (torch.tensor(a) for a in (task.states, task.labels, task.weights))

    def objective(w):
        return -(weights @ (labels * (states @ w.T).log_softmax(-1)).sum(-1))

    w = torch.tensor(head)
    np.testing.assert_allclose(loss(task, head), objective(w).item(), rtol=1e-12)
    np.testing.assert_allclose(gradient(task, head), torch.func.grad(objective)(w), rtol=1e-9, atol=1e-12)
    _, product = torch.autograd.functional.vhp(objective, w, torch.tensor(direction))
    np.testing.assert_allclose(hessian_product(task, head, direction), product, rtol=1e-9, atol=1e-12)


@few
@given(problems, st.floats(0.01, 5))
def test_loss_difference_is_a_linear_term_plus_divergences(task, scale):
    old, change = random_head(task, 1), random_head(task, 2, scale)
    linear = (gradient(task, old) * change).sum()
    parts = bounds.divergences(task.states @ old.T, task.states @ change.T)
    np.testing.assert_allclose(
        loss(task, old + change) - loss(task, old), linear + task.weights @ parts["divergence"], rtol=1e-9, atol=1e-11
    )


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 30), st.floats(0.05, 20), st.floats(1e-3, 20), st.integers(0, 10_000))
def test_every_bound_holds(vocabulary, scale, size, seed):
    random = np.random.default_rng(seed)
    logits, change = scale * random.standard_normal((2, 20, vocabulary)) * [[[1]], [[size / scale]]]
    parts = bounds.divergences(logits, change)
    slack = 1e-12 + 1e-9 * parts["divergence"]
    assert (parts["floor"] <= parts["divergence"] + slack).all()
    for name in ABOVE:
        assert (parts["divergence"] <= parts[name] + slack).all(), name
    assert (parts["confident_norm"] <= parts["norm"] + slack).all() and (parts["range"] <= parts["norm"] + slack).all()


@few
@given(problems, st.data())
def test_theorem_holds_for_the_best_head_found_and_for_truncation(task, data):
    rank = data.draw(st.integers(0, min(task.labels.shape[1], task.states.shape[1])))
    star = optimum(task)
    bound = {name: values[rank] for name, values in bounds.theorem(star, task.states, task.weights).items()}
    found = best_head(task, rank, star, starts=1)
    gap, truncated = found.loss - loss(task, star), found.attempts.loss[0] - loss(task, star)
    assert -1e-10 <= gap <= truncated <= bound["squared"] + 1e-9
    assert gap <= bound["confident"] + 1e-9 and bound["confident"] <= bound["squared"] + 1e-12
    assert gap <= bound["paper"] + 1e-9
    assert np.linalg.matrix_rank(found.head, tol=1e-6) <= rank
    parts = bounds.divergences(task.states @ star.T, task.states @ (found.head - star).T)
    spread = np.sqrt(8 * parts["range"].max())
    least = torch.as_tensor(task.states @ star.T).softmax(-1).min().item()
    floor = least * bounds.psi(-spread).item() * bounds.tail(star, task.second_moment)[rank]
    assert floor <= gap + 1e-9  # the other side: the tail of squares is the order, not only a bound


@pytest.mark.parametrize("p", [0.5 + 1e-3, 0.6, 0.9, 0.999])
def test_constant_is_attained_by_swapping_two_tokens(p):
    logits = np.log([[p, 1 - p]])
    parts = bounds.divergences(logits, logits[:, ::-1] - logits)
    np.testing.assert_allclose(parts["divergence"], parts["confident_norm"], rtol=1e-9)


def test_constant_is_attained_within_two_percent_by_the_best_head_of_rank_one():
    task = extremal()
    star = optimum(task)
    bound = bounds.theorem(star, task.states, task.weights)
    gap = best_head(task, 1, star).loss - loss(task, star)
    assert 0.98 * bound["squared"][1] <= gap <= bound["squared"][1]
    assert 0.99 * bound["confident"][1] <= gap <= bound["confident"][1]


@few
@given(st.integers(3, 10), st.integers(3, 8), st.floats(0.5, 3), st.floats(0, 2), st.integers(0, 10_000))
def test_slopes(vocabulary, width, temperature, skew, seed):
    task = draw(vocabulary, width, 80, temperature, skew, seed=seed)
    star, epsilon = optimum(task), np.geomspace(1e-4, 1e-2, 6)
    step = random_head(task, seed)
    step /= np.linalg.norm(step)
    changes = np.array([losses(task, star + e * step) - losses(task, star) for e in epsilon])  # (epsilon, N)
    first = abs(np.einsum("nv,nv->n", task.states @ step.T, _surplus(task, star)))
    assert abs(bounds.slope(epsilon, abs(changes[:, first.argmax()])) - 1) < 0.05
    assert abs(bounds.slope(epsilon, changes @ task.weights) - 2) < 0.05
    norms = np.linalg.norm(task.states, axis=1)
    assert (abs(changes) <= np.sqrt(2) * epsilon[:, None] * norms + 1e-14).all()  # Lemma 5.1 with its constant


def _surplus(task, head):
    return torch.as_tensor(task.states @ head.T).softmax(-1).numpy() - task.labels


def test_with_weight_decay_only_the_regularised_gap_is_of_second_order():
    task = draw(6, 5, 80, seed=3)
    star, epsilon = optimum(task, l2=0.05), np.geomspace(1e-4, 1e-2, 6)
    step = random_head(task, 4)
    step /= np.linalg.norm(step)
    plain = np.array([loss(task, star + e * step) - loss(task, star) for e in epsilon])
    decay = 0.025 * np.array([((star + e * step) ** 2).sum() - (star**2).sum() for e in epsilon])
    assert abs(bounds.slope(epsilon, abs(plain)) - 1) < 0.05
    assert abs(bounds.slope(epsilon, plain + decay) - 2) < 0.05


@few
@given(st.integers(2, 12), st.integers(1, 8), st.integers(0, 10_000), st.booleans(), st.booleans())
def test_factors_are_eckart_and_young_in_the_given_metric(vocabulary, width, seed, whitened, weighted):
    random = np.random.default_rng(seed)
    head, states = random.standard_normal((vocabulary, width)), random.standard_normal((3 * width, width))
    moment = states.T @ states if whitened else None
    frequency = random.dirichlet(np.ones(vocabulary)) if weighted else None
    share = np.ones(vocabulary) if frequency is None else frequency
    left, right = bounds.factors(head, moment, frequency)
    half = np.eye(width) if moment is None else bounds.root(moment)[0]
    target = np.sqrt(share)[:, None] * (head - share @ head / share.sum())
    sigma = np.append(np.linalg.svd(target @ half, compute_uv=False), np.zeros(width))
    for rank in range(width + 1):
        error = np.sqrt(share)[:, None] * (left[:, :rank] @ right[:rank]) - target
        np.testing.assert_allclose(np.linalg.norm(error @ half), np.linalg.norm(sigma[rank:]), atol=1e-6)


def test_no_search_beats_eckart_and_young():
    random = np.random.default_rng(0)
    head, rank = random.standard_normal((9, 7)), 3
    floor = np.sqrt(bounds.tail(head)[rank])
    target = head - head.mean(0)
    for _ in range(20):
        right = random.standard_normal((rank, 7))
        for _ in range(300):  # alternating least squares
            left = target @ np.linalg.pinv(right)
            right = np.linalg.pinv(left) @ target
        assert floor - 1e-9 <= np.linalg.norm(left @ right - target) <= floor + 1e-6


def test_best_head_is_the_global_one_where_it_can_be_scanned():
    task = draw(3, 4, 30, temperature=0.5, skew=1, misfit=1, seed=5)
    found = best_head(task, 1, optimum(task))
    basis = np.array([[1, -1, 0], [1, 1, -2]]) / np.sqrt([[2], [6]])
    scanned = []
    for angle in np.linspace(0, np.pi, 361):  # the direction in logit space; the rest is convex
        u = np.array([np.cos(angle), np.sin(angle)]) @ basis
        v = np.zeros(4)
        for _ in range(12):
            slope = u @ gradient(task, np.outer(u, v))
            curve = np.array([u @ hessian_product(task, np.outer(u, v), np.outer(u, e)) for e in np.eye(4)])
            v = v - np.linalg.solve(curve, slope)
        scanned.append(loss(task, np.outer(u, v)))
    assert found.loss <= min(scanned) + 1e-9 and min(scanned) - found.loss < 1e-4


def test_identical_contexts_need_one_direction():
    task = problem(np.ones((7, 3)), np.tile([0.5, 0.3, 0.2], (7, 1)))
    star = optimum(task)
    entropy = -(task.labels[0] * np.log(task.labels[0])).sum()
    np.testing.assert_allclose(loss(task, star), entropy, rtol=1e-12)
    np.testing.assert_allclose(bounds.theorem(star, task.states)["squared"][1:], 0, atol=1e-12)
    np.testing.assert_allclose(best_head(task, 1, star).loss, entropy, rtol=1e-9)


def test_tokens_that_never_occur_put_the_optimum_at_infinity():
    task = problem(np.eye(3), [[0.5, 0.5, 0], [0.2, 0.8, 0], [0.9, 0.1, 0]])
    with pytest.raises(ValueError, match="infinity"):
        optimum(task)
    star = optimum(task, l2=0.01)
    assert np.linalg.norm(gradient(task, star) + 0.01 * star) < 1e-9


def test_a_rank_that_suffices_costs_nothing():
    task = draw(6, 4, 50, seed=2)
    star = optimum(task)
    assert abs(best_head(task, 4, star).loss - loss(task, star)) < 1e-9
    assert all(abs(values[-1]) < 1e-9 for values in bounds.theorem(star, task.states).values())


def test_curvature_falls_from_a_quarter_as_contexts_grow_certain():
    kappa = bounds.curvature(np.linspace(0.5, 1, 50))
    assert kappa[0] == pytest.approx(0.25) and (np.diff(kappa) < 0).all() and kappa[-1] > 0
    assert (bounds.curvature([0.1, 0.3]) == 0.25).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: problem(np.ones((2, 3)), np.ones((3, 2)) / 2), "same N"),
        (lambda: problem(np.ones((1, 1)), [[0.5, 0.6]]), "distribution"),
        (lambda: problem(np.ones((1, 1)), [[1.0]], [0.0]), "positive"),
        (lambda: problem([[np.nan]], [[1.0]]), "finite"),
        (lambda: draw(3, 2, 5, temperature=0), "temperature"),
        (lambda: best_head(draw(3, 2, 5), 3, np.ones((3, 2))), "rank 3"),
        (lambda: bounds.divergences(np.ones((2, 3)), np.ones((2, 2))), "both be"),
        (lambda: bounds.divergences([[0.0, np.inf]], [[0.0, 1.0]]), "NaN"),
        (lambda: bounds.curvature([0.0]), "largest probability"),
        (lambda: bounds.root(-np.eye(2)), "negative"),
        (lambda: bounds.factors(np.ones((3, 2)), np.eye(3)), "2 by 2"),
        (lambda: bounds.factors(np.ones((3, 2)), frequency=[1, -1, 1]), "frequency"),
        (lambda: bounds.slope([1, 0], [1, 1]), "positive"),
    ],
)
def test_bad_input_gets_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert str(caught.value).count("\n") == 0
