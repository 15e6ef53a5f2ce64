"""The lemmas and the theorem of Section 5.2 as functions that can be evaluated, and sharper ones (appendix A).

Everything rests on one identity. Replace a head W* by W and let D_i = (W - W*) x_i be the change of the logits of
context i, p_i its softmax under W*, q_i its labels. Then, exactly,

    loss(W) - loss(W*) = <gradient(W*), W - W*> + sum_i w_i KL(p_i || softmax(W x_i)),

and where W* minimises that same loss the first term is zero: the gap is a sum of divergences, of second order in D.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Array = Any  # a list, a NumPy array or a tensor of any float dtype, on any device


LARGE = 300.0  # a log-ratio whose exponential, times a variance, still fits float64
SMALL = 1e-3  # below, exp(u) - 1 - u is taken from its series, which errs by less than the difference does


@dataclass(frozen=True)
class Softmax:
    """Probabilities of a block of contexts, made once for all changes of their logits; float64."""

    log_p: torch.Tensor  # (N, V)
    p: torch.Tensor  # (N, V)
    log_odds: torch.Tensor  # (N,), log(max p / (1 - max p))
    frequency: torch.Tensor | None = None  # (V,), pi
    least: torch.Tensor | None = None  # (N,), the largest alpha with alpha pi <= p
    most: torch.Tensor | None = None  # (N,), the smallest rho with p <= rho pi


def softmax(logits: Array, frequency: Array | None = None) -> Softmax:
    """The softmax of logits (N, V), and how it compares with a frequency (V,) where one is given.

    Raises ValueError unless the logits are finite and have one row a context, and the frequency is positive, of sum 1.
    """
    z = _wide(logits)
    if z.ndim != 2:
        raise ValueError(f"logits have shape {tuple(z.shape)}: pass (N, V), one row a context.")
    log_p = z.log_softmax(-1)
    if not torch.isfinite(log_p.amin(-1)).all():
        raise ValueError("logits hold NaN or infinite entries: check the head and the states.")
    top, first = log_p.max(-1, keepdim=True)
    others = log_p.scatter(-1, first, -torch.inf).logsumexp(-1)  # 1 - max p would lose what is below 1e-16
    if frequency is None:
        return Softmax(log_p, log_p.exp(), top[:, 0] - others)
    pi = _wide(frequency).to(z.device)
    if pi.shape != z.shape[-1:] or not (pi > 0).all() or abs(float(pi.sum()) - 1) > 1e-6:
        raise ValueError(f"frequency must be {z.shape[-1]} positive numbers of sum 1, one a token: recount.")
    least, most = (part.exp() for part in (log_p - pi.log()).aminmax(dim=-1))
    return Softmax(log_p, log_p.exp(), top[:, 0] - others, pi, least, most)


def divergences(logits: Array | Softmax, change: Array, frequency: Array | None = None) -> dict[str, np.ndarray]:
    """KL(softmax(z) || softmax(z + D)) of each context and what bounds it, float64, nats, (N,) each.

    logits z, or their `softmax`, and the change D are (N, V): pass a block of contexts at a time, for about six arrays
    of that size are held. With m the mean of D under p = softmax(z), R its range, |D| its norm less its mean entry:

    - `divergence`: log E_p exp(D - m), the value itself
    - `local`: Var_p(D) / 2, its second-order term: an approximation and no bound
    - `floor`: Var_p(D) psi(-R), below it, and `bennett`: log(1 + Var_p(D) psi(max D - m)), above it
    - `range`: R^2 / 8 (Hoeffding) and `confident_range`: the same for a max p above 1/2 (Kearns and Saul)
    - `norm`: |D|^2 / 4 and `confident_norm`: kappa |D|^2, kappa <= 1/4 depending on max p (see `curvature`)
    - `first_order`: sqrt(2) |D|, what Lemma 5.1 gives, and `extreme`: max D - m
    - `uniform`: |D|^2 / (2 V), what `local` would be if all tokens were equally probable

    With a `frequency` pi (V,), positive and of sum 1, given here or to `softmax`, and alpha pi <= p <= rho pi with the
    best alpha and rho:

    - `unigram`: Var_pi(D) / 2, what `local` would be if each context had those probabilities
    - `below`: psi(-R) alpha Var_pi(D) and `above`: log(1 + psi(max D - m) rho Var_pi(D)), two sides of the sandwich

    Raises ValueError where the shapes differ or an entry is not finite.
    """
    before = logits if isinstance(logits, Softmax) else softmax(logits, frequency)
    d = _wide(change)
    if d.shape != before.p.shape:
        raise ValueError(
            f"logits {tuple(before.p.shape)} and change {tuple(d.shape)} must both be (N, V): one row a context."
        )
    d = d - _dot(before.p, d)[:, None]
    low, high = d.aminmax(dim=-1)
    if not torch.isfinite(high - low).all():
        raise ValueError("the change of the logits holds NaN or infinite entries: check the head and the states.")
    spread, variance = high - low, _dot(before.p * d, d)
    norm = (_dot(d, d) - d.sum(-1).square() / d.shape[-1]).clamp(min=0)
    log_variance = variance.log()
    if (rows := high > LARGE).any():  # what psi multiplies there may be below the smallest number
        log_variance[rows] = (before.log_p[rows] + 2 * d[rows].abs().log()).logsumexp(-1)
    found = {
        "divergence": _log_moment(before, d, high, spread),
        "local": variance / 2,
        "floor": variance * psi(-spread),
        "bennett": _softplus(log_variance + _log_psi(high)),
        "range": spread.square() / 8,
        "confident_range": _slope(before.log_odds.clamp(min=0)) * spread.square(),
        "norm": norm / 4,
        "confident_norm": _kappa(before.log_odds) * norm,
        "first_order": (2 * norm).sqrt(),
        "extreme": high,
        "uniform": norm / (2 * d.shape[-1]),
    }
    if before.frequency is not None:
        across = (d - (d @ before.frequency)[:, None]).square() @ before.frequency  # a difference could fall below 0
        found["unigram"], found["below"] = across / 2, psi(-spread) * before.least * across
        found["above"] = _softplus(before.most.log() + across.log() + _log_psi(high))
    return {name: value.cpu().numpy() for name, value in found.items()}


def _log_moment(before, d, high, spread):
    """log E_p exp(d) where E_p d = 0. A rounding error of that mean enters by its square only."""
    value = _dot(before.p, d.expm1().sub_(d)).log1p()
    if (rows := high > LARGE).any():
        log_square = 2 * d[rows].abs().log()
        value[rows] = _softplus((before.log_p[rows] + log_square + _log_psi(d[rows])).logsumexp(-1))
    if (rows := spread < SMALL).any():
        value[rows] = _dot(before.p[rows], d[rows].square() * psi(d[rows])).log1p()
    return value


def _log_psi(u):
    """log psi(u), also where psi is beyond the range of float64."""
    return torch.where(u > LARGE, u - 2 * u.abs().log(), psi(u.clamp(max=LARGE)).log())


def _softplus(u):
    return torch.logaddexp(u, torch.zeros_like(u))  # torch's own is the identity above 20


def psi(u: Array) -> torch.Tensor:
    """(exp(u) - 1 - u) / u^2, increasing, 1/2 at 0: from a variance to a log-moment (Bennett; self-concordance)."""
    u = _wide(u)
    small = u.abs() < SMALL  # below, the series errs by 1e-14, the quotient by 1e-10
    safe = torch.where(small, 1.0, u)
    return torch.where(small, 0.5 + u / 6 + u.square() / 24 + u**3 / 120, (safe.expm1() - safe) / safe.square())


def log_odds(logits: Array) -> np.ndarray:
    """log(max p / (1 - max p)) of each context of logits (N, V), (N,), with the rest summed over the other logits."""
    return softmax(logits).log_odds.cpu().numpy()


def curvature(log_odds: Array) -> np.ndarray:
    """A kappa <= 1/4 with KL(p || softmax(z + D)) <= kappa ||D||^2 for every D, given a = log(max p / (1 - max p)).

    kappa = tanh(a/2) / (4 a) (1 + min(1, exp(a))): Kearns and Saul's constant where max p >= 1/2, and smaller below.
    The book's letter for it is chi, since its kappa scales gradients.
    No smaller one holds for all p of that max p where it is at least 1/2 (two tokens) or 1/n (n equal tokens); see the
    appendix. Raises ValueError where an entry is NaN.
    """
    a = _wide(log_odds)
    if a.isnan().any():
        raise ValueError("log-odds hold NaN: take them from finite logits with log_odds.")
    return _kappa(a).cpu().numpy()


def _kappa(a):
    return _slope(a) * (1 + a.clamp(max=0).exp())


def _slope(a):
    """tanh(a/2) / (4 a), 1/8 at 0."""
    small = a.abs() < SMALL
    safe = torch.where(small, 1.0, a)
    return torch.where(small, (1 - a.square() / 12) / 8, (safe / 2).tanh() / (4 * safe))


def root(moment: Array) -> tuple[np.ndarray, np.ndarray]:
    """C^(1/2) and its pseudo-inverse, for a positive semi-definite C (d, d), float64.

    Directions with less than 1e-13 of the largest eigenvalue count as never visited: a sum of squares does not hold
    more. Where rare directions matter use `root_of`, which starts from the states.
    """
    values, vectors = np.linalg.eigh(_wide(moment).cpu().numpy())
    if values[0] < -1e-9 * max(values[-1], 1e-300):
        raise ValueError("the second moment has a negative eigenvalue: pass sum of w_i x_i x_i^T.")
    return _powers(np.sqrt(np.where(values > 1e-13 * values[-1], values, 0.0)), vectors.T)


def root_of(rows: Array) -> tuple[np.ndarray, np.ndarray]:
    """The same for C = Y^T Y, given the rows Y = sqrt(w_i) x_i (N, d): nothing is squared, so small directions stay."""
    _, sigma, vectors = _svd(rows := _wide(rows).cpu().numpy())
    return _powers(np.where(sigma > max(rows.shape) * np.finfo(float).eps * sigma[0], sigma, 0.0), vectors)


def _powers(sigma, vectors):
    inverse = np.divide(1.0, sigma, out=np.zeros_like(sigma), where=sigma > 0)
    vectors = vectors[: len(sigma)]
    return (vectors.T * sigma) @ vectors, (vectors.T * inverse) @ vectors


def _svd(matrix):
    """Singular values and all right vectors, by way of a triangular factor: matrices here are tall."""
    return np.linalg.svd(np.linalg.qr(matrix, mode="r"))


def factors(
    head: Array, moment: Array | None = None, frequency: Array | None = None, rows: Array | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Left (V, d) and right (d, d) such that left[:, :r] @ right[:r] is the best head of rank r, for every r at once.

    Best in sum_i w_i ||(W_r - W) x_i||^2 after centring, with `rows` sqrt(w_i) x_i (N, d), or with `moment`
    C = sum_i w_i x_i x_i^T (d, d) (see `root`): Eckart and Young in the metric of the states; without either, in the
    Frobenius norm. With `frequency` (V,), rows of the head count by it and the frequency-weighted mean row is the one
    taken away. The squared norms of the columns of left (weighted by frequency) are the squared singular values of
    W C^(1/2), descending. Raises ValueError on shapes that do not fit.
    """
    weight = _wide(head).cpu().numpy()
    if weight.ndim != 2:
        raise ValueError(f"head has shape {weight.shape}: pass a (V, d) matrix, one row for each token.")
    share = np.full(len(weight), 1.0) if frequency is None else _wide(frequency).cpu().numpy()
    if share.shape != weight.shape[:1] or not (share >= 0).all() or not 0 < share.sum() < np.inf:
        raise ValueError(f"frequency must be {len(weight)} non-negative numbers, one a token, not all zero: recount.")
    half, inverse = _metric(moment, rows, weight.shape[1])
    carried = (weight - share @ weight / share.sum()) @ half
    _, _, vectors = _svd(np.sqrt(share)[:, None] * carried)
    return carried @ vectors.T, vectors @ inverse


