"""Anisotropy of hidden states (Section 4.1): the mean cosine of pairs, from sums that stream, merge and resample.

With u = h / ||h||, the sum of cosines over ordered pairs i != j is ||sum_i u_i||^2 - N: one vector and one count hold
all that is needed, so a corpus is measured batch by batch, and an interval over documents costs no second pass.
"""

import numpy as np
import torch
from scipy.stats import t

from lib.measure.arrays import HIGH, LOW, Array, floats, scaled, unscaled
from lib.measure.spectra import ROUNDING, centre

ROWS = 512  # states widened to float64 at a time: 2 MB at d = 576, small enough to stay in cache


def anisotropy(states: Array) -> float:
    """Mean cosine over ordered pairs i != j of N states (N, d), in [-1, 1]; the paper's equation of Section 4.1.

    States are of any float type and any size. Raises ValueError with fewer than two states, a zero state or one that
    is not finite.
    """
    return float(from_sum(unit_sum(states), len(states)))


def unit_sum(states: Array) -> np.ndarray:
    """Sum of N states (N, d), each scaled to length one: (d,) float64. Sums of batches add up.

    Raises ValueError on a zero state or one that is not finite.
    """
    states = _matrix(states)
    total = 0.0
    for start in range(0, len(states), ROWS):
        block = states[start : start + ROWS]
        if not torch.is_tensor(block):
            block = torch.from_numpy(np.array(block, dtype=np.float64))
        block = block.to(torch.float64)
        norms = torch.linalg.vector_norm(block, dim=1)
        if not ((norms > LOW) & (norms < HIGH)).all():  # squares leave the range of float64, or a state has no length
            block = block / block.abs().amax(1, keepdim=True)
            norms = torch.linalg.vector_norm(block, dim=1)
        if not ((norms > 0) & torch.isfinite(norms)).all():
            raise ValueError("a state is zero or not finite, so it has no direction: leave out padding.")
        total = total + norms.reciprocal() @ block
    return total.cpu().numpy()


def from_sum(total: np.ndarray, count: np.ndarray | int) -> np.ndarray:
    """Anisotropy from sums of unit vectors (..., d) over ``count`` states (...,): the result is (...,).

    Raises ValueError where a count is below two.
    """
    count = np.asarray(count, dtype=np.float64)
    if (count < 2).any():
        raise ValueError("anisotropy is a mean over pairs: pass at least two states.")
    return (np.square(total).sum(-1) - count) / (count * (count - 1))


def interval(totals: np.ndarray, counts: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Anisotropy and its confidence interval over documents: estimate, low and high, each (...,).

    ``totals`` (documents, ..., d) holds one sum of unit vectors for each document, ``counts`` (documents,) its number
    of states. Documents are left out in turn (a jackknife): drawing them with replacement would pair a token with its
    own copy and bias the estimate upwards. Raises ValueError with fewer than three documents.
    """
    totals, counts = np.asarray(totals, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    documents = len(totals)
    if documents < 3 or counts.shape != (documents,):
        raise ValueError(f"{documents} documents with counts {counts.shape}: pass at least three, one count for each.")
    axes = tuple(range(1, totals.ndim - 1))
    estimate = from_sum(totals.sum(0), counts.sum())
    without = from_sum(totals.sum(0) - totals, np.expand_dims(counts.sum() - counts, axes))  # (documents, ...)
    spread = np.sqrt((documents - 1) * without.var(0)) * t.ppf(0.5 + level / 2, documents - 1)
    return estimate, estimate - spread, estimate + spread


def all_but_the_top(states: Array, count: int = 0) -> torch.Tensor:
    """States (N, d) minus their mean and their projection on the ``count`` leading principal directions, float64.

    A state of which only rounding errors are left is exactly zero. Source: Mu and Viswanath (2018). Raises ValueError
    unless 0 <= count < d and the states are finite.
    """
    states = torch.as_tensor(_matrix(states)).to(torch.float64)
    width = states.shape[1]
    if not 0 <= count < width:
        raise ValueError(f"count is {count}: remove 0 to {width - 1} directions of {width}.")
    states = centre(states)
    if count == 0:
        return states
    states, exponent = scaled(states)
    top = torch.linalg.eigh(states.T @ states).eigenvectors[:, -count:]
    rest = states - states @ top @ top.T
    before, after = (torch.linalg.vector_norm(part, dim=1) for part in (states, rest))
    rest[after <= width * ROUNDING * before] = 0
    return unscaled(rest, exponent)


def _matrix(states: Array) -> np.ndarray | torch.Tensor:
    states = floats(states, "states")
    if states.ndim != 2 or 0 in states.shape:
        raise ValueError(f"states have shape {tuple(states.shape)}: pass (N, d), one row for each token.")
    return states
