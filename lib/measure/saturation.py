"""Does a loss curve saturate: fall, turn, and stay worse than its best to the end (Section 3)?

Noise model: the logarithm of the loss is a trend plus Gaussian noise of one size, first-order autoregressive from
point to point, plus stray single points. The size is read off the distance to the nearest curve that first only falls
and then only rises. A rise is significant where the mean of a last window exceeds that of an earlier one by more than
`DEVIATIONS` standard errors, for whichever pair of windows shows it best: of all trends that never rise, the flat one
is the likeliest to look like a rise, and on it the best pair passes them in under 1 % of curves.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

DEVIATIONS = 4.2
DIVERGED = 0.25  # a loss this far above its earlier best is a failure of training, not saturation
EARLY = 0.2  # of the run: a passing rise before is called a warm-up bump, after it a spike
FEWEST = 12  # points near the best loss, without which noise can't be told from trend
ROUNDING = 1e-12  # of a logarithm: a fall by less is none
BINS = 40  # longer curves are averaged to so many points, which also wears down autocorrelation


@dataclass(frozen=True)
class Saturation:
    """What a loss curve did; relative quantities are fractions (0.01 is 1 %)."""

    best_step: float
    best_loss: float
    final_step: float
    final_loss: float
    rise: float  # final_loss / best_loss - 1, as read off the curve: noise inflates it
    saturated: bool
    kind: str  # saturation, divergence, spike, warm-up bump, still falling or noise
    effect: float  # the rise between the means of the two windows that show it best
    interval: tuple[float, float]  # of the effect, DEVIATIONS standard errors to each side
    noise: float  # relative standard deviation of one point
    correlation: float  # of the noise of neighbouring points
    reason: str


def saturation(steps, losses, min_rise=0.005, noise=None) -> Saturation:
    """Tell whether a loss curve saturates, and what it did if it does not.

    steps: (n,) increasing, steps or tokens. losses: (n,) positive. min_rise: the smallest relative rise that counts.
    noise: relative standard deviation of one point, where it is known. A curve is saturated if its rise is
    significant, at least `min_rise`, held over its last tenth, and nowhere more than 25 %. Raises ValueError on a bad
    curve. Section 3, Figure 1 left.
    """
    steps, losses = _checked(steps, losses, min_rise, noise)
    x, y = np.log(steps + steps[1] - steps[0]), np.log(losses)
    near = y <= y.min() + np.log1p(DIVERGED)
    near[near.argmax() :] = True
    points = near & ~_stray(x, y)
    x, z = _binned(x[points], y[points])
    width = points.sum() // len(z)
    sigma, rho = _noise(x, z) if noise is None else (noise / np.sqrt(width), 0.0)
    effect, error, low = _rise(z, sigma, rho)
    held = np.median(y[-max(3, len(y) // 10) :]) >= low + effect / 2

    known = noise is not None or len(z) >= FEWEST
    significant = known and effect > DEVIATIONS * error and effect >= np.log1p(min_rise)
    worst = losses[losses.argmin() :].max() / losses.min() - 1
    bumps = np.minimum(y - np.minimum.accumulate(y), y - np.minimum.accumulate(y[::-1])[::-1])
    bumped = bumps.max() > 2 * DEVIATIONS * sigma * np.sqrt(width) + np.log1p(min_rise)
    last, before = z[-len(z) // 4 :], z[-len(z) // 2 : -len(z) // 4]
    falling = before.mean() - last.mean() > max(DEVIATIONS * sigma * np.sqrt(8 / len(z)), ROUNDING)
    kind = (
        ("spike" if y[-1] - y.min() < np.log1p(DIVERGED) else "divergence")
        if worst > DIVERGED
        else ("saturation" if held else "spike")
        if significant
        else ("warm-up bump" if steps[bumps.argmax()] <= EARLY * steps[-1] else "spike")
        if bumped
        else "still falling"
        if falling
        else "noise"
    )
    if kind == "spike":
        worst = max(worst, np.expm1(bumps.max()))  # it may lie before the best
    best = losses.argmin()
    interval = tuple(float(np.expm1(effect + side * DEVIATIONS * error)) for side in (-1, 1))
    return Saturation(
        float(steps[best]),
        float(losses[best]),
        float(steps[-1]),
        float(losses[-1]),
        float(losses[-1] / losses[best] - 1),
        kind == "saturation",
        kind,
        float(np.expm1(effect)),
        interval,
        float(sigma * np.sqrt(width)),
        float(rho),
        _reason(kind, np.expm1(effect), interval, worst, known),
    )


def _checked(steps, losses, min_rise, noise):
    steps, losses = np.asarray(steps, float), np.asarray(losses, float)
    if steps.ndim != 1 or steps.shape != losses.shape or len(steps) < 3:
        raise ValueError(f"a loss curve has at least 3 steps and as many losses; got {steps.shape} and {losses.shape}")
    if not (np.isfinite(steps).all() and np.isfinite(losses).all() and (losses > 0).all()):
        raise ValueError("steps and losses must be finite and losses positive; cut the curve where training failed")
    if steps[0] < 0 or (np.diff(steps) <= 0).any():
        raise ValueError("steps must increase from 0 or more; sort the points and keep one for each step")
    if min_rise < 0 or (noise is not None and noise < 0):
        raise ValueError(f"min_rise {min_rise} and noise {noise} are fractions of the loss; give values >= 0")
    return steps, losses


def _residuals(x, y):
    """Each inner point minus the line through its two neighbours, scaled to the variance of white noise."""
    weight = (x[2:] - x[1:-1]) / (x[2:] - x[:-2])
    return (y[1:-1] - weight * y[:-2] - (1 - weight) * y[2:]) / np.sqrt(1 + weight**2 + (1 - weight) ** 2)


def _stray(x, y):
    """Which single points stand out from both neighbours, and by more than the curve moves around them."""
    moves = np.abs(np.diff(y))
    around = np.array([np.median(moves[max(0, i - 3) : i + 5]) for i in range(len(y) - 2)])
    scale = np.maximum(1.4826 * np.median(np.abs(_residuals(x, y))), around)
    out = (np.diff(y)[:-1] * np.diff(y)[1:] < 0) & (np.minimum(moves[:-1], moves[1:]) > DEVIATIONS * scale)
    return np.concatenate([[False], out, [False]])


def _binned(x, y):
    """Means over runs of equally many neighbours, at most BINS of them; the first few points may be dropped."""
    width = -(-len(y) // BINS)
    return (values[len(y) % width :].reshape(-1, width).mean(axis=1) for values in (x, y))


def _noise(x, y):
    """Standard deviation and lag-one correlation of the distance to the nearest curve that falls, rises and falls."""
    n, centred = len(y), y - y.mean()
    if n < 3:
        return 0.0, 0.0
    fall, again = (
        [_misfit(part, False) for part in parts]
        for parts in ([centred[:turn] for turn in range(n + 1)], [centred[turn:] for turn in range(n + 1)])
    )
    _, low, high = min(
        (fall[low] + _misfit(centred[low:high], True) + again[high], low, high)
        for low in range(n + 1)
        for high in range(low, n + 1)
    )
    pieces = [
        isotonic_regression(piece, increasing=sign)
        for piece, sign in ((centred[:low], False), (centred[low:high], True), (centred[high:], False))
        if len(piece)
    ]
    rest = centred - np.concatenate([piece.x for piece in pieces])
    levels = sum(len(piece.blocks) - 1 for piece in pieces)
    square = rest @ rest / max(n - 1.5 * levels, n / 4)  # freedom of a monotone fit: Meyer and Woodroofe (2000)
    local = _residuals(x, y)
    edge = 3 * 1.4826 * np.median(np.abs(local))
    square = max(square, np.mean(np.clip(local, -edge, edge) ** 2))  # where the curve is steep, such a fit fits noise
    rho = np.clip(rest[1:] @ rest[:-1] / max(rest @ rest, 1e-30) + 0.5 * levels / n, 0, 0.9)
    return float(np.sqrt(square)), float(rho)


def _misfit(y, increasing):
    """Sum of squares from the nearest monotone curve."""
    return np.sum((y - isotonic_regression(y, increasing=increasing).x) ** 2) if len(y) > 1 else 0.0


def _rise(y, sigma, rho):
    """The rise from an earlier window to a last one with the largest lower bound: rise, standard error, lower level."""
    n, sums = len(y), np.concatenate([[0], np.cumsum(y)])
    lengths = [length for length in (1, 2, 3, 4, 6, 8, 12, 16, 24) if length <= n // 2]
    variance = {length: sigma**2 * _inflation(length, rho) / length for length in lengths}
    best = (-np.inf, 0.0, 0.0, 0.0)
    for last in lengths:
        high = (sums[n] - sums[n - last]) / last
        for first in lengths:
            low = ((sums[first : n - last + 1] - sums[: n - last - first + 1]) / first).min()
            error = np.sqrt(variance[last] + variance[first])
            best = max(best, (high - low - DEVIATIONS * error, high - low, error, low))
    return best[1:]


def _inflation(length, rho):
    """Variance of the mean of autoregressive noise over that of white noise."""
    lags = np.arange(1, length)
    return 1 + 2 * np.sum((1 - lags / length) * rho**lags)


def _reason(kind, effect, interval, worst, known):
    rise = f"{effect:.2%} (between {interval[0]:.2%} and {interval[1]:.2%})"
    return {
        "saturation": f"the loss ends {rise} above its best and stays there",
        "divergence": f"the loss goes {worst:.0%} above its best: training failed",
        "spike": f"the loss rises by {worst:.1%} above its lowest until then, for a while only",
        "warm-up bump": "the loss rises early on and falls below its first low again",
        "still falling": "the last quarter of the curve lies below the quarter before",
        "noise": f"a rise of {rise} is too small to count"
        if known
        else f"fewer than {FEWEST} points lie near the best loss, too few to tell a rise from noise",
    }[kind]