def _metric(moment, rows, width):
    if moment is not None and rows is not None:
        raise ValueError("both a second moment and rows are given: pass one of them.")
    if moment is not None and tuple(np.shape(moment)) != (width, width):
        raise ValueError(f"the second moment must be {width} by {width}, like the head's columns.")
    if rows is not None and (np.ndim(rows) != 2 or np.shape(rows)[1] != width):
        raise ValueError(f"rows have shape {tuple(np.shape(rows))}: pass (N, {width}), as wide as the head.")
    if rows is not None:
        return root_of(rows)
    return (np.eye(width),) * 2 if moment is None else root(moment)


def tail(
    head: Array, moment: Array | None = None, frequency: Array | None = None, rows: Array | None = None
) -> np.ndarray:
    """Sum of the squared singular values past r of the centred W C^(1/2), for r = 0..d: (d + 1,).

    What the best head of rank r loses in the metric of `factors`, which takes the same arguments: T_r without a
    frequency; with one (of sum 1) the mean over contexts of the variance of the logit error under it.
    """
    left = factors(head, moment, frequency, rows)[0]
    return tails(left, None if frequency is None else _wide(frequency).cpu().numpy())


def tails(left: np.ndarray, share: np.ndarray | None = None) -> np.ndarray:
    """Sums of squared columns of left (V, d) from r on, for r = 0..d, each row counted by `share` (V,): (d + 1,)."""
    squares = np.square(left).sum(0) if share is None else share @ np.square(left)
    return np.append(np.cumsum(squares[::-1])[::-1], 0.0)


