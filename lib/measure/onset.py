"""When a curve along training turns upwards: its largest lasting rise, the step half-way up it, and an interval.

Loss, anisotropy and singular entropy have different units and shapes; half of each curve's own rise is comparable.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import median_filter

DEVIATIONS = 4.0  # standard deviations of a median of three points that a rise has to exceed


@dataclass(frozen=True)
class Rise:
    """The largest rise of a curve."""

    floor_step: float  # where it starts: the lowest point before
    halfway: float  # step at which half of it is done; NaN where there is no rise
    low: float  # 95 % interval of halfway
    high: float
    size: float  # in the curve's own unit
    noise: float  # standard deviation of one point
    found: bool  # whether it exceeds both the noise and `least`


def rise(steps, values, least: float = 0.0, draws: int = 400, seed: int = 0) -> Rise:
    """The largest rise of a curve (n,) over increasing steps (n,), at least ``least`` in the curve's own unit.

    The curve is smoothed by a median of three, so that a single stray point is no rise. The noise of a point is read
    off its distance to the line through its neighbours; the interval comes from as many ``draws`` of that noise, and
    is never narrower than the gap between the two checkpoints around. Raises ValueError with fewer than four points.
    """
    steps, values = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if steps.ndim != 1 or steps.shape != values.shape or len(steps) < 4 or (np.diff(steps) <= 0).any():
        raise ValueError(f"a curve of {len(steps)} points has no turn to find: pass four or more, steps increasing.")
    if not np.isfinite(values).all():
        raise ValueError("the curve holds NaN or infinite values: cut it where training failed.")
    noise = _noise(steps, values)
    smooth = median_filter(values, 3, mode="nearest")
    floor, peak = _largest(smooth)
    size = float(smooth[peak] - smooth[floor])
    found = size > max(DEVIATIONS * noise, least, 1e-12)
    if not found:
        return Rise(float(steps[floor]), np.nan, np.nan, np.nan, size, noise, False)
    halfway = _crossing(steps, smooth, floor, peak)
    rng = np.random.default_rng(seed)
    around = []
    for drawn in smooth + noise * rng.standard_normal((draws, len(values))):
        drawn = median_filter(drawn, 3, mode="nearest")
        around.append(_crossing(steps, drawn, *_largest(drawn)))
    after = np.searchsorted(steps, halfway)
    low, high = np.quantile(around, [0.025, 0.975])
    low, high = min(low, steps[after - 1]), max(high, steps[after])
    return Rise(float(steps[floor]), halfway, float(low), float(high), size, noise, True)


def leaves(steps, values, least: float) -> float:
    """Step at which a curve (n,) of positive values leaves its floor for good: from there on it stays more than the
    share ``least`` above its lowest value. NaN where it does not end so far above it.

    The curve is smoothed by a median of three. Raises ValueError on fewer than four points or values below zero.
    """
    steps, values = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if steps.ndim != 1 or steps.shape != values.shape or len(steps) < 4 or not (values > 0).all():
        raise ValueError(f"a curve of {len(steps)} points has no floor to leave: pass four or more positive values.")
    smooth = median_filter(values, 3, mode="nearest")
    near = np.flatnonzero(smooth <= (1 + least) * smooth.min())[-1]
    return float(steps[near + 1]) if near + 1 < len(steps) else float("nan")


def departure(steps, values, least: float, draws: int = 400, seed: int = 0) -> Rise:
    """When a curve (n,) of positive values leaves its floor for good (`leaves`), as a Rise whose step is that one.

    The interval comes from as many ``draws`` of the noise of a point as `rise` has, and reaches back to the checkpoint
    before. size is the rise from the lowest value to the last, which has to exceed the noise as that of `rise` has.
    """
    steps, values = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    left, noise = leaves(steps, values, least), _noise(steps, values)
    smooth = median_filter(values, 3, mode="nearest")
    floor, size = float(steps[smooth.argmin()]), float(smooth[-1] - smooth.min())
    if np.isnan(left) or size <= max(DEVIATIONS * noise, least * smooth.min()):
        return Rise(floor, np.nan, np.nan, np.nan, size, noise, False)
    drawn = smooth + noise * np.random.default_rng(seed).standard_normal((draws, len(values)))
    around = np.array([leaves(steps, curve, least) for curve in np.maximum(drawn, 1e-12)])
    low, high = np.quantile(around[np.isfinite(around)], [0.025, 0.975])
    before = steps[np.searchsorted(steps, left) - 1]
    return Rise(floor, left, float(min(low, before)), float(max(high, left)), size, noise, True)


def lag(first: Rise, second: Rise) -> tuple[float, float, float]:
    """Steps from the half of one rise to the half of another, with an interval; NaN where either has none.

    Positive: the first comes first. The two intervals are added in quadrature, each side by itself.
    """
    middle = second.halfway - first.halfway
    below = np.hypot(second.halfway - second.low, first.high - first.halfway)
    above = np.hypot(second.high - second.halfway, first.halfway - first.low)
    return float(middle), float(middle - below), float(middle + above)


def _largest(values):
    """Places of the floor and the peak of the largest rise."""
    gains = values - np.minimum.accumulate(values)
    peak = int(gains.argmax())
    return int(values[: peak + 1].argmin()), peak


def _crossing(steps, values, floor, peak):
    """Step at which the values last pass the middle between floor and peak, on the way up."""
    middle = (values[floor] + values[peak]) / 2
    below = floor + int(np.flatnonzero(values[floor : peak + 1] <= middle)[-1])
    if below == peak:
        return float(steps[peak])
    share = (middle - values[below]) / (values[below + 1] - values[below])
    return float(steps[below] + share * (steps[below + 1] - steps[below]))


def _noise(steps, values):
    """Standard deviation of a point: robust, from distances to the line through its two neighbours."""
    weight = (steps[2:] - steps[1:-1]) / (steps[2:] - steps[:-2])
    off = values[1:-1] - weight * values[:-2] - (1 - weight) * values[2:]
    return float(1.4826 * np.median(np.abs(off) / np.sqrt(1 + weight**2 + (1 - weight) ** 2)))
