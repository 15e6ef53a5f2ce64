"""Which of two causes that go together goes with an outcome: collinearity, partial rank correlations, chance rises.

Runs belong to models, and a cause is a property of the model: intervals draw models first, then runs in each.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression
from scipy.stats import rankdata


def inflation(causes: np.ndarray) -> np.ndarray:
    """Variance inflation of each of the causes (n, p): 1 / (1 - R^2) of it on the others; inf where they decide it."""
    standard = (causes - causes.mean(0)) / causes.std(0)
    found = []
    for at in range(causes.shape[1]):
        others = np.delete(standard, at, axis=1)
        rest = standard[:, at] - others @ np.linalg.lstsq(others, standard[:, at], rcond=None)[0]
        found.append(1 / np.mean(rest**2) if np.mean(rest**2) > 1e-9 else np.inf)
    return np.array(found)


def rank_correlation(outcome, cause) -> float:
    """Spearman's correlation of two sequences (n,); NaN where one is constant."""
    return partial(outcome, cause, np.empty((len(outcome), 0)))


def partial(outcome, cause, given: np.ndarray) -> float:
    """Rank correlation of outcome (n,) and cause (n,) with the ranks of given (n, p) taken out of both, linearly.

    NaN where nothing is left of either: then the data cannot tell cause from given.
    """
    known = np.column_stack([np.ones(len(outcome)), *(rankdata(column) for column in np.asarray(given).T)])
    pair = np.column_stack([rankdata(outcome), rankdata(cause)])
    rest = pair - known @ np.linalg.lstsq(known, pair, rcond=None)[0]
    size = np.sqrt((rest**2).sum(0))
    if (size < 1e-6 * len(outcome)).any():
        return float("nan")
    return float(rest[:, 0] @ rest[:, 1] / size.prod())


def over_models(
    frame: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], draws: int, rng, models: bool = True
) -> tuple[float, float, float, float]:
    """A statistic of a frame of runs with its 95 % interval, and the share of draws in which it was defined.

    Models are drawn with replacement (not if models is False), then runs in each. Column: model.
    """
    groups = [part.index.to_numpy() for _, part in frame.groupby("model")]
    values = []
    for _ in range(draws):
        picked = rng.integers(len(groups), size=len(groups)) if models else range(len(groups))
        rows = np.concatenate([rng.choice(groups[at], len(groups[at])) for at in picked])
        values.append(statistic(frame.loc[rows]))
    known = np.array(values)[np.isfinite(values)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
    return float(statistic(frame)), float(low), float(high), len(known) / draws


def last_over_best(values: np.ndarray) -> np.ndarray:
    """Last value less the lowest, along the last axis: what a reader of a curve calls its rise."""
    return values[..., -1] - values.min(-1)


def turning(values: np.ndarray) -> np.ndarray:
    """The nearest curve (n,) that first only falls, then only rises."""
    return min(
        (
            np.concatenate([isotonic_regression(part, increasing=up).x for part, up in parts if len(part)])
            for parts in (((values[:turn], False), (values[turn:], True)) for turn in range(1, len(values) + 1))
        ),
        key=lambda fit: np.sum((values - fit) ** 2),
    )


def scatter(values: np.ndarray) -> float:
    """Standard deviation of one point about its neighbours' line, for evenly spaced points (n,)."""
    return float(np.sqrt(np.mean((values[1:-1] - (values[:-2] + values[2:]) / 2) ** 2) / 1.5))


def chance_rises(values: np.ndarray, noise: float, draws: int, rng) -> np.ndarray:
    """Rises (draws,) by `last_over_best` of the nearest curve that never rises, with that noise: best of n by luck."""
    never = isotonic_regression(values, increasing=False).x
    return last_over_best(never + noise * rng.standard_normal((draws, len(values))))


def redrawn_rises(values: np.ndarray, noise: float, draws: int, rng) -> np.ndarray:
    """Rises (draws,) of the nearest curve that falls and then rises, with that noise, less what the choice adds."""
    fit = turning(values)
    drawn = last_over_best(fit + noise * rng.standard_normal((draws, len(values))))
    return drawn - (drawn.mean() - last_over_best(fit))
