"""The law L(N, T) = A / N^alpha + B / T^beta + E of loss with parameters N and tokens T (Hoffmann et al. 2022).

Section 3 of the paper keeps B, beta and E and fits A and alpha (`fit`); `fit_full` fits all five as Hoffmann et al. do.
A `Law` holds numbers, or columns of them: `bootstrap` returns one row of constants for each resampling of the runs, and
`predict` and `gap` then give one row for each, of which `interval` takes the quantiles.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

DELTA = 1e-3  # where Hoffmann et al.'s Huber loss turns from square to straight, in log loss


@dataclass(frozen=True)
class Law:
    """Constants of the law: numbers, or arrays of shape (draws, 1)."""

    A: float | np.ndarray
    alpha: float | np.ndarray
    B: float | np.ndarray
    beta: float | np.ndarray
    E: float | np.ndarray

    def predict(self, params, tokens):
        """Loss in nats per token at params (n,) and tokens (n,): (n,), or (draws, n). Section 3."""
        params, tokens = np.asarray(params, float), np.asarray(tokens, float)
        return self.A / params**self.alpha + self.B / tokens**self.beta + self.E

    def gap(self, params, tokens, loss):
        """How far a loss lies above the law, as a fraction of the law: (n,), or (draws, n). Figure 1 right."""
        return np.asarray(loss, float) / self.predict(params, tokens) - 1


def fit(params, tokens, loss, B=410.7, beta=0.28, E=1.69) -> Law:
    """Least squares on the loss over A and alpha, the other constants as given.

    params, tokens, loss: (n,) with n >= 2 distinct params. Raises ValueError on fewer. Section 3.
    """
    params, tokens, loss = _checked(params, tokens, loss, constants=2)
    if len(np.unique(params)) < 2:
        raise ValueError("alpha cannot be read off models of one size; give runs of at least two different params")
    excess = loss - B / tokens**beta - E
    centre = np.exp(np.log(params).mean())  # scaled powers keep A of order one, whatever alpha

    def scale(alpha):
        power = (params / centre) ** -alpha
        return power, excess @ power / (power @ power)

    def error(alpha):
        power, factor = scale(alpha)
        return np.sum((excess - factor * power) ** 2)

    grid = np.linspace(-1, 3, 81)  # least squares in alpha can have two valleys
    start = grid[np.argmin([error(alpha) for alpha in grid])]
    alpha = optimize.minimize_scalar(
        error, bounds=(start - 0.05, start + 0.05), method="bounded", options={"xatol": 1e-12}
    ).x
    return Law(float(scale(alpha)[1] * centre**alpha), float(alpha), B, beta, E)


def fit_full(params, tokens, loss, delta=DELTA) -> Law:
    """All five constants by the sum of Huber losses of log L, from a grid of starts.

    params, tokens, loss: (n,) with n >= 5 and at least three distinct params and tokens. Raises ValueError on fewer.
    Hoffmann et al. 2022, Section 3.3, equation 3: logsumexp(a - alpha log N, b - beta log T, e).
    """
    params, tokens, loss = _checked(params, tokens, loss, constants=5)
    if min(len(np.unique(params)), len(np.unique(tokens))) < 3:
        raise ValueError("five constants need runs of at least three different params and three different tokens")
    data = _centred(params, tokens, loss)
    options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-10}
    ends = [
        optimize.minimize(_huber, start, (*data, delta), jac=True, method="L-BFGS-B", options=options)
        for start in _starts(*data, delta)
    ]
    return _law(min(ends, key=lambda end: end.fun).x, params, tokens)


def bootstrap(params, tokens, loss, full=False, draws=1000, seed=0, groups=None, **constants) -> Law:
    """The law of each of `draws` resamplings of the runs: a Law of columns (draws, 1).

    full: as `fit_full` (constants: delta), otherwise as `fit` (constants: B, beta, E). groups: (n,) names of what is
    drawn as one, where a run gives several points; every point by default. Raises ValueError as the fits do.
    """
    rng = np.random.default_rng(seed)
    names, group = np.unique(np.arange(np.size(loss)) if groups is None else groups, return_inverse=True)
    if full:
        weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)[:, group]
        return _bootstrap_full(params, tokens, loss, weights, **constants)
    params, tokens, loss = _checked(params, tokens, loss, constants=2)
    laws = []
    while len(laws) < draws:
        rows = np.concatenate([np.flatnonzero(group == drawn) for drawn in rng.integers(len(names), size=len(names))])
        if len(np.unique(params[rows])) > 1:
            laws.append(fit(params[rows], tokens[rows], loss[rows], **constants))
    columns = {name: np.array([[getattr(law, name)] for law in laws]) for name in ("A", "alpha")}
    return Law(B=laws[0].B, beta=laws[0].beta, E=laws[0].E, **columns)


def interval(draws, level=0.95):
    """Percentile interval over the first axis of resampled values: (draws, ...) -> (2, ...)."""
    return np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)


def _checked(params, tokens, loss, constants):
    params, tokens, loss = (np.asarray(values, float) for values in (params, tokens, loss))
    if params.ndim != 1 or not params.shape == tokens.shape == loss.shape:
        raise ValueError(
            "params, tokens and loss hold one number for each run; got shapes "
            f"{params.shape}, {tokens.shape}, {loss.shape}"
        )
    if not all(np.isfinite(values).all() and (values > 0).all() for values in (params, tokens, loss)):
        raise ValueError("params, tokens and loss must be finite and positive; leave failed runs out")
    if len(loss) < constants:
        raise ValueError(f"{len(loss)} runs cannot fix {constants} constants; give at least {constants} runs")
    return params, tokens, loss


def _centred(params, tokens, loss):
    """Logs, the first two about their means: the five constants are then of order one and nearly independent."""
    sizes, lengths = np.log(params), np.log(tokens)
    return sizes - sizes.mean(), lengths - lengths.mean(), np.log(loss)


def _law(theta, params, tokens):
    a, b, e, alpha, beta = np.moveaxis(theta, -1, 0)[..., None] if theta.ndim > 1 else map(float, theta)
    A, B = np.exp(a + alpha * np.log(params).mean()), np.exp(b + beta * np.log(tokens).mean())
    return Law(A, alpha, B, beta, np.exp(e))


def _starts(sizes, lengths, logs, delta, keep=4):
    """The best of a grid of exponents, each with its non-negative least squares of the loss."""
    starts = []
    for alpha, beta in itertools.product(np.geomspace(0.05, 1.5, 8), repeat=2):
        terms = np.stack([np.exp(-alpha * sizes), np.exp(-beta * lengths), np.ones_like(sizes)], axis=1)
        starts.append([*np.log(np.maximum(optimize.nnls(terms, np.exp(logs))[0], 1e-3)), alpha, beta])
    return sorted(starts, key=lambda start: _huber(start, sizes, lengths, logs, delta)[0])[:keep]


def _terms(theta, sizes, lengths, logs):
    """Residual of log L (..., n) and share of each of the three terms in L (..., n, 3), at theta (..., 5)."""
    a, b, e, alpha, beta = np.moveaxis(np.asarray(theta), -1, 0)[..., None]
    terms = np.stack([a - alpha * sizes, b - beta * lengths, e + 0 * sizes], axis=-1)
    total = special.logsumexp(terms, axis=-1)
    return total - logs, np.exp(terms - total[..., None])


def _jacobian(share, sizes, lengths):
    """Derivatives of the residuals by (a, b, e, alpha, beta): (..., n, 5)."""
    return np.concatenate([share, -share[..., :1] * sizes[:, None], -share[..., 1:2] * lengths[:, None]], axis=-1)


def _huber(theta, sizes, lengths, logs, delta):
    """Sum of Huber losses over delta, and its gradient."""
    residual, share = _terms(theta, sizes, lengths, logs)
    return (
        special.huber(delta, residual).sum() / delta,
        np.clip(residual / delta, -1, 1) @ _jacobian(share, sizes, lengths),
    )


def _bootstrap_full(params, tokens, loss, weights, delta=DELTA, iterations=60):
    """All resamplings at once by reweighted least squares, damped where a step would not descend.

    60 iterations bring the sum of Huber losses within 1e-6 of what L-BFGS finds, 50 times as fast.
    """
    law = fit_full(params, tokens, loss, delta)
    params, tokens, loss = _checked(params, tokens, loss, constants=5)
    sizes, lengths, logs = _centred(params, tokens, loss)
    draws = len(weights)
    theta = np.tile(
        [
            np.log(law.A) - law.alpha * np.log(params).mean(),
            np.log(law.B) - law.beta * np.log(tokens).mean(),
            np.log(law.E),
            law.alpha,
            law.beta,
        ],
        (draws, 1),
    )
    damping = np.full(draws, 1e-2)
    residual, share = _terms(theta, sizes, lengths, logs)
    value = (weights * special.huber(delta, residual)).sum(axis=1)
    for _ in range(iterations):
        slopes = _jacobian(share, sizes, lengths)
        weighted = slopes * (weights * np.minimum(1, delta / np.maximum(np.abs(residual), 1e-300)))[..., None]
        normal = np.swapaxes(weighted, 1, 2) @ slopes
        ridge = damping[:, None] * np.einsum("dkk->dk", normal) + 1e-15
        downhill = (weighted * residual[..., None]).sum(axis=1)
        trial = theta - np.linalg.solve(normal + ridge[..., None] * np.eye(5), downhill[..., None])[..., 0]
        trial_residual, trial_share = _terms(trial, sizes, lengths, logs)
        trial_value = (weights * special.huber(delta, trial_residual)).sum(axis=1)
        better = trial_value <= value
        theta[better], residual[better], share[better] = trial[better], trial_residual[better], trial_share[better]
        value, damping = np.where(better, trial_value, value), np.clip(damping * np.where(better, 0.2, 5), 1e-9, 1e6)
    return _law(theta, params, tokens)
