"""Spectrum of a language-model head (Section 4.2): singular values, their entropy, and what a direction removed leaves.

A head is a (V, d) matrix with V of the order of 1e5 and d of 1e3. It is widened to float64 a block of rows at a time.
"""

from collections.abc import Iterator

import numpy as np
import torch

from lib.measure.arrays import Array, floats, numbers, scaled, unscaled

ROWS = 2048  # rows widened at a time: 8 MB at d = 512
GUARD = 1e-8  # smallest ratio of eigenvalues read off a Gram matrix, i.e. a condition number of 1e4
FLOOR = 1e-14  # ratio of eigenvalues below which a Gram matrix holds rounding errors only
ROUNDING = 8 * np.finfo(np.float64).eps  # 1.8e-15: what rounding leaves of a column that a projection takes away


def singular_values(weight: Array) -> np.ndarray:
    """Singular values of a head, in descending order.

    ``weight`` is (V, d) of any float type and any size; the result is (d,) float64, zero beyond the rank up to
    rounding. A Gram matrix squares the condition number k, so that a singular value read off it has a relative error
    of about 1e-15 k^2: 1e-7 at the guard. Beyond it the head is first multiplied by a (d, d) matrix that makes its
    columns nearly orthonormal, which brings the error to about 1e-16 k. Raises ValueError unless ``weight`` is a
    finite, non-empty matrix.
    """
    weight, exponent = scaled(_matrix(weight))
    return unscaled(_singular_values(weight), exponent)


