"""The lemmas and the theorem of Section 5.2 as functions that can be evaluated, and sharper ones (appendix A).

Everything rests on one identity. Replace a head W* by W and let D_i = (W - W*) x_i be the change of the logits of
context i, p_i its softmax under W*, q_i its labels. Then, exactly,

    loss(W) - loss(W*) = <gradient(W*), W - W*> + sum_i w_i KL(p_i || softmax(W x_i)),

and where W* minimises that same loss the first term is zero: the gap is a sum of divergences, of second order in D.
"""

from typing import Any

import numpy as np
import torch

Array = Any  # a list, a NumPy array or a tensor of any float dtype, on any device


def divergences(logits: Array, change: Array) -> dict[str, np.ndarray]:
    """KL(softmax(z) || softmax(z + D)) of each context and what bounds it, float64, nats, (N,) each.

    logits z and their change D are (N, V): pass a block of contexts at a time, for about six arrays of that size are
    held. With m the mean of D under p = softmax(z), R its range, |D| its norm less its mean entry:

    - `divergence`: log E_p exp(D - m), the value itself
    - `local`: Var_p(D) / 2, its second-order term: an approximation and no bound
    - `floor`: Var_p(D) psi(-R), below it, and `bennett`: log(1 + Var_p(D) psi(max D - m)), above it
    - `range`: R^2 / 8 (Hoeffding) and `confident_range`: kappa R^2 / 2
    - `norm`: |D|^2 / 4 and `confident_norm`: kappa |D|^2, kappa <= 1/4 depending on max p (see `curvature`)
    - `first_order`: sqrt(2) |D|, what Lemma 5.1 gives, and `extreme`: max D - m

    Raises ValueError where the shapes differ or an entry is not finite.
    """
    z, d = _wide(logits), _wide(change)
    if z.ndim != 2 or z.shape != d.shape:
        raise ValueError(f"logits {tuple(z.shape)} and change {tuple(d.shape)} must both be (N, V): one row a context.")
    log_p = z.log_softmax(-1)
    p = log_p.exp()
    d = d - _dot(p, d)[:, None]
    norm, (low, high) = _dot(d, d) - d.sum(-1).square() / d.shape[-1], d.aminmax(dim=-1)
    if not torch.isfinite(norm + log_p.amin(-1)).all():
        raise ValueError("logits or their change hold NaN or infinite entries: check the head and the states.")
    variance, spread = _dot(p.mul_(d), d), high - low
    kappa = torch.as_tensor(curvature(log_p.amax(-1).exp()), device=d.device)
    found = {
        "divergence": log_p.add_(d).sub_(high[:, None]).exp_().sum(-1).log() + high,
        "local": variance / 2,
        "floor": variance * psi(-spread),
        "bennett": (variance * psi(high)).log1p(),
        "range": spread.square() / 8,
        "confident_range": kappa * spread.square() / 2,
        "norm": norm / 4,
        "confident_norm": kappa * norm,
        "first_order": (2 * norm.clamp(min=0)).sqrt(),
        "extreme": high,
    }
    return {name: value.cpu().numpy() for name, value in found.items()}


def psi(u: Array) -> torch.Tensor:
    """(exp(u) - 1 - u) / u^2, increasing, 1/2 at 0: from a variance to a log-moment (Bennett; self-concordance)."""
    u = _wide(u)
    small = u.abs() < 1e-3  # below, the series errs by 1e-14, the quotient by 1e-10
    safe = torch.where(small, 1.0, u)
    return torch.where(small, 0.5 + u / 6 + u.square() / 24 + u**3 / 120, (safe.expm1() - safe) / safe.square())


