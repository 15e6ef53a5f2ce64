"""Softmax regression on finitely many contexts: loss, derivatives, optimum, best head of low rank (Section 5.2).

A head W (V, d) gives context i the logits W x_i. Everything here is small, dense and in float64: it is the paper's
theory made finite, so that W* and the best rank-r head are numbers instead of assumptions.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg
from scipy.special import log_softmax, logsumexp, softmax

from .bounds import factors, root_of


@dataclass(frozen=True)
class Problem:
    """Contexts with soft labels; build it with `problem` or `draw`."""

    states: np.ndarray  # (N, d)
    labels: np.ndarray  # (N, V), rows sum to 1
    weights: np.ndarray  # (N,), positive; 1/N each makes the summed loss a mean

    @property
    def second_moment(self):
        """C = sum_i w_i x_i x_i^T, (d, d)."""
        return (self.weights[:, None] * self.states).T @ self.states

    @property
    def rows(self):
        """sqrt(w_i) x_i, (N, d): a root of the second moment in which small directions keep their digits."""
        return np.sqrt(self.weights)[:, None] * self.states


def problem(states, labels, weights=None) -> Problem:
    """Check and widen the parts of a problem.

    states (N, d); labels (N, V), non-negative, rows summing to 1; weights (N,) positive, 1/N each by default.
    Raises ValueError on shapes that do not fit, values that are not finite and rows that are no distributions.
    """
    states, labels = np.asarray(states, float), np.asarray(labels, float)
    if states.ndim != 2 or labels.ndim != 2 or len(states) != len(labels) or not len(states):
        raise ValueError(
            f"states {states.shape} and labels {labels.shape} must be (N, d) and (N, V), the same N > 0: "
            "pass one row a context."
        )
    weights = np.full(len(states), 1 / len(states)) if weights is None else np.asarray(weights, float)
    if weights.shape != (len(states),) or not (weights > 0).all():
        raise ValueError(f"weights must be {len(states)} positive numbers, one a context: drop unused contexts.")
    if not (np.isfinite(states).all() and np.isfinite(labels).all() and np.isfinite(weights).all()):
        raise ValueError("states, labels and weights must be finite, but one holds NaN or infinity: clean it.")
    if (labels < 0).any() or not np.allclose(labels.sum(1), 1, atol=1e-9):
        raise ValueError("each row of labels must be a distribution over tokens, non-negative of sum 1: scale it.")
    return Problem(states, labels, weights)


def draw(vocabulary, width, contexts, temperature=1.0, skew=1.0, misfit=0.5, seed=0) -> Problem:
    """A random problem with labels of full support.

    The first coordinate of each state is 1, so that a head has a bias; the rest is standard normal. The labels are a
    softmax of a random linear map over `temperature`, plus log frequencies -skew log(rank) (Zipf's law for skew 1),
    plus noise of standard deviation `misfit` that no linear head can fit.
    """
    if min(vocabulary, width, contexts) < 1 or temperature <= 0:
        raise ValueError("vocabulary, width and contexts must be at least 1 and temperature positive: change them.")
    random = np.random.default_rng(seed)
    states = np.hstack([np.ones((contexts, 1)), random.standard_normal((contexts, width - 1))])
    logits = states @ random.standard_normal((width, vocabulary)) / (temperature * np.sqrt(width))
    noise = misfit * random.standard_normal((contexts, vocabulary))
    return problem(states, softmax(logits - skew * np.log(np.arange(1, vocabulary + 1)) + noise, axis=1))


def extremal(height=0.1, separation=8.0, lever=5.0, share=5e-4) -> Problem:
    """Three tokens in two dimensions on which the bound for rank 1 is nearly the gap, so that 1/4 can't be lowered.

    Tokens a and b have logits +-height/2 in contexts (-1, +-1); token c is `separation` below them there and above
    them in rare contexts (1, +-lever), of total weight `share`, which keep the one direction of a rank-1 head from
    telling a and b apart too. Dropping that difference costs log cosh(height/2); the bound charges height^2 / 8.
    """
    states = np.array([[-1, 1], [-1, -1], [1, lever], [1, -lever]], float)
    head = np.array([[0, height / 2], [0, -height / 2], [separation, 0]])
    weights = np.array([1 - share, 1 - share, share, share]) / 2
    return problem(states, softmax(states @ head.T, axis=1), weights)


def losses(task: Problem, head) -> np.ndarray:
    """Cross-entropy of each context's labels under softmax(head x_i), (N,) nats."""
    return -(task.labels * log_softmax(task.states @ np.asarray(head).T, axis=1)).sum(1)


def loss(task: Problem, head) -> float:
    """The weighted sum of `losses`: the objective of Section 5.2 with soft labels."""
    return float(task.weights @ losses(task, head))


def gradient(task: Problem, head) -> np.ndarray:
    """sum_i w_i (softmax(W x_i) - q_i) x_i^T, (V, d)."""
    surplus = softmax(task.states @ np.asarray(head).T, axis=1) - task.labels
    return (task.weights[:, None] * surplus).T @ task.states


def hessian_product(task: Problem, head, direction) -> np.ndarray:
    """sum_i w_i (diag p_i - p_i p_i^T) M x_i x_i^T for a direction M, (V, d)."""
    p, change = softmax(task.states @ np.asarray(head).T, axis=1), task.states @ np.asarray(direction).T
    pull = p * (change - (p * change).sum(1, keepdims=True))
    return (task.weights[:, None] * pull).T @ task.states


def optimum(task: Problem, l2=0.0) -> np.ndarray:
    """W*, the centred minimiser of the loss plus l2/2 ||W||^2, by L-BFGS and then Newton steps; (V, d).

    A finite W* is sure to exist when each label has full support, or when l2 is positive; otherwise it may or may not,
    and this raises ValueError. Columns of W* sum to 0 (the softmax cannot see the rest) and its rows lie in the span of
    the states. Raises if the gradient does not vanish to 1e-9 of its size at W = 0.
    """
    if l2 == 0 and (task.labels <= 0).any():
        raise ValueError("some labels are zero, so W* may lie at infinity: give them some probability or set l2 > 0.")
    shape = task.labels.shape[1], task.states.shape[1]

    def value(flat):
        head = flat.reshape(shape)
        z = task.states @ head.T
        total = task.weights @ (logsumexp(z, axis=1) - (task.labels * z).sum(1)) + l2 / 2 * (head**2).sum()
        return total, (gradient(task, head) + l2 * head).ravel()

    def curvature(flat, direction):
        direction = direction.reshape(shape)
        unseen = direction - (direction - direction.mean(0)) @ span  # of curvature 0, in which rounding would pile up
        return (hessian_product(task, flat.reshape(shape), direction) + l2 * direction + unseen).ravel()

    half, inverse = root_of(task.rows)
    span, start = half @ inverse, np.zeros(shape).ravel()
    size = np.linalg.norm(value(start)[1]) or 1.0
    head = minimize(
        value, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "gtol": 1e-6 * size, "ftol": 0}
    ).x
    for _ in range(20):
        slope = value(head)[1]
        if np.linalg.norm(slope) <= 1e-11 * size:
            break
        step = LinearOperator((head.size, head.size), matvec=partial(curvature, head))
        head = head - cg(step, slope, rtol=1e-10, maxiter=10 * head.size)[0]
    if not np.linalg.norm(value(head)[1]) <= 1e-9 * size:
        raise ValueError("the optimum was not reached in double precision: raise the temperature or set l2 > 0.")
    head = head.reshape(shape)
    return head - head.mean(0)


