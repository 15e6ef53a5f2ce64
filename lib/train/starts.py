"""Where a head of rank r starts: drawn at random as in Section 5.1, or cut out of the real head in closed form."""

import math

import numpy as np
import torch

from lib.measure import bounds, spectra
from lib.train.heads import Head

ARMS = ("SVD", "centred SVD", "whitened", "weighted")


def gaussian(
    vocabulary: int, width: int, rank: int, scale: float | None = None, seed: int = 0, device: str = "cpu"
) -> Head:
    """A and B drawn from N(0, 1), as Section 5.1 says.

    With ``scale``, the root mean square of the states' entries, they are divided so that the logits start at a
    variance of 1: A by sqrt(r) and B by scale sqrt(d). As printed, logits have a deviation of sqrt(r) |h|.
    """
    if not 1 <= rank <= width:
        raise ValueError(f"rank is {rank}: pass one between 1 and the width of the head, {width}.")
    generator = torch.Generator().manual_seed(seed)
    out = torch.randn(vocabulary, rank, generator=generator)
    into = torch.randn(rank, width, generator=generator)
    if scale is not None:
        out, into = out / math.sqrt(rank), into / (scale * math.sqrt(width))
    return Head(out.to(device), into.to(device))


def truncated(weight: torch.Tensor, arm: str, states: torch.Tensor, frequency: np.ndarray | None = None) -> Head:
    """The real head (V, d) as A B of rank d whose first r columns and rows are the untrained head of rank r.

    ``arm`` is "SVD", the plain truncation (Lemma 5.2); "centred SVD", the same without the mean row, which no softmax
    sees; "whitened", which has the least squared error of the centred logits of ``states`` (N, d); "weighted", where
    the error of each token counts by ``frequency`` (V,), the probability that the model gives it on average.
    Raises ValueError for another arm, or states of another width.
    """
    if arm not in ARMS:
        raise ValueError(f"arm is {arm!r}: pass one of {', '.join(ARMS)}.")
    if arm == "SVD":
        vectors = torch.linalg.eigh(spectra.gram(weight)).eigenvectors.flip(1).float()
        return Head(weight.float() @ vectors, vectors.T.contiguous())
    moment = None if arm == "centred SVD" else spectra.gram(states) / len(states)
    out, into = bounds.factors(weight, moment, frequency if arm == "weighted" else None)
    return Head(*(torch.from_numpy(part.astype(np.float32)).to(weight.device) for part in (out, into)))


def mean_probability(weight: torch.Tensor, states: torch.Tensor, chunk: int = 256) -> np.ndarray:
    """Probability that a head (V, d) gives each token, on average over states (N, d): (V,) float64."""
    total = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
    for part in states.split(chunk):
        total += (part.to(weight) @ weight.T).softmax(1).sum(0)
    return (total / len(states)).cpu().numpy()