def theorem(head: Array, states: Array, weights: Array | None = None) -> dict[str, np.ndarray]:
    """Bounds on loss(best head of rank r) - loss(W*) for r = 0..d, with every constant, (d + 1,) each.

    - `paper`: Theorem 5.3 with the constant of Lemma 5.1, sqrt(2) sum_i w_i ||x_i|| sqrt(tail of W*)
    - `squared`: T_r / 4, the tail of squared singular values of W* C^(1/2)
    - `confident`: the same tail with context i counted kappa_i <= 1/4 times instead

    head (V, d) must be where the gradient of the same sum vanishes; states (N, d); weights (N,), 1/N by default.
    """
    head, states = _wide(head).cpu().numpy(), _wide(states).cpu().numpy()
    weights = np.full(len(states), 1 / len(states)) if weights is None else _wide(weights).cpu().numpy()
    kappa = curvature(log_odds(states @ head.T))
    squared, confident = (
        tail(head, rows=np.sqrt(weights * c)[:, None] * states) for c in (np.full(len(states), 0.25), kappa)
    )
    first_order = np.sqrt(2 * tail(head)) * (weights @ np.linalg.norm(states, axis=1))
    return {"paper": first_order, "squared": squared, "confident": confident}


def without_optimum(head: Array, gradient: Array, rows: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left (V, d), right (d, d) and what bounds loss(left[:, :r] @ right[:r]) - loss(head) from above, (d + 1,).

    For any head (V, d), optimal or not, and any labels: gradient (V, d) is that of the loss at the head, rows (N, d)
    are sqrt(w_i) x_i. The bound is the tail of P W C^(1/2) - 2 G C^(-1/2) over 4, less |G C^(-1/2)|^2; it may be
    negative, for such a head also takes a step downhill.
    """
    head, gradient = _wide(head).cpu().numpy(), _wide(gradient).cpu().numpy()
    _, inverse = root_of(rows)
    step = gradient @ inverse
    left, right = factors(head - 2 * step @ inverse, rows=rows)
    return left, right, tails(left) / 4 - np.square(step).sum()


def slope(x: Array, y: Array) -> float:
    """Least-squares slope of log y on log x: the order of a power law."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape or len(x) < 2 or not ((x > 0).all() and (y > 0).all()):
        raise ValueError("a log-log slope needs at least two pairs of positive numbers: drop zeros first.")
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _dot(a, b):
    return torch.einsum("nv,nv->n", a, b)


def _wide(values: Array) -> torch.Tensor:
    return torch.as_tensor(values).detach().to(torch.float64)
