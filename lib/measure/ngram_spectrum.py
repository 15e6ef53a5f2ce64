"""Singular values of context-to-next-token matrices, most of whose rows hold a single token.

A row with one token adds to W^T W on the diagonal only. So a token that no other kind of row predicts is an
eigenvector, and the others fall into connected components, by the rows that hold several of them: the spectrum is the
union of small dense ones, exactly. Where a component is too large, stochastic Lanczos quadrature gives its density.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import LinearOperator

LARGEST_DENSE = 5000  # tokens in a component; a dense solve of so many takes 15 s on two cores


@dataclass(frozen=True)
class Spectrum:
    """Squared singular values in ascending order, and how many there are of each (fractions where estimated)."""

    squares: np.ndarray
    numbers: np.ndarray

    def w_error(self, ranks) -> np.ndarray:
        """Frobenius norm of what the best approximation of each rank leaves over, relative to the matrix's."""
        number, energy = (np.append(0, np.cumsum(x)) for x in (self.numbers, self.numbers * self.squares))
        left = np.interp(number[-1] - np.asarray(ranks, np.float64), number, energy)  # adding up from the small end
        return np.sqrt(left / energy[-1])

    def dimension(self, error: float = 0.1) -> float:
        """Rank at which the W-error falls to a value, between whole ranks by interpolation of its square."""
        number, energy = (np.append(0, np.cumsum(x)) for x in (self.numbers, self.numbers * self.squares))
        return float(number[-1] - np.interp(error**2 * energy[-1], energy, number))


def w_error(matrix, ranks, largest: int = LARGEST_DENSE, device: str = "cpu", seed: int = 0) -> np.ndarray:
    """Relative Frobenius error of the best approximation of a sparse (C, V) matrix at each rank, in [0, 1].

    Exact while the largest component has at most so many tokens, otherwise by `estimate` (its standard error is about
    1e-4 on five-gram matrices). Raises ValueError for a rank outside 0 to V or a matrix that is zero or not finite.
    Source: paper, section 5.1 and equation (5).
    """
    ranks = np.asarray(ranks)
    if ranks.min(initial=0) < 0 or ranks.max(initial=0) > matrix.shape[1]:
        raise ValueError(
            f"ranks from {ranks.min()} to {ranks.max()} don't fit a matrix of {matrix.shape[1]} columns: "
            f"expected 0 to {matrix.shape[1]}; leave the others out"
        )
    return np.mean([one.w_error(ranks) for one in spectra(matrix, largest, device, seed)], axis=0)


def spectra(
    matrix, largest: int = LARGEST_DENSE, device: str = "cpu", seed: int = 0, probes: int = 8, steps: int = 240
) -> list[Spectrum]:
    """The exact spectrum alone, or one estimate for each probe where a component has more than `largest` tokens."""
    gram, members = components(matrix)
    alone = np.array([tokens[0] for tokens in members if len(tokens) == 1], int)
    small = [tokens for tokens in members if 1 < len(tokens) <= largest]
    big = [tokens for tokens in members if len(tokens) > max(largest, 1)]
    blocks = [_eigenvalues(gram[tokens][:, tokens], device) for tokens in small]
    solved = np.concatenate([gram.diagonal()[alone], *blocks])
    if not big:
        return [_spectrum(solved)]
    rest = np.concatenate(big)
    return estimate(gram[rest][:, rest], probes, steps, seed, solved)


def components(matrix) -> tuple[sparse.csr_array, list[np.ndarray]]:
    """W^T W, (V, V) sparse, and its connected components as arrays of tokens, tokens never seen left out."""
    matrix = sparse.csr_array(matrix)
    energy = (matrix.data**2).sum()
    if not 0 < energy < np.inf:
        raise ValueError(f"a matrix of squared norm {energy} has no W-error: expected finite numbers, not all zero")
    gram = sparse.csr_array(matrix.T @ matrix)
    _, labels = connected_components(gram, directed=False)
    seen = np.flatnonzero(gram.diagonal() > 0)
    seen = seen[np.argsort(labels[seen], kind="stable")]
    return gram, np.split(seen, np.flatnonzero(np.diff(labels[seen])) + 1)


def null(matrix) -> Spectrum:
    """What token counts alone give: squared column norms in the place of squared singular values.

    Exact for one-hot rows; otherwise its W-error is never below the true one (Schur-Horn: the sum of the d largest
    diagonal entries of W^T W is at most that of its d largest eigenvalues).
    """
    return _spectrum(np.bincount(matrix.indices, weights=matrix.data**2, minlength=matrix.shape[1]))


def estimate(gram, probes: int = 8, steps: int = 240, seed: int = 0, solved: Sequence[float] = ()) -> list[Spectrum]:
    """Spectral densities of a symmetric (n, n) matrix or operator by stochastic Lanczos quadrature, one for each probe.

    Probes are random signs: on a nearly diagonal matrix such as W^T W they hardly differ. solved: eigenvalues of other
    blocks to be added. Their mean is the estimate, their spread over sqrt(probes) its standard error; too few steps
    show as a difference from half as many. Source: Ubaru, Chen and Saad 2017.
    """
    size = gram.shape[0]
    vectors = np.random.default_rng(seed).choice([-1.0, 1.0], (size, probes)) / np.sqrt(size)
    previous, beta = np.zeros_like(vectors), np.zeros(probes)
    diagonal, beside = np.zeros((steps, probes)), np.zeros((steps, probes))
    for step in range(steps):  # without reorthogonalisation: copies of an eigenvalue share its weight, sums are right
        image = gram @ vectors - beta * previous
        diagonal[step] = (image * vectors).sum(axis=0)
        image -= diagonal[step] * vectors
        beside[step] = beta = np.linalg.norm(image, axis=0)
        previous, vectors = vectors, image / np.maximum(beta, np.finfo(float).tiny)
    found = []
    for along, off in zip(diagonal.T, beside.T, strict=True):
        nodes, states = eigh_tridiagonal(along, off[:-1])
        found.append(_spectrum(np.append(solved, nodes), np.append(np.ones(len(solved)), size * states[0] ** 2)))
    return found


def gram_operator(matrix: LinearOperator) -> LinearOperator:
    """x -> W^T W x for a matrix that is only known by its products, as `estimate` takes it."""
    return matrix.H @ matrix


def _spectrum(squares, numbers=None):
    order = np.argsort(squares)
    numbers = np.ones(len(squares)) if numbers is None else numbers
    return Spectrum(np.maximum(squares[order], 0), numbers[order])


def _eigenvalues(gram, device):
    return torch.linalg.eigvalsh(torch.from_numpy(gram.toarray()).to(device)).cpu().numpy()