def principal(weight: Array, count: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ``count`` largest singular triplets: left (V, count), sigma (count,), right (d, count), all float64.

    Each left vector has a mean of at least zero. Raises ValueError unless 1 <= count <= rank of ``weight`` (V, d).
    """
    weight, exponent = scaled(_matrix(weight))
    eigenvalues, vectors = np.linalg.eigh(_gram(weight).cpu().numpy())
    rank = int((eigenvalues > max(0.0, FLOOR * eigenvalues[-1])).sum())
    if rank == 0:
        raise ValueError("weight is all zero, so it has no singular directions: pass a head with entries.")
    if not 1 <= count <= rank:
        raise ValueError(f"count is {count}, but this head has {rank} directions: ask for 1 to {rank} of them.")
    sigma, right = np.sqrt(eigenvalues[: -count - 1 : -1]), vectors[:, : -count - 1 : -1]
    basis = torch.from_numpy(right / sigma)
    left = torch.cat([block @ basis.to(block.device) for block in _blocks(weight)]).cpu().numpy()
    sign = np.where(left.mean(0) < 0, -1.0, 1.0)
    return left * sign, unscaled(sigma, exponent), right * sign


def singular_entropy(sigma: Array, power: float = 2) -> float:
    """KL divergence in nats of the normalised spectrum p = sigma**power / sum from the uniform one: 0 to ln d.

    The paper's Figure 5 has power 2 (its text leaves the power open). Raises ValueError where ``sigma`` is not
    a spectrum: non-negative, finite and not all zero.
    """
    p = _shares(sigma, power)
    return float(np.log(len(p)) - _entropy(p))


def effective_rank(sigma: Array, power: float = 2) -> float:
    """exp of the entropy of p = sigma**power / sum, between 1 and d; equal to d exp(-singular_entropy)."""
    return float(np.exp(_entropy(_shares(sigma, power))))


def w_error(sigma: Array) -> np.ndarray:
    """Relative Frobenius error of the best approximation of each rank r = 0..d (Lemma 5.2): (d + 1,), from 1 to 0.

    ``sigma`` is (d,), descending. Raises ValueError where it is not.
    """
    sigma = _spectrum(sigma)
    if (np.diff(sigma) > 0).any():
        raise ValueError("sigma is not in descending order: pass the result of singular_values.")
    tails = np.cumsum((sigma[::-1] / sigma[0]) ** 2)[::-1]
    return np.sqrt(np.append(tails, 0.0) / tails[0])


def centre(weight: Array) -> Array:
    """The head (V, d) minus its mean row: every logit moves by the same amount, so the softmax is the same.

    Returns the kind of array that came in, at least as wide as float32; zero where all rows are equal, see ``deflate``.
    """
    weight = _matrix(weight)
    return deflate(weight, np.ones(len(weight)))


def deflate(weight: Array, direction: Array) -> Array:
    """The head (V, d) minus its projection on a (V,) direction over the vocabulary, such as the log frequency.

    Returns the kind of array that came in, at least as wide as float32. A column of which less than 1.8e-15 is left,
    the rounding of float64, lay along the direction, and becomes exactly zero: rounding errors have a spectrum too.
    Raises ValueError where the direction has another length than the vocabulary, is not finite, or is zero.
    """
    weight, exponent = scaled(_matrix(weight))
    device = weight.device if torch.is_tensor(weight) else "cpu"
    parts = _unit(direction, len(weight)).to(device).split(ROWS)
    share = torch.zeros(weight.shape[1], dtype=torch.float64, device=device)
    for _ in range(2):  # the second pass takes up the rounding errors of sums over the vocabulary
        left = (part @ (block - part[:, None] * share) for part, block in zip(parts, _blocks(weight), strict=True))
        share = share + sum(left)
    before, after = torch.zeros(2, weight.shape[1], dtype=torch.float64, device=device)
    wide = torch.float64 if weight.dtype.itemsize == 8 else torch.float32
    rest = torch.empty(weight.shape, dtype=wide, device=device)
    for part, block, place in zip(parts, _blocks(weight), rest.split(ROWS), strict=True):
        left = block - part[:, None] * share
        before += block.square().sum(0)
        after += left.square().sum(0)
        place.copy_(left)
    if not torch.isfinite(before).all():
        raise ValueError("weight holds NaN or infinite entries: check the checkpoint that it comes from.")
    rest[:, after <= ROUNDING**2 * before] = 0
    rest = unscaled(rest, exponent)
    return rest if torch.is_tensor(weight) else rest.numpy()


def gram(weight: Array) -> torch.Tensor:
    """W^T W of a head (V, d), float64, on the head's device. Those of blocks of rows add up to that of the whole.

    Raises ValueError unless it is finite, or where its entries would leave the range of float64.
    """
    weight, exponent = scaled(_matrix(weight))
    if exponent:
        raise ValueError(
            f"weight reaches 2**{exponent}, whose square float64 cannot hold: multiply it by 2.0**{-exponent}."
        )
    return _gram(weight)


def _matrix(weight: Array) -> np.ndarray | torch.Tensor:
    weight = floats(weight, "weight")
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"weight has shape {tuple(weight.shape)}: pass a (V, d) matrix, one row for each token.")
    return weight


def _unit(direction: Array, rows: int) -> torch.Tensor:
    direction = numbers(direction, "direction")
    largest = np.abs(direction).max(initial=0)
    if direction.shape != (rows,) or not 0 < largest < np.inf:
        raise ValueError(f"direction has shape {direction.shape}: pass {rows} finite numbers, not all zero.")
    unit = torch.from_numpy(direction / largest)
    return unit / unit.norm()


def _singular_values(weight: np.ndarray | torch.Tensor) -> np.ndarray:
    first = _gram(weight)
    eigenvalues = np.linalg.eigvalsh(first.cpu().numpy())
    if eigenvalues[0] > GUARD * eigenvalues[-1]:
        return np.sqrt(eigenvalues[::-1])
    if eigenvalues[-1] <= 0:
        return np.zeros(weight.shape[1])
    eigenvalues, vectors = np.linalg.eigh(first.cpu().numpy())
    scale = np.sqrt(eigenvalues.clip(min=FLOOR * eigenvalues[-1]))
    shares, rotation = np.linalg.eigh(_gram(weight, vectors / scale).cpu().numpy())  # near the identity
    return np.linalg.svd(np.sqrt(shares.clip(min=0))[:, None] * rotation.T * scale, compute_uv=False)


def _gram(weight: np.ndarray | torch.Tensor, basis: np.ndarray | None = None) -> torch.Tensor:
    """Gram matrix of W, or of W times a (d, k) basis."""
    width = weight.shape[1] if basis is None else basis.shape[1]
    if torch.is_tensor(weight) and weight.device.type != "cpu":
        basis = None if basis is None else torch.from_numpy(basis).to(weight.device)
        total = torch.zeros(width, width, dtype=torch.float64, device=weight.device)
        for block in _blocks(weight):
            rows = block if basis is None else block @ basis
            total.addmm_(rows.T, rows)
    else:  # NumPy takes the symmetric product, half the work
        total, room = np.zeros((width, width)), np.empty((ROWS, width))
        for block in _blocks(weight):
            rows = block.numpy() if basis is None else np.matmul(block.numpy(), basis, out=room[: len(block)])
            total += rows.T @ rows
        total = torch.from_numpy(total)
    if not torch.isfinite(total.diagonal()).all():
        raise ValueError("weight holds NaN or infinite entries: check the checkpoint that it comes from.")
    return total


def _blocks(weight: np.ndarray | torch.Tensor) -> Iterator[torch.Tensor]:
    """Blocks of rows in float64; the memory of one serves the next."""
    device = weight.device if torch.is_tensor(weight) else "cpu"
    room = torch.empty(min(ROWS, len(weight)), weight.shape[1], dtype=torch.float64, device=device)
    for start in range(0, len(weight), ROWS):
        rows = weight[start : start + ROWS]
        block = room[: len(rows)]
        if torch.is_tensor(rows):
            block.copy_(rows)
        else:
            np.copyto(block.numpy(), rows)
        yield block


def _spectrum(sigma: Array) -> np.ndarray:
    sigma = numbers(sigma, "sigma")
    if sigma.ndim != 1 or not np.isfinite(sigma).all() or (sigma < 0).any() or not (sigma > 0).any():
        raise ValueError("sigma is not a spectrum: pass a list of finite singular values >= 0, not all zero.")
    return sigma


def _shares(sigma: Array, power: float) -> np.ndarray:
    if not power > 0:
        raise ValueError(f"power is {power}: pass a positive one, 2 as in the paper's Figure 5 or 1.")
    sigma = _spectrum(sigma)
    p = (sigma / sigma.max()) ** power
    return p / p.sum()


def _entropy(p: np.ndarray) -> float:
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())
