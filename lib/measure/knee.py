"""Whether a loss falls smoothly with the rank of the head, or breaks at one."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

GRID = 200  # places tried for a knee, and powers tried for a smooth decay


def shapes(ranks: np.ndarray, losses: np.ndarray) -> pd.DataFrame:
    """Fit a loss (n,) against ranks (n,), smoothly and with a knee: shape, knee, rms, aicc, weight; best first.

    "smooth decay" is E + a r^-b; "knee" is two straight lines in log r that meet at a rank; "plateau" is a knee after
    which the loss is flat. aicc is Akaike's criterion with its correction for small samples (infinite where there are
    too few points), weight the share of the evidence that it gives each shape. Raises ValueError on fewer than 6
    points, or ranks that do not ascend.
    """
    ranks, losses = np.asarray(ranks, dtype=float), np.asarray(losses, dtype=float)
    if ranks.shape != losses.shape or ranks.ndim != 1 or len(ranks) < 6:
        raise ValueError(f"there are {ranks.size} ranks and {losses.size} losses: pass one of each, 6 or more of them.")
    if not ((ranks > 0).all() and (np.diff(ranks) > 0).all() and np.isfinite(losses).all()):
        raise ValueError("ranks must be positive and ascend, and losses be finite: sort the points by rank.")
    x = np.log(ranks)
    _, decay = _best(np.linspace(0.02, 3, GRID), lambda b: np.exp(-b * x), x, losses)
    knee, broken = _best(np.linspace(x[1], x[-2], GRID), lambda at: np.maximum(x - at, 0), x, losses, line=True)
    edge, flat = _best(np.linspace(x[1], x[-1], GRID), lambda at: np.maximum(at - x, 0), x, losses)
    rows = [
        _row("smooth decay", decay, len(x), 3),
        _row("knee", broken, len(x), 4, float(np.exp(knee))),
        _row("plateau", flat, len(x), 3, float(np.exp(edge))),
    ]
    frame = pd.DataFrame(rows).sort_values("aicc", ignore_index=True)
    evidence = np.exp(-(frame["aicc"] - frame["aicc"].min()) / 2)
    return frame.assign(weight=evidence / evidence.sum())


def crossing(x: np.ndarray, y: np.ndarray, level: float) -> float:
    """The first x at which y, linear between points sorted by x, passes a level from below; NaN where it never does."""
    order = np.argsort(x)
    x, y = np.asarray(x, dtype=float)[order], np.asarray(y, dtype=float)[order]
    above = np.flatnonzero((y[:-1] < level) & (y[1:] >= level))
    if not len(above):
        return float("nan")
    i = above[0]
    return float(x[i] + (level - y[i]) / (y[i + 1] - y[i]) * (x[i + 1] - x[i]))


def affordable(ranks: np.ndarray, losses: np.ndarray, price: float) -> float:
    """The rank from which on a head costs less than a price over the last one, linear in log r; NaN where all do."""
    ranks, losses = np.asarray(ranks, dtype=float), np.asarray(losses, dtype=float)
    return float(np.exp(-crossing(-np.log(ranks), losses - losses[np.argmax(ranks)], price)))


def reread(values: np.ndarray, error: float, draws: int, seed: int = 0) -> np.ndarray:
    """Values (n,) as they might have been read off a figure, anywhere within the error: (draws, n)."""
    return np.asarray(values, dtype=float) + error * np.random.default_rng(seed).uniform(-1, 1, (draws, len(values)))


def _best(
    values: np.ndarray, column: Callable, x: np.ndarray, y: np.ndarray, line: bool = False
) -> tuple[float, float]:
    """The parameter whose column, with a constant and perhaps a line, leaves the least squares; and what it leaves."""
    rest = [np.ones_like(x), x] if line else [np.ones_like(x)]

    def residual(value):
        design = np.stack([*rest, column(value)], axis=1)
        return float(((y - design @ np.linalg.lstsq(design, y)[0]) ** 2).sum())

    start = values[int(np.argmin([residual(value) for value in values]))]
    step = values[1] - values[0]
    bounds = max(values[0], start - step), min(values[-1], start + step)
    found = minimize_scalar(residual, bounds=bounds, method="bounded")
    return float(found.x), float(found.fun)


def _row(shape: str, squares: float, n: int, parameters: int, knee: float = np.nan) -> dict:
    k = parameters + 1  # the variance counts
    spare = n - k - 1
    aicc = n * np.log(squares / n) + 2 * k + 2 * k * (k + 1) / spare if spare > 0 else np.inf
    return {"shape": shape, "knee": knee, "rms": float(np.sqrt(squares / n)), "aicc": float(aicc)}
