"""The checks of the claims' criteria on plain frames: what passes, what fails, what the data can't say (None).

Each takes the limits of its criterion (`lib.data.criteria`), and the paper's curves and ours in the same form.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from lib.measure.judge import every, none
from lib.measure.knee import crossing, reread


def late_rise(frame: pd.DataFrame, limits: Mapping) -> dict:
    """Checks of C1 on one source."""
    narrow = frame.width < limits["width"]
    return {"narrow": every(frame.saturated[narrow]), "wide": none(frame.saturated[~narrow])}


def kept(recipes: pd.DataFrame, pairs: Sequence[tuple[str, str, str]]) -> tuple[float, float, float]:
    """Mean share of the rise of log perplexity that stays under the other recipe, with its 95 % interval over models.

    recipes: run, best, final (perplexities); pairs: the model, its run that was studied, and the other. Pairs of one
    model share that run, so they are averaged first.
    """
    rise = np.log(recipes.set_index("run").final / recipes.set_index("run").best)
    shares = pd.Series({other: rise[other] / rise[studied] for _, studied, other in pairs})
    shares = shares.groupby({other: model for model, _, other in pairs}).mean()
    half = stats.sem(shares) * stats.t.ppf(0.975, len(shares) - 1)
    return float(shares.mean()), float(shares.mean() - half), float(shares.mean() + half)


def gaps(frame: pd.DataFrame, limits: Mapping) -> dict:
    """Checks of C2 on one source; None where no law could be fitted, or its interval is too wide to fail."""
    if frame.value.isna().any() or (frame.high - frame.low > limits["widest"]).any():
        return dict.fromkeys(("final", "best"))
    slack = limits["rounding"]
    return {
        name: bool(frame.low[name] <= limits[name] + slack and frame.high[name] >= limits[name] - slack)
        for name in ("final", "best")
    }


def fell(frame: pd.DataFrame, limits: Mapping) -> dict:
    """Checks of C3 on one source; None without scores."""
    if frame.empty:
        return dict.fromkeys(("worse", "most"))
    return {"worse": bool((frame.worse > 0).all()), "most": bool((frame.low > 0).mean() >= limits["half"])}


def anisotropic(frame: pd.DataFrame, limits: Mapping) -> dict:
    """Checks of C4 on one source."""
    high, narrow = frame.anisotropy >= limits["level"], frame.width < limits["width"]
    return {"narrow": every(high[narrow]), "wide": none(high[~narrow])}


def ordered(frame: pd.DataFrame) -> dict[str, bool]:
    """For each family of two widths or more, whether its narrowest model is more anisotropic than its widest."""
    ranked = {family: part.sort_values("width") for family, part in frame.groupby("family") if part.width.nunique() > 1}
    return {family: bool(part.anisotropy.iloc[0] > part.anisotropy.iloc[-1]) for family, part in ranked.items()}


def together(frame: pd.DataFrame, limits: Mapping) -> dict:
    """Checks of C5 on one source; the first says nothing where no perplexity rises."""
    rises = frame.rise >= limits["rise"]
    return {"rising": every(frame.becomes[rises]), "calm": none(frame.becomes[~rises])}


def late(along: pd.DataFrame, limits: Mapping, share: float = 0.1) -> pd.DataFrame:
    """What runs did past a share of their steps, from model, seed, step, perplexity and anisotropy, for `together`:
    rise (of the perplexity, from its lowest to its last), becomes, turn, passes (steps), length.

    A run becomes anisotropic if it passes the level from below and ends above it.
    """
    level, rows = limits["level"], []
    for (model, seed), run in along.sort_values("step").groupby(["model", "seed"], sort=False):
        length = run.step.max()
        run = run[run.step >= share * length]
        best, below = run.perplexity.idxmin(), run.step[run.anisotropy < level]
        becomes = len(below) > 0 and run.anisotropy.iloc[-1] >= level
        passes = run.step[run.step > below.max()].min() if becomes else np.nan
        rise = run.perplexity.iloc[-1] / run.perplexity[best] - 1
        row = {"model": model, "seed": seed, "rise": rise, "becomes": becomes, "turn": run.step[best], "passes": passes}
        rows.append(row | {"length": length})
    return pd.DataFrame(rows)


def shape(frame: pd.DataFrame, limits: Mapping) -> pd.DataFrame:
    """What each head did: narrow, fell, collapsed, share (of ln d, at the end)."""
    rows = []
    for _, head in frame.sort_values("step").groupby(["model", "seed"], sort=False):
        width, head = head.width.iloc[0], head[head.step >= limits["start"] * head.step.max()]
        lowest = head.entropy.idxmin()
        before = head.entropy.loc[:lowest].max()
        share = head.entropy.iloc[-1] / np.log(width)
        fell = head.entropy[lowest] <= (1 - limits["fall"]) * before
        narrow, collapsed = width < limits["width"], share > limits["half"]
        rows.append({"narrow": narrow, "fell": fell, "collapsed": collapsed, "share": share})
    return pd.DataFrame(rows)


def collapse(shapes: pd.DataFrame, limits: Mapping) -> dict:
    """Checks of C6 on one source, from `shape`."""
    narrow = shapes[shapes.narrow]
    return {
        "flat": every(narrow.fell),
        "narrow": every(narrow.collapsed),
        "wide": none(shapes.collapsed[~shapes.narrow]),
    }


def costs(frame: pd.DataFrame, limits: Mapping) -> dict:
    """Checks of C7 on one source; ranks of the full width cost nothing by construction and are not in it."""
    frame = frame[frame.cost.abs() > frame.error]  # what lies within its error says neither
    more, rank = frame.cost > 0, frame["rank"]
    near = (rank > limits["low"]) & (rank <= limits["near"])
    return {"low": every(more[rank <= limits["low"]]), "near": every(more[near])}


def dimension(frame: pd.DataFrame, limits: Mapping) -> bool | None:
    """The numbers' check of C8."""
    return bool(frame.dimension.between(limits["low"], limits["high"]).any()) if len(frame) else None


def controls(growth: float, shuffled: float, factor: float, limits: Mapping) -> dict:
    """The reading's checks of C8."""
    change = limits["change"]
    return {
        "stable": None if np.isnan(growth) else abs(growth - 1) < change,
        "language": None if np.isnan(shuffled) else abs(shuffled - 1) > change,
        "known": None if np.isnan(factor) else factor < limits["factor"],
    }


def onsets(frame: pd.DataFrame, errors: Mapping, limits: Mapping, draws: int, seed: int) -> tuple[float, float]:
    """W-error at which the loss passes the limit over the full head's, and the share of re-readings inside the band."""

    def onset(w_error, loss):
        return crossing(w_error, 100 * (loss / frame.full.to_numpy() - 1), limits["excess"])

    times = draws if any(errors.values()) else 1
    read = [reread(frame[name], errors[name], times, seed + k) for k, name in enumerate(("w_error", "loss"))]
    drawn = np.array([onset(*one) for one in zip(*read, strict=True)])
    inside = (drawn >= limits["low"]) & (drawn <= limits["high"])
    return onset(frame.w_error.to_numpy(), frame.loss.to_numpy()), float(inside.mean())
