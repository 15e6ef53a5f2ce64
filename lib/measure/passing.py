"""How much of a gradient of the logits a head passes back to the states: the part that lies in its column space."""

import torch

from lib.measure.spectra import FLOOR, gram


def share(gradient: torch.Tensor, head: torch.Tensor, inner: torch.Tensor | None = None) -> torch.Tensor:
    """Length of each gradient (N, V) after projection on the column space of a head (V, d), over its length: (N,).

    A gradient without a direction of its own has about sqrt(rank / V), see `chance`. inner: W^T W of the head, float64,
    where it is known. Raises ValueError on a head of zeros.
    """
    values, vectors = torch.linalg.eigh(gram(head) if inner is None else inner)
    kept = values > FLOOR * values[-1]
    if not kept.any() or values[-1] <= 0:
        raise ValueError("the head is zero, so that it passes nothing on: pass one with entries")
    basis = vectors[:, kept] / values[kept].sqrt()
    passed = (gradient @ head).double() @ basis.to(gradient.device)
    return torch.linalg.vector_norm(passed, dim=1) / torch.linalg.vector_norm(gradient.double(), dim=1)


def chance(head: torch.Tensor) -> float:
    """sqrt(d / V): what a head (V, d) of full rank passes of a direction drawn at random, in the root of the mean."""
    return (head.shape[1] / head.shape[0]) ** 0.5