@dataclass(frozen=True)
class LowRank:
    """The best head of a rank that was found, and every attempt at it."""

    head: np.ndarray  # (V, d)
    loss: float
    attempts: pd.DataFrame  # solver, start, loss

    @property
    def agreement(self) -> float:
        """Share of the attempts (the untouched truncation apart) that end within 1e-6 nats of the best."""
        tried = self.attempts[self.attempts.solver != "truncation"]
        return float((tried.loss <= self.loss + 1e-6).mean())


def best_head(task: Problem, rank, reference, starts=4, seed=0) -> LowRank:
    """Search the non-convex set of heads of at most `rank` for the smallest loss.

    Attempts: the whitened truncation of `reference` (V, d), as it stands; majorisation from there, each step of which
    is the proof of the sharper theorem repeated: minimise <G, M> + 1/4 sum_i w_i ||M x_i||^2 over heads W + M of that
    rank, which a truncated SVD does exactly; L-BFGS on two factors from both, and from `starts` random draws.
    """
    shape = task.labels.shape[1], task.states.shape[1]
    if not 0 <= rank <= min(shape):
        raise ValueError(f"rank {rank} is outside 0..{min(shape)}: a head here is {shape[0]} by {shape[1]}.")
    left, right = factors(reference, rows=task.rows)
    truncation = left[:, :rank] @ right[:rank]
    majorised = _majorise(task, truncation, rank)
    found = [("truncation", "truncation", truncation), ("majorise", "truncation", majorised)]
    if rank:
        random = np.random.default_rng(seed)
        drawn = [
            ("random", random.standard_normal((shape[0], rank)) @ random.standard_normal((rank, shape[1])) / rank)
            for _ in range(starts)
        ]
        for name, start in [("truncation", truncation), ("majorise", majorised), *drawn]:
            found.append(("factors", name, _descend(task, start, rank)))
    attempts = pd.DataFrame(
        [(solver, start, loss(task, head)) for solver, start, head in found], columns=["solver", "start", "loss"]
    )
    best = int(attempts.loss.argmin())
    return LowRank(found[best][2], float(attempts.loss[best]), attempts)


def _majorise(task, head, rank, steps=300):
    """From a head of at most that rank, each step lowers the loss or keeps it: the quadratic lies above the loss."""
    half, inverse = root_of(task.rows)
    for _ in range(steps):
        u, sigma, v = np.linalg.svd(head @ half - 2 * gradient(task, head) @ inverse, full_matrices=False)
        new = (u[:, :rank] * sigma[:rank]) @ v[:rank] @ inverse
        if np.abs(new - head).max() <= 1e-10:
            break
        head = new
    return head


def _descend(task, head, rank):
    """L-BFGS on W = A B from a balanced factorisation of a head."""
    (vocabulary, width), cut = head.shape, head.shape[0] * rank
    u, sigma, v = np.linalg.svd(head, full_matrices=False)
    scale = np.sqrt(sigma[:rank])
    start = np.concatenate([(u[:, :rank] * scale).ravel(), (scale[:, None] * v[:rank]).ravel()])

    def value(flat):
        a, b = flat[:cut].reshape(vocabulary, rank), flat[cut:].reshape(rank, width)
        slope = gradient(task, a @ b)
        return loss(task, a @ b), np.concatenate([(slope @ b.T).ravel(), (a.T @ slope).ravel()])

    flat = minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "gtol": 1e-9, "ftol": 1e-15}).x
    return flat[:cut].reshape(vocabulary, rank) @ flat[cut:].reshape(rank, width)
