"""Does the excess of a loss climb in stairs, and do they stand where the spacing of fp16 doubles?

Logits of offset 2^x are stored at a spacing s = 2^(floor(x) - 10), and rounding them costs about c s^2 / 24 nats: a
level for each octave, four times the one before. The offset is not seen. It is a random walk of x with growth, on a
grid; a run's windows are the cost at x plus noise. What differs between models is only the cost as a function of x
(stairs, stairs at levels shifted by a factor, or none) and whether the walk may jump, so that the likelihood of windows
that were held out, given those that were kept, compares them exactly.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

DIGITS = 10  # of the mantissa of fp16: the spacing in [2^k, 2^(k + 1)) is 2^(k - 10)
FREEDOM = 4  # of Student's t for the noise: a window may be a spike; _density is written for 4
JUMP = 1.0  # octaves: standard deviation of a jump


@dataclass(frozen=True)
class Walk:
    """Parameters that runs share."""

    step: float  # octaves: standard deviation of the walk from window to window
    share: float  # noise in proportion to the excess, beside the floor
    spread: float = 0.0  # octaves: standard deviation of offsets over contexts; of stairs only
    jumps: float = 0.0  # share of windows with a jump of any size


def grid(low: float = 6.5, high: float = 13.5, parts: int = 16) -> np.ndarray:
    """Offsets (S,) as powers of two."""
    return np.linspace(low, high, round((high - low) * parts) + 1)


def level(octave, c: float) -> np.ndarray:
    """Cost in nats of rounding logits in [2^octave, 2^(octave + 1)) to fp16: c s^2 / 24, c = E[1 - sum p^2].

    Rounding adds noise of variance s^2 / 12 to each logit, and half of c times that to the loss.
    """
    return c * 4.0 ** (np.asarray(octave) - DIGITS) / 24


def stairs(x: np.ndarray, c: float, spread: float, shifts=(1.0,)) -> np.ndarray:
    """Cost (shifts, S) at mean offsets 2^x (S,), where contexts are spread normally around x; times each shift."""
    octaves = np.arange(int(x.min()) - 4, int(x.max()) + 5)
    below = norm.cdf((octaves[:, None] - x) / max(spread, 1e-6))  # share of contexts under each power of two
    return np.outer(shifts, level(octaves[:-1], c) @ np.diff(below, axis=0))


def smooth(x: np.ndarray, c: float) -> np.ndarray:
    """The stairs' trend (1, S): the same fourfold growth an octave, and no levels."""
    return level(x, c)[None] / 2  # the geometric middle of the octave's level and the one before


def transition(x: np.ndarray, walk: Walk) -> np.ndarray:
    """Chances (S, S) of the offset's next place, a row for each place."""
    away = x - x[:, None]
    chances = (1 - walk.jumps) * _rows(norm.pdf(away, 0, walk.step))
    return chances + walk.jumps * _rows(norm.pdf(away, 0, JUMP))


def blocks(length: int, block: int) -> np.ndarray:
    """Which windows each of two folds holds out (2, length): every other block of so many, and the others."""
    odd = np.arange(length) // block % 2 == 1
    return np.stack([odd, ~odd])


def held_out(excess: np.ndarray, costs: np.ndarray, x: np.ndarray, walk: Walk, floor: float, folds: np.ndarray):
    """Log-likelihood of the windows held out given those kept, summed over folds: (models, runs).

    excess: (runs, windows) in nats, NaN where unknown. costs: (models, S). floor: noise of a window, nats. folds:
    (folds, windows), True where held out. The offset is summed over exactly. Raises ValueError on other shapes.
    """
    if excess.ndim != 2 or costs.shape[1:] != x.shape or folds.shape[1:] != excess.shape[1:]:
        raise ValueError(
            f"excess {excess.shape}, costs {costs.shape} and folds {folds.shape} do not fit: pass (runs, windows), "
            f"(models, {len(x)}) and (folds, windows)"
        )
    moves = transition(x, walk).astype(np.float32)
    kept = np.concatenate([np.ones((1, excess.shape[1]), bool), ~folds])  # all windows first
    ways = len(kept)
    place = np.full((len(costs), len(excess), ways, len(x)), 1 / len(x), np.float32)
    total = np.zeros(place.shape[:3])
    for window, seen in enumerate(kept.T):
        place = place @ moves
        if np.isfinite(excess[:, window]).any():
            weight = np.where(seen[:, None], _density(excess[:, window], costs, walk.share, floor)[:, :, None], 1)
            place = place * weight
            size = place.sum(-1)
            total += np.log(size)
            place /= size[..., None]
    return (ways - 1) * total[..., 0] - total[..., 1:].sum(-1)


def drawn(
    costs: np.ndarray, x: np.ndarray, walk: Walk, growth: float, floor: float, shape: tuple[int, int], rng
) -> np.ndarray:
    """Excesses (runs, windows) drawn from a model of costs (S,), whose offsets start in the lowest quarter of the grid
    and grow by `growth` octaves a window beside the walk; at the ends of the grid they turn, since to stop there would
    be a level.
    """
    moves = growth + walk.step * rng.standard_normal(shape)
    moves += JUMP * rng.standard_normal(shape) * (rng.random(shape) < walk.jumps)
    start = rng.uniform(x[0], x[len(x) // 4], (shape[0], 1))
    length = x[-1] - x[0]
    away = (start + moves.cumsum(1) - x[0]) % (2 * length)
    cost = np.interp(x[0] + np.minimum(away, 2 * length - away), x, costs)
    return cost + _scale(cost, walk.share, floor) * rng.standard_t(FREEDOM, shape)


def chosen_elsewhere(scores: np.ndarray) -> np.ndarray:
    """Each run's score (runs,) under the parameters that are best for the other runs together; scores (sets, runs)."""
    others = scores.sum(1, keepdims=True) - scores
    return np.take_along_axis(scores, others.argmax(0)[None], 0)[0]


def over_runs(values: np.ndarray, draws: int, rng) -> tuple[float, float, float]:
    """Mean of values (runs,) and its 95 % interval over runs drawn with replacement."""
    means = values[rng.integers(len(values), size=(draws, len(values)))].mean(1)
    return float(values.mean()), *(float(end) for end in np.quantile(means, [0.025, 0.975]))


def _density(excess, costs, share, floor):
    """(models, runs, S); where a run's excess is unknown it says nothing."""
    scale = _scale(costs, share, floor)[:, None]
    square = ((excess[:, None] - costs[:, None]) / scale) ** 2
    tail = 1 + square / FREEDOM
    density = 1 / (tail**2 * np.sqrt(tail) * scale)  # Student's, up to a constant
    return np.where(np.isfinite(density), density, 1).astype(np.float32)


def _scale(costs, share, floor):
    return np.sqrt(floor**2 + (share * costs) ** 2)


def _rows(weights):
    return weights / weights.sum(1, keepdims=True)
