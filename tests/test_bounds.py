"""The theory of Section 5.2 on problems small enough to know the answer."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from lib.data import corpora
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
from lib.study import theory

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
    floor = least * bounds.psi(-spread).item() * bounds.tail(star, rows=task.rows)[rank]
    assert floor <= gap + 1e-9  # the other side


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
    if whitened:  # from the states instead of their moment: the same
        other = bounds.factors(head, frequency=frequency, rows=states)
        np.testing.assert_allclose(other[0][:, :1] @ other[1][:1], left[:, :1] @ right[:1], atol=1e-6)
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


def test_curvature_is_a_quarter_for_even_odds_and_falls_to_both_sides():
    kappa = bounds.curvature(np.linspace(0, 800, 50))
    assert kappa[0] == pytest.approx(0.25) and (np.diff(kappa) < 0).all() and kappa[-1] > 0
    below = bounds.curvature(np.linspace(-20, 0, 50))
    assert below[-1] == pytest.approx(0.25) and (np.diff(below) > 0).all() and below[0] > 0
    np.testing.assert_allclose(bounds.curvature([-1e-9, 1e-9, 2e-3, -2e-3]), 0.25, rtol=1e-3)
    assert bounds.curvature(bounds.log_odds([[3.0]])) == 0  # one token: nothing can change


@pytest.mark.parametrize(("top", "least"), [(0.1, 0.10), (0.25, 0.15), (1 / 3, 0.18), (0.4, 0.20)])
def test_curvature_of_undecided_contexts_is_what_a_search_finds(top, least):
    kappa = bounds.curvature(np.log(top / (1 - top)))
    assert least <= kappa < least + 0.006
    random = np.random.default_rng(0)
    p = np.append(np.full(int(1 / top), top), 1 - top * int(1 / top))
    logits = np.log(p[p > 1e-9])
    change = random.standard_normal((4000, len(logits))) * random.uniform(0.1, 8, (4000, 1))
    raised = np.linspace(0.1, 12, 200)[:, None] * (np.arange(len(logits)) == 0)  # one token of largest probability
    parts = bounds.divergences(np.tile(logits, (4200, 1)), np.vstack([change, raised]))
    ratio = parts["divergence"] / (4 * parts["norm"])
    assert ratio.max() <= kappa * (1 + 1e-9) and ratio.max() > 0.97 * kappa


@pytest.mark.parametrize("tokens", [2, 3, 4, 10, 1000])
def test_curvature_is_attained_by_equal_tokens(tokens):
    change = 2 * np.log(tokens - 1) * (np.arange(tokens) == 0) + 1e-2 * (tokens == 2) * np.arange(tokens)
    parts = bounds.divergences(np.zeros((1, tokens)), change[None])
    np.testing.assert_allclose(parts["divergence"], parts["confident_norm"], rtol=1e-5)


def test_logits_far_apart_keep_their_divergence():
    logits = np.array([[500.0, -500.0]])
    parts = bounds.divergences(logits, logits[:, ::-1] - logits)
    for name in ("divergence", "bennett", "confident_norm", "confident_range"):
        np.testing.assert_allclose(parts[name], 1000, rtol=1e-12, err_msg=name)
    assert all(np.isfinite(value).all() for value in parts.values())


@pytest.mark.parametrize("gap", [1.0, 30.0, 40.0, 300.0])
def test_a_swap_of_two_tokens_attains_the_constant_however_sure(gap):
    logits = np.array([[gap, 0.0]])
    parts = bounds.divergences(logits, logits[:, ::-1] - logits)
    np.testing.assert_allclose(parts["divergence"], gap * np.tanh(gap / 2), rtol=1e-12)
    np.testing.assert_allclose(parts["divergence"], parts["confident_norm"], rtol=1e-12)


@pytest.mark.parametrize("size", [1e-2, 1e-5, 1e-8, 1e-12, 1e-30])
def test_small_changes_keep_their_digits(size):
    logits, change = np.random.default_rng(0).standard_normal((2, 5, 40))
    parts = bounds.divergences(logits, size * change)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    centred = change - (p * change).sum(1, keepdims=True)
    second, third = (p * centred**2).sum(1) / 2, (p * centred**3).sum(1) / 6
    np.testing.assert_allclose(parts["divergence"], size**2 * (second + size * third), rtol=1e-13 + 4 * size**2)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.floats(1e-9, 600), st.floats(1e-9, 600), st.integers(0, 10_000))
def test_divergences_agree_with_many_digits(vocabulary, scale, size, seed):
    random = np.random.default_rng(seed)
    z, d = scale * random.standard_normal(vocabulary), size * random.standard_normal(vocabulary)
    with mpmath.workdps(700):
        weight = [mpmath.exp(mpmath.mpf(float(a))) for a in z]
        p = [a / sum(weight) for a in weight]
        mean = sum(a * mpmath.mpf(float(b)) for a, b in zip(p, d, strict=True))
        right = mpmath.log(sum(a * mpmath.exp(mpmath.mpf(float(b)) - mean) for a, b in zip(p, d, strict=True)))
    parts = bounds.divergences(z[None], d[None])
    np.testing.assert_allclose(parts["divergence"], float(right), rtol=1e-11, atol=1e-30)
    for name in ABOVE:
        rounding = 1e-15 * size if name == "extreme" else 1e-30  # of max D - m, where the largest p is 1
        assert (parts["divergence"] <= parts[name] * (1 + 1e-10) + rounding).all(), name
    assert (parts["floor"] <= parts["divergence"] * (1 + 1e-10) + 1e-30).all()


def test_directions_that_states_hardly_visit_still_count():
    small = 3e-7
    task = problem([[1, small], [1, -small]], [[0.9, 0.1], [0.1, 0.9]])
    head = np.array([[0, 1 / small], [0, -1 / small]])
    parts = bounds.divergences(task.states @ head.T, -task.states @ head.T)
    assert parts["divergence"].mean() == pytest.approx(0.3278, abs=1e-3)
    np.testing.assert_allclose(bounds.theorem(head, task.states)["squared"][:2], [0.5, 0], atol=1e-9)
    left, right = bounds.factors(head, rows=task.rows)
    np.testing.assert_allclose(task.states @ (left @ right).T, task.states @ head.T, rtol=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 20), st.floats(0.1, 8), st.floats(1e-3, 8), st.integers(0, 10_000))
def test_frequencies_bound_a_divergence_from_both_sides(vocabulary, scale, size, seed):
    random = np.random.default_rng(seed)
    logits, change = scale * random.standard_normal((15, vocabulary)), size * random.standard_normal((15, vocabulary))
    frequency = random.dirichlet(np.ones(vocabulary)) + 1e-9
    frequency /= frequency.sum()
    parts = bounds.divergences(logits, change, frequency)
    slack = 1e-12 + 1e-9 * parts["divergence"]
    assert (parts["below"] <= parts["floor"] + slack).all() and (parts["bennett"] <= parts["above"] + slack).all()
    before = bounds.softmax(logits, frequency)
    share = before.p.numpy() / frequency
    np.testing.assert_allclose([before.least, before.most], [share.min(1), share.max(1)], rtol=1e-9)
    np.testing.assert_allclose(parts["unigram"] * 2, [np.cov(d, aweights=frequency, ddof=0) for d in change], rtol=1e-6)


def test_a_change_that_is_nothing_but_rounding_has_a_sandwich_too():
    logits = np.log(np.array([[0.29, 0.6, 0.06, 0.05]] * 4))
    frequency = np.array([0.26, 0.5, 0.13, 0.11])
    for scale in (0.0, 1e-17, 1e-16):
        change = scale * np.random.default_rng(0).standard_normal((4, 4)) + 1e-16
        found = bounds.divergences(logits, change, frequency)
        assert all((found[name] >= 0).all() for name in ("unigram", "below", "divergence", "above"))


@few
@given(problems, st.data())
def test_tails_in_the_frequency_metric_bound_the_best_head_from_both_sides(task, data):
    rank = data.draw(st.integers(0, min(task.labels.shape[1], task.states.shape[1])))
    star = optimum(task)
    z, least = task.states @ star.T, loss(task, star)
    pi = task.weights @ bounds.softmax(z).p.numpy()
    before = bounds.softmax(z, pi)
    rows = {
        name: ratio.sqrt().numpy()[:, None] * task.rows
        for name, ratio in {"below": before.least, "above": before.most}.items()
    }
    tails = {name: bounds.tail(star, frequency=pi, rows=each)[rank] for name, each in rows.items()}
    left, right = bounds.factors(star, frequency=pi, rows=rows["above"])
    cut = bounds.divergences(z, task.states @ (left[:, :rank] @ right[:rank] - star).T, pi)
    best = best_head(task, rank, star, starts=1)
    moved = bounds.divergences(z, task.states @ (best.head - star).T, pi)
    gap, grow = best.loss - least, bounds.psi(cut["extreme"].max()).item()
    closed = np.log1p(grow * tails["above"])
    assert task.weights @ cut["divergence"] <= task.weights @ cut["above"] + 1e-9 <= closed + 2e-9
    shrink = bounds.psi(-np.sqrt(8 * moved["range"].max())).item()
    assert shrink * tails["below"] <= task.weights @ moved["below"] + 1e-9 <= gap + 2e-9


@few
@given(problems, st.booleans(), st.integers(0, 100), st.data())
def test_a_bound_without_an_optimum_holds_at_any_head_for_any_labels(task, hard, seed, data):
    if hard:
        one = np.eye(task.labels.shape[1])[task.labels.argmax(1)]
        task = problem(task.states, one, task.weights)
    head = random_head(task, seed)
    rank = data.draw(st.integers(0, min(head.shape)))
    left, right, bound = bounds.without_optimum(head, gradient(task, head), task.rows)
    rise = loss(task, left[:, :rank] @ right[:rank]) - loss(task, head)
    assert rise <= bound[rank] + 1e-8
    size = max(head.shape)
    drawn = np.random.default_rng(seed).standard_normal((2, size, size))
    other = drawn[0][: head.shape[0], :rank] @ drawn[1][:rank, : head.shape[1]]
    half, inverse = bounds.root_of(task.rows)
    step = (other - head - (other - head).mean(0)) @ half + 2 * gradient(task, head) @ inverse
    quadratic = np.square(step).sum() / 4 - np.square(gradient(task, head) @ inverse).sum()
    assert bound[rank] <= quadratic + 1e-8  # no head of that rank has a smaller right-hand side


def test_without_an_optimum_is_the_squared_tail_at_one():
    task = draw(6, 4, 50, seed=2)
    star = optimum(task)
    _, _, bound = bounds.without_optimum(star, gradient(task, star), task.rows)
    np.testing.assert_allclose(bound, bounds.theorem(star, task.states)["squared"], atol=1e-7)


def test_the_optimum_is_found_with_more_dimensions_than_contexts():
    task = draw(7, 8, 5, temperature=2.770543464247039, skew=0, seed=153)
    star = optimum(task)
    assert np.linalg.norm(gradient(task, star)) < 1e-9 * np.linalg.norm(gradient(task, 0 * star))


def test_labels_with_zeros_may_have_a_finite_optimum():
    states, labels = np.array([[1.0], [2.0], [3.0]]), np.eye(2)[[0, 1, 0]]
    task = problem(states, labels)
    losses_at = [loss(task, scale * np.array([[1.0], [-1.0]])) for scale in np.linspace(-5, 5, 1001)]
    assert 0 < int(np.argmin(losses_at)) < 1000  # between the ends: the labels can't be told apart
    with pytest.raises(ValueError, match="may lie at infinity"):
        optimum(task)


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
        (lambda: bounds.divergences([0.0, 1.0], [0.0, 1.0]), "one row a context"),
        (lambda: bounds.divergences([[0.0, np.inf]], [[0.0, 1.0]]), "logits hold NaN"),
        (lambda: bounds.divergences([[0.0, 1.0]], [[0.0, np.nan]]), "the change of the logits holds NaN"),
        (lambda: bounds.divergences([[0.0, 1.0]], [[0.0, 1.0]], [1.0, 0.0]), "positive numbers of sum 1"),
        (lambda: bounds.curvature([np.nan]), "NaN"),
        (lambda: bounds.factors(np.ones((3, 2)), np.eye(2), rows=np.ones((4, 2))), "pass one of them"),
        (lambda: bounds.factors(np.ones((3, 2)), rows=np.ones((4, 3))), "as wide as the head"),
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


@pytest.fixture
def small_model(tmp_path, monkeypatch):
    """A tiny transformer, its folder, and the texts of its corpus, which differ between the two parts."""
    torch.manual_seed(0)
    backend = Tokenizer(models.WordLevel({f"w{index}": index for index in range(97)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w0").save_pretrained(tmp_path / "model")
    config = GPTNeoXConfig(
        vocab_size=97, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    model = GPTNeoXForCausalLM(config)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    model.save_pretrained(tmp_path / "model")
    monkeypatch.setenv("BOOK_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    parts = {part: random.integers(1, 97, 1025).astype(np.int32) for part in ("train", "validation")}
    monkeypatch.setattr(corpora, "tokens", lambda name, tokenizer, part: parts[part])
    return model.eval(), str(tmp_path / "model"), parts


def test_a_real_head_is_cut_on_one_text_and_measured_on_another(small_model):
    model, where, parts = small_model
    real = theory.real_head(where, "wiki-en", 1024, [2, 8, 16], 32, 512, every=1)
    assert list(real.groupby("sample").window.nunique()) == [16, 16]
    whole = theory.real_head(where, "wiki-en", 1024, [2, 8, 16], 32, 1024, every=1)
    for sample, part in (("held out", "validation"), ("in sample", "train")):
        inputs, labels = (torch.from_numpy(parts[part].astype(np.int64))[cut] for cut in (slice(-1), slice(1, None)))
        with torch.no_grad():
            own = torch.nn.functional.cross_entropy(model(inputs.view(-1, 32)).logits.flatten(0, 1), labels)
        assert whole[whole["sample"] == sample]["loss"].mean() == pytest.approx(float(own), abs=1e-4)
    fitted = theory.over_windows(whole, "in sample").set_index(["truncation", "rank"])
    tested = theory.over_windows(whole).set_index(["truncation", "rank"])
    close = {"norm": "quarter_tail", "uniform": "uniform_tail", "unigram": "unigram_tail"}  # all of what set them
    for cut in ("whitened", "by frequency"):
        for name, closed in close.items():
            np.testing.assert_allclose(fitted.loc[cut][name], fitted.loc[cut][closed], rtol=1e-3, atol=1e-6)
    rise = fitted.loc["downhill"]
    assert (rise.rise <= rise.free + 1e-6).all() and rise.rise[16] < 0  # the gradient is not zero
    for frame in (fitted, tested):
        cut = frame.drop("downhill")
        assert (cut.below <= cut.divergence + 1e-9).all() and (cut.divergence <= cut.above + 1e-9).all()
        assert (cut.divergence_low <= cut.divergence).all() and (cut.divergence[:, 16] < 1e-9).all()
    best = fitted.loc["by frequency"]
    assert (best.below_tail <= best["local"]).all()
    gain = theory.gains(whole[whole["rank"] < 16])
    assert (gain.low <= gain.gain).all() and (gain.gain <= gain.high).all()


@pytest.mark.parametrize(
    ("contexts", "ranks", "message"),
    [(1000, [4], "of 1000 tokens 992 fill windows"), (4096, [4], "of 4096 tokens 1024 fill"), (512, [17], "in 1..16")],
)
def test_a_real_head_reads_all_contexts_or_refuses(small_model, contexts, ranks, message):
    with pytest.raises(ValueError, match=message):
        theory.real_head(small_model[1], "wiki-en", contexts, ranks, 32, 512)
