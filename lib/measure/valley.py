"""Loss against size at a fixed budget: a parabola in the logarithm of the size, its lowest point, and what missing it
costs (the profiles of Hoffmann et al. 2022), over resampled seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Valley:
    """A fitted profile, or many at once, between the smallest and the largest size that were tried."""

    coefficients: np.ndarray  # (..., 3) of the parabola in log2 of the size, highest power first
    low: float
    high: float

    def loss(self, size) -> np.ndarray:
        """At a size, or at one for each profile."""
        curve, slope, start = np.moveaxis(self.coefficients, -1, 0)
        place = np.log2(size)
        return (curve * place + slope) * place + start

    @property
    def best(self) -> np.ndarray:
        """The size of lowest loss among those between low and high."""
        curve, slope, _ = np.moveaxis(self.coefficients, -1, 0)
        bottom = -slope / (2 * np.where(curve > 0, curve, np.nan))
        ends = np.where(self.loss(self.low) <= self.loss(self.high), self.low, self.high)
        within = (np.log2(self.low) <= bottom) & (bottom <= np.log2(self.high))
        return np.where(within, 2 ** np.where(within, bottom, 0), ends)

    def regret(self, size: float) -> np.ndarray:
        """Loss at a size over the lowest; NaN outside what was tried."""
        if not self.low <= size <= self.high:
            return np.full(self.coefficients.shape[:-1], np.nan)
        return self.loss(size) - self.loss(self.best)


def fit(sizes: Sequence[float], losses: Sequence[float]) -> Valley:
    """The parabola of least squares; losses (n,), or (draws, n) for many profiles.

    Raises ValueError with fewer than three sizes, or sizes that are not positive.
    """
    sizes, losses = np.asarray(sizes, float), np.asarray(losses, float)
    if sizes.shape != losses.shape[-1:] or len(np.unique(sizes)) < 3 or not (sizes > 0).all():
        raise ValueError(
            f"there are sizes {sizes.tolist()} and losses of shape {losses.shape}: pass a loss for each of 3 or more."
        )
    return Valley(np.polyfit(np.log2(sizes), losses.T, 2).T, sizes.min(), sizes.max())


def resampled(runs: Mapping[float, Sequence[float]], draws: int, seed: int = 0) -> Valley:
    """Fits to the mean losses of runs (size -> losses over seeds) that are drawn with replacement, size by size."""
    rng = np.random.default_rng(seed)
    means = [rng.choice(np.asarray(losses, float), (draws, len(losses))).mean(1) for losses in runs.values()]
    return fit(list(runs), np.stack(means, 1))


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of values; NaN where one of them is."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
