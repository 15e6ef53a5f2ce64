"""Heads in training: what a rank costs against one trained alike, and the power law that losses follow with length."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats


def power(updates: np.ndarray, losses: np.ndarray, floor: float = 0.0) -> tuple[float, float]:
    """Factor and exponent of loss = floor + factor * updates ** -exponent, by least squares of logarithms.

    updates, losses: (n,), n >= 2, the losses of runs of that many updates. Raises ValueError on losses that are not
    above the floor.
    """
    updates, losses = np.asarray(updates, float), np.asarray(losses, float)
    if updates.shape != losses.shape or updates.ndim != 1 or len(updates) < 2:
        raise ValueError(f"there are {updates.size} lengths and {losses.size} losses: pass one of each, 2 or more.")
    if not (losses > floor).all():
        raise ValueError(f"the lowest loss is {losses.min():.4g}: expected all above the floor of {floor:.4g}.")
    slope, start = np.polyfit(np.log(updates), np.log(losses - floor), 1)
    return float(np.exp(start)), float(-slope)


def continued(updates: np.ndarray, losses: np.ndarray, to: float, floor: float = 0.0) -> float:
    """The loss that `power` expects after ``to`` updates."""
    factor, exponent = power(updates, losses, floor)
    return floor + factor * to**-exponent


def further(
    runs: pd.DataFrame, arm: str, under: str, to: Sequence[float], draws: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Where longer runs of an arm would lead by `power`: arm, rank, updates, low, high, for each length in ``to``.

    runs: arm, seed, updates, rank and windows, the (w,) losses of the same windows of text. The range is over resampled
    windows (95 %) and over two floors: none, and the loss of the arm ``under`` at its longest. The higher a floor, the
    less is left to be gained, so the lowest and the highest that can be thought of bracket the answer. Ranks with fewer
    than three lengths are left out.
    """
    each = runs.groupby(["arm", "rank", "updates"]).windows.agg(lambda seeds: np.mean(seeds.tolist(), axis=0))
    rows = []
    for rank, part in each[arm].groupby("rank"):
        losses, lengths = np.stack(part.tolist()), part.index.get_level_values("updates").to_numpy(float)
        if len(lengths) < 3:
            continue
        floor = each[under, rank].iloc[-1]
        for length in to:
            low, high = _between(lengths, losses, floor, length, draws, np.random.default_rng(seed))
            rows.append({"arm": arm, "rank": rank, "updates": float(length), "low": low, "high": high})
    return pd.DataFrame(rows)


def _between(lengths, losses, floor, to, draws, rng):
    """The range of `continued` over both floors and over windows; a floor that the losses reach is none."""
    ends = []
    for chosen in rng.integers(losses.shape[1], size=(draws, losses.shape[1])):
        drawn, least = losses[:, chosen].mean(1), floor[chosen].mean()
        ends.append([continued(lengths, drawn, to, low) for low in (0, least if least < drawn.min() else 0)])
    low, high = np.quantile(ends, [0.025, 0.975], axis=0)
    return float(low.min()), float(high.max())


def matched(runs: pd.DataFrame, full: int) -> pd.DataFrame:
    """What each rank costs over full rank, trained from the same kind of start, with the same seed, for as long.

    runs: arm, seed, updates, rank and windows, the (w,) losses of the same windows of text. A row for each arm, length
    and rank: cost (mean over windows and seeds), low and high (its 95 % interval over windows).
    """
    whole = runs[runs["rank"] == full].set_index(["arm", "seed", "updates"]).windows
    lower = runs[runs["rank"] != full]
    keys = zip(lower.arm, lower.seed, lower.updates, strict=True)
    extra = [np.subtract(windows, whole[key]) for windows, key in zip(lower.windows, keys, strict=True)]
    rows = []
    for (arm, updates, rank), part in lower.assign(extra=extra).groupby(["arm", "updates", "rank"], sort=False):
        each = np.mean(part.extra.tolist(), axis=0)
        half = stats.sem(each) * stats.t.ppf(0.975, len(each) - 1)
        cost = each.mean()
        rows.append(
            {"arm": arm, "updates": updates, "rank": rank, "cost": cost, "low": cost - half, "high": cost + half}
        )
    return pd.DataFrame(rows)