def curvature(confidence: Array) -> np.ndarray:
    """Smallest kappa with KL(p || softmax(z + D)) <= kappa ||D||^2 for every D, given max p; 1/4 if max p <= 1/2.

    kappa = tanh(a/2) / (2a), a = log(max p / (1 - max p)) (Kearns and Saul's constant, by Jaakkola and Jordan's
    inequality; see the appendix). It is attained where V = 2 and D swaps the two probabilities. Raises ValueError
    unless 0 < max p <= 1.
    """
    top = _wide(confidence)
    if not ((top > 0) & (top <= 1 + 1e-12)).all():
        raise ValueError("confidence must hold the largest probability of each context, in (0, 1]: take it from p.")
    rest = (1 - top).clamp(2.0**-52, 0.5)  # rounding up `rest` only raises kappa
    a = ((1 - rest) / rest).log()
    safe = torch.where(a < 1e-6, 1.0, a)
    return torch.where(a < 1e-6, 0.25, (safe / 2).tanh() / (2 * safe)).cpu().numpy()


def root(moment: Array) -> tuple[np.ndarray, np.ndarray]:
    """C^(1/2) and its pseudo-inverse, for a positive semi-definite C (d, d), float64."""
    values, vectors = np.linalg.eigh(_wide(moment).cpu().numpy())
    if values[0] < -1e-9 * max(values[-1], 1e-300):
        raise ValueError("the second moment has a negative eigenvalue: pass sum of w_i x_i x_i^T.")
    kept = values > 1e-13 * values[-1]  # below lies rounding; such directions hold no state
    sigma = np.sqrt(np.where(kept, values, 0.0))
    inverse = np.divide(1.0, sigma, out=np.zeros_like(sigma), where=kept)
    return (vectors * sigma) @ vectors.T, (vectors * inverse) @ vectors.T


def factors(head: Array, moment: Array | None = None, frequency: Array | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Left (V, d) and right (d, d) such that left[:, :r] @ right[:r] is the best head of rank r, for every r at once.

    Best in sum_i w_i ||(W_r - W) x_i||^2 after centring, with `moment` C = sum_i w_i x_i x_i^T (d, d): Eckart and
    Young in the metric of the states; without it, in the Frobenius norm. With `frequency` (V,), rows count by it and
    the frequency-weighted mean row is the one taken away. The squared norms of the columns of left (weighted by
    frequency) are the squared singular values of W C^(1/2), descending. Raises ValueError on shapes that do not fit.
    """
    weight = _wide(head).cpu().numpy()
    if weight.ndim != 2:
        raise ValueError(f"head has shape {weight.shape}: pass a (V, d) matrix, one row for each token.")
    share = np.full(len(weight), 1.0) if frequency is None else _wide(frequency).cpu().numpy()
    if share.shape != weight.shape[:1] or not (share >= 0).all() or not 0 < share.sum() < np.inf:
        raise ValueError(f"frequency must be {len(weight)} non-negative numbers, one a token, not all zero: recount.")
    if moment is not None and tuple(np.shape(moment)) != (weight.shape[1],) * 2:
        raise ValueError(f"the second moment must be {weight.shape[1]} by {weight.shape[1]}, like the head's columns.")
    weight = weight - share @ weight / share.sum()
    half, inverse = (np.eye(weight.shape[1]),) * 2 if moment is None else root(moment)
    _, vectors = np.linalg.eigh(half @ (weight.T @ (share[:, None] * weight)) @ half)
    vectors = vectors[:, ::-1]
    return weight @ (half @ vectors), vectors.T @ inverse


def tail(head: Array, moment: Array | None = None) -> np.ndarray:
    """T_r = sum of the squared singular values past r of the centred W C^(1/2), for r = 0..d: (d + 1,)."""
    squares = np.square(factors(head, moment)[0]).sum(0)
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
    kappa = curvature(_wide(states @ head.T).softmax(-1).amax(-1))
    moments = [(states * (weights * c)[:, None]).T @ states for c in (np.ones(len(states)), kappa)]
    first_order = np.sqrt(2 * tail(head)) * (weights @ np.linalg.norm(states, axis=1))
    return {"paper": first_order, "squared": tail(head, moments[0]) / 4, "confident": tail(head, moments[1])}


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
