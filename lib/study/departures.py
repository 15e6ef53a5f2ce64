"""By which clock do narrow runs leave the shape of the wide ones: updates, or summed learning rate? (chapter 8)"""

import functools

import numpy as np
import pandas as pd

from lib.data import public
from lib.study import causes_public
from lib.train import loop

SMOOTH = 5  # windows of 500 steps whose median is taken
STAYS = 0.9  # of the windows that follow must lie above the level, the last one among them
SAME = ("pythia-14m", "pythia-31m", "pythia-70m")  # one schedule of learning rates, three widths
OTHER = "pythia-160m"  # the narrow size with another
CLOCKS = ("step", "sum_lr")


@functools.cache
def schedule(model: str) -> np.ndarray:
    """Learning rate summed up to each step of a published run, (steps + 1,), by Pythia's schedule."""
    recipe = public.recipes().set_index("model").loc[model]
    steps = int(recipe.steps)
    return np.cumsum([0.0, *(loop.learning_rate(step, steps, recipe.lr) for step in range(1, steps + 1))])


def departures(excess: pd.DataFrame, level: float) -> pd.DataFrame:
    """Where each run's excess over 410M's shape passes a level (nats) for good: model, width, seed, step, sum_lr.

    For good: the last window lies above it, and nine in ten of those from there on. A run that never departs has
    infinite step and sum_lr. excess: `causes_public.excess`.
    """
    widths = public.recipes().set_index("model").width
    rows = []
    for (model, seed), run in excess.dropna(subset="excess").groupby(["model", "seed"]):
        run = run.sort_values("step")
        above = run.excess.rolling(SMOOTH, center=True).median().dropna() > level
        left = above[::-1].expanding().mean()[::-1]
        gone = above.index[above & (left >= STAYS)] if above.iloc[-1] else []
        step = float(run.step[gone[0]]) if len(gone) else np.inf
        moved = schedule(model)[int(step)] if np.isfinite(step) else np.inf
        rows.append({"model": model, "width": int(widths[model]), "seed": seed, "step": step, "sum_lr": moved})
    return pd.DataFrame(rows)


def clocks(departed: pd.DataFrame, draws: int, seed: int = 0) -> pd.DataFrame:
    """Median departure of OTHER over that of SAME by each clock, with 95 % over runs: clock, ratio, low, high.

    The clock that all sizes share has a ratio of 1. departed: `departures`.
    """
    rng, rows = np.random.default_rng(seed), []
    groups = [departed[departed.model.isin(names)] for names in ((OTHER,), SAME)]
    picks = [rng.integers(len(group), size=(draws, len(group))) for group in groups]
    for clock in CLOCKS:
        values = [group[clock].to_numpy() for group in groups]
        other, same = (np.median(value[pick], axis=1) for value, pick in zip(values, picks, strict=True))
        low, high = np.quantile(other / same, [0.025, 0.975], method="inverted_cdf")
        ratio = np.median(values[0]) / np.median(values[1])
        rows.append({"clock": clock, "ratio": ratio, "low": low, "high": high})
    return pd.DataFrame(rows)


def by_level(excess: pd.DataFrame, levels: list[float], draws: int, seed: int = 0) -> pd.DataFrame:
    """`clocks` at several levels, and how much 410M had been moved at its end beside the first departure.

    Columns level, clock, ratio, low, high; runs and departed (of the narrow ones), wide (departures of 410M), first
    (the least summed learning rate at which a narrow run departs).
    """
    frames = []
    for level in levels:
        found = departures(excess, level)
        wide = found.model == causes_public.WIDE
        narrow, gone = found[~wide], np.isfinite(found.step)
        about = {"runs": len(narrow), "departed": int(gone[~wide].sum()), "wide": int(gone[wide].sum())}
        frames.append(clocks(found, draws, seed).assign(level=level, **about, first=narrow.sum_lr.min()))
    table = pd.concat(frames, ignore_index=True)
    return table[["level", *table.columns.drop("level")]]


def shared(table: pd.DataFrame, level: float) -> str:
    """The clock that the sizes share at a level, by the criterion: its interval holds 1, and the other's does not."""
    rows = table[table.level == level]
    holds = rows[(rows.low <= 1) & (rows.high >= 1)].clock.tolist()
    names = {"step": "updates", "sum_lr": "summed learning rate"}
    return names[holds[0]] if len(holds) == 1 else "neither" if not holds else "either"


def trend(departed: pd.DataFrame) -> float:
    """Rank correlation of width and step of departure among the sizes with one schedule; infinite steps rank last."""
    same = departed[departed.model.isin(SAME)]
    return float(same.width.corr(same.step.rank(), method="spearman"))
