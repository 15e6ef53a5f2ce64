"""Loss against size at a fixed budget: a parabola in the logarithm of the size, its lowest point, and what missing it
costs (the profiles of Hoffmann et al. 2022), over resampled seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Valley:
    """A fitted profile between the smallest and the largest size that were tried."""

    coefficients: np.ndarray  # of the parabola in log2 of the size, highest power first
    low: float
    high: float

    def loss(self, size):
        """At a size, or at each of an array of them."""
        return np.polyval(self.coefficients, np.log2(size))

    @property
    def best(self) -> float:
        """The size of lowest loss among those between low and high."""
        curve, slope, _ = self.coefficients
        bottom = 2 ** (-slope / (2 * curve)) if curve > 0 else np.nan
        if self.low <= bottom <= self.high:
            return float(bottom)
        return self.low if self.loss(self.low) <= self.loss(self.high) else self.high

    @property
    def inside(self) -> bool:
        """Whether the lowest loss is at neither end."""
        return self.low < self.best < self.high

    def regret(self, size):
        """Loss at a size over the lowest; NaN outside what was tried."""
        size = np.asarray(size, float)
        known = (size >= self.low * (1 - 1e-9)) & (size <= self.high * (1 + 1e-9))
        return np.where(known, self.loss(np.where(known, size, self.low)) - self.loss(self.best), np.nan)


def fit(sizes: Sequence[float], losses: Sequence[float]) -> Valley:
    """The parabola of least squares. Raises ValueError with fewer than three sizes, or sizes that are not positive."""
    sizes, losses = np.asarray(sizes, float), np.asarray(losses, float)
    if sizes.shape != losses.shape or sizes.ndim != 1 or len(np.unique(sizes)) < 3 or not (sizes > 0).all():
        raise ValueError(
            f"there are sizes {sizes.tolist()} and {losses.size} losses: pass a loss for each of three or more."
        )
    return Valley(np.polyfit(np.log2(sizes), losses, 2), sizes.min(), sizes.max())


def resampled(runs: Mapping[float, Sequence[float]], draws: int, seed: int = 0) -> list[Valley]:
    """Fits to the mean losses of runs (size -> losses over seeds) that are drawn with replacement, size by size."""
    rng = np.random.default_rng(seed)
    drawn = {size: rng.choice(np.asarray(losses, float), (draws, len(losses))).mean(1) for size, losses in runs.items()}
    return [fit(list(drawn), means) for means in np.stack(list(drawn.values()), 1)]


def interval(values) -> tuple[float, float]:
    """The middle 95 %."""
    low, high = np.nanquantile(values, [0.025, 0.975]) if not np.isnan(values).all() else (np.nan, np.nan)
    return float(low), float(high)
