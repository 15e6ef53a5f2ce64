"""How the dimension read off a W-error curve grows with the number of contexts, and how many contexts a curve had."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit


@dataclass(frozen=True)
class Growth:
    """dimension(C) = limit / (1 + (half / C) ** exponent): a power of C at first, then a constant."""

    limit: float  # dimensions
    half: float  # contexts at which half of the limit is reached
    exponent: float
    scatter: float  # root mean square of the residuals of log dimension

    def predict(self, contexts) -> np.ndarray:
        """Dimension at so many contexts."""
        return self.limit / (1 + (self.half / np.asarray(contexts, np.float64)) ** self.exponent)


def growth(contexts, dimension) -> Growth:
    """Fit Growth to log dimension by least squares. Raises ValueError with fewer than 4 sizes or dimensions of 0."""
    contexts, dimension = np.asarray(contexts, np.float64), np.asarray(dimension, np.float64)
    if len(contexts) != len(dimension) or len(contexts) < 4 or min(contexts.min(), dimension.min()) <= 0:
        raise ValueError(
            f"{len(contexts)} sizes and {len(dimension)} dimensions don't fix 3 constants: expected at least 4 of "
            "each, above 0; measure more sizes"
        )

    def log_dimension(log_contexts, log_limit, log_half, exponent):
        return log_limit - np.logaddexp(0, exponent * (log_half - log_contexts))

    start = np.log(dimension[-1]), np.log(contexts[len(contexts) // 2]), 1.0
    found, _ = curve_fit(log_dimension, np.log(contexts), np.log(dimension), start, maxfev=20000)
    residuals = np.log(dimension) - log_dimension(np.log(contexts), *found)
    limit, half = np.exp(found[:2])
    return Growth(float(limit), float(half), float(found[2]), float(np.sqrt((residuals**2).mean())))


def steps(ranks, w_error) -> np.ndarray:
    """Mean sigma^2 over ||W||^2 between neighbouring ranks: what the square of the W-error loses with each of them."""
    return -np.diff(np.square(w_error)) / np.diff(ranks)


def squared_norm(ranks, w_error) -> float:
    """||W||^2 of a matrix whose last stretch of singular values is sigma = 1, from its W-error.

    One-hot rows have whole sigma^2, so the square of the W-error ends in a straight line of slope -1/||W||^2, and then
    levels off: the median of the three intervals before its slope first halves, if they agree within a factor of 1.5.
    Raises ValueError where there is no such place.
    """
    slopes = steps(ranks, w_error)
    for end in np.flatnonzero(slopes[1:] < slopes[:-1] / 2):
        line = slopes[end - 2 : end + 1]
        if end >= 2 and line.max() < 1.5 * line.min():
            return float(np.median(1 / line))
    raise ValueError("the curve never levels off: expected ranks up to the number of tokens seen; pass larger ones")


def squares(ranks, w_error, norm: float | None = None, error: float = 0.0) -> pd.DataFrame:
    """sigma^2 between neighbouring ranks: columns rank (the middle), square, norm (||W||^2, read off unless given).

    doubt is the relative error of the slopes between W-errors of 0.1 and 0.3 from the ``error`` of reading their ends.
    """
    ranks, w_error = np.asarray(ranks, np.float64), np.asarray(w_error, np.float64)
    norm = squared_norm(ranks, w_error) if norm is None else norm
    slopes = w_error[(w_error >= 0.1) & (w_error <= 0.3)]
    doubt = np.median(2 * error * slopes / np.median(np.diff(ranks)) * norm) if len(slopes) else np.nan
    middle, square = (ranks[1:] + ranks[:-1]) / 2, steps(ranks, w_error) * norm
    return pd.DataFrame({"rank": middle, "square": square, "norm": norm, "doubt": doubt})
