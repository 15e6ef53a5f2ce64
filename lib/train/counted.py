"""A language whose next-token distributions are known: the text's windows, labelled by its own counts.

What follows a position is distributed as the mean of two counted distributions, of what follows the token there and of
what comes two tokens after the one before. A model has to attend to learn it, and a step can take the expectation over
labels of what a trainer stores, as from an infinite batch, at the cost of a small one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Counted:
    """What comes one and two tokens after each token, as rows of probabilities (V, V), float32."""

    one: torch.Tensor
    two: torch.Tensor

    def labels(self, rows: torch.Tensor) -> Callable[[slice], torch.Tensor]:
        """The distributions (n, V) of a slice of the flattened positions of windows (B, context + 1)."""
        last = rows[:, :-1]
        first = torch.zeros_like(last, dtype=torch.float32)
        first[:, 0] = 1
        before, last, first = last.roll(1, 1).flatten(), last.flatten(), first.flatten()

        def of(part: slice) -> torch.Tensor:
            share = (0.5 + 0.5 * first[part])[:, None]  # 1 at a window's first token, before which nothing stands
            return torch.lerp(self.two[before[part]], self.one[last[part]], share)

        return of


def counted(ids: np.ndarray, vocabulary: int, sharpness: float = 1.0, device: str = "cpu") -> Counted:
    """The counts of a stream of ids, raised to a power: above 1 less entropy, and a longer tail of rare tokens.

    A token without a successor is followed by any, as often as it is in the text.
    """
    tables = []
    for lag in (1, 2):
        pairs = ids[:-lag].astype(np.int64) * vocabulary + ids[lag:]
        counts = np.bincount(pairs, minlength=vocabulary**2).reshape(vocabulary, vocabulary).astype(np.float32)
        counts[counts.sum(1) == 0] = np.bincount(ids, minlength=vocabulary)
        counts = (counts / counts.max(1, keepdims=True)) ** sharpness
        tables.append(torch.from_numpy(counts / counts.sum(1, keepdims=True)).to(device))
    return Counted(*tables)
