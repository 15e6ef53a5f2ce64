"""The best head of each rank in closed form: truncation of the spectrum, with or without the states it is applied to.

A rank-r head is W_r = A B with A (V, r) and B (r, d). Least squares on the logits of N states h has one solution for
all ranks at once: the first r columns of A and rows of B below.
"""

from dataclasses import dataclass

import torch

from lib.measure import spectra

GUARD = 1e-14  # share of the largest eigenvalue below which a direction carries no logits in float64


@dataclass(frozen=True)
class Factors:
    """A head as A B, in descending order of what each direction contributes to the logits."""

    out: torch.Tensor  # A: (V, d) float32
    into: torch.Tensor  # B: (d, d) float32
    sigma: torch.Tensor  # (d,) float64: norm of the logits that each direction carries, root mean square over states


def second_moment(states: torch.Tensor) -> torch.Tensor:
    """E[h h^T] of states (N, d), float64 (d, d). Raises ValueError where there are none, or one is not finite."""
    return spectra.gram(states) / len(states)


def factors(weight: torch.Tensor, moment: torch.Tensor | None = None) -> Factors:
    """Factors whose first r columns and rows minimise E |(W - A B) h|^2 over all A B of rank r, for every r.

    ``weight`` is (V, d). ``moment`` is the second moment (d, d) of the states; without it, every direction of the
    states counts the same, and the result is the truncated SVD (Lemma 5.2, Eckart-Young-Mirsky). With C = E[h h^T] the
    problem is that of W C^(1/2), whose left singular vectors U give W_r = U_r U_r^T W; the features B h then have
    E[(B h)(B h)^T] = I. No inverse of C is taken, so fewer states than dimensions are allowed.
    Raises ValueError where the moment is not a symmetric, non-negative (d, d) matrix.
    """
    gram = spectra.gram(weight)
    root = torch.eye(len(gram), dtype=gram.dtype, device=gram.device) if moment is None else _root(moment, gram)
    eigenvalues, vectors = torch.linalg.eigh(root @ gram @ root)
    eigenvalues, vectors = eigenvalues.flip(0).clamp(min=0), vectors.flip(1)
    used = eigenvalues > GUARD * eigenvalues[0]
    inverse = torch.where(used, 1 / eigenvalues.clamp(min=torch.finfo(gram.dtype).tiny), 0.0)
    mix = root @ vectors
    out = torch.cat([rows.double() @ mix for rows in weight.split(spectra.ROWS)]).float()
    return Factors(out, (inverse[:, None] * (mix.T @ gram)).float(), eigenvalues.sqrt())


def saved(vocabulary: int, width: int, rank: int) -> int:
    """Parameters that a rank-r head (V r + r d) saves against a full one (V d); negative where it costs more."""
    return vocabulary * width - rank * (vocabulary + width)


def _root(moment: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    moment = moment.to(gram)
    if moment.shape != gram.shape or (moment - moment.T).norm() > 1e-6 * moment.norm():
        raise ValueError(
            f"moment has shape {tuple(moment.shape)}: pass the symmetric {tuple(gram.shape)} second moment of the "
            "states that enter this head."
        )
    eigenvalues, vectors = torch.linalg.eigh(moment)
    if eigenvalues[0] < -1e-8 * eigenvalues[-1]:
        raise ValueError("moment has negative eigenvalues: pass E[h h^T] of real states, as second_moment gives it.")
    return (vectors * eigenvalues.clamp(min=0).sqrt()) @ vectors.T
