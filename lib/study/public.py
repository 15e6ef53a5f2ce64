"""What public training runs show (chapter 3): the detector over seeds, sizes and onsets by width with intervals."""

import numpy as np
import pandas as pd
from scipy import stats

from lib.data import public
from lib.measure import saturation as detector
from lib.measure.onset import leaves
from lib.study.saturation import detect

WINDOW = 4000  # steps: the smallest distance at which an onset is known, two windows of the public logs
LATE = 1000  # step from which perplexities count: before it the models know nothing


def runs(min_rise: float = 0.005) -> pd.DataFrame:
    """What each of the 44 public runs did: model, width, seed, the fields of Saturation, low, high, error, onset.

    error is the standard error of the effect; onset the step after which the loss stays `min_rise` above its best (NaN
    where it does not end there).
    """
    losses, run = public.losses(), ["model", "width", "seed"]
    found = detect(losses, run, min_rise)
    onsets = {key: leaves(curve.step, curve.loss, min_rise) for key, curve in losses.groupby(run)}
    error = (found.high - found.low) / (2 * detector.DEVIATIONS)
    return found.assign(error=error, onset=[onsets[key] for key in found[run].itertuples(index=False, name=None)])


def by_width(found: pd.DataFrame, min_rise: float, draws: int, seed: int = 0) -> pd.DataFrame:
    """Runs of one model together, from a frame of `runs`: one row each, narrowest first.

    Columns model, width, runs, saturated, share with low and high (Wilson's 95 %), rise (mean effect of the runs
    without a spike, which is a failure that passes) with low and high (95 %: runs are drawn with replacement, and each
    one's effect with its own error), spread (standard deviation of the effect over runs), onset (median of those that
    saturate) with low and high, seeds: so many runs make the mean rise exceed `min_rise` by two standard errors; empty
    where it does not exceed it.
    """
    rng, rows = np.random.default_rng(seed), []
    for (width, model), part in found.groupby(["width", "model"]):
        calm = part[part.kind != "spike"]
        chosen = rng.integers(len(calm), size=(draws, len(calm)))
        effects = calm.effect.to_numpy()[chosen] + calm.error.to_numpy()[chosen] * rng.standard_normal(chosen.shape)
        onsets = part.onset[part.saturated].dropna().to_numpy()
        share = stats.binomtest(int(part.saturated.sum()), len(part)).proportion_ci(method="wilson")
        mean, spread = calm.effect.mean(), calm.effect.std(ddof=1)
        rows.append(
            {"model": model, "width": width, "runs": len(part), "saturated": int(part.saturated.sum())}
            | dict(zip(("share", "share_low", "share_high"), (part.saturated.mean(), *share), strict=True))
            | dict(zip(("rise", "rise_low", "rise_high"), (mean, *_ends(effects.mean(1))), strict=True))
            | dict(zip(("onset", "onset_low", "onset_high"), _median(onsets, draws, rng), strict=True))
            | {
                "spread": spread,
                "seeds": max(2.0, np.ceil((2 * spread / (mean - min_rise)) ** 2)) if mean > min_rise else np.nan,
            }
        )
    return pd.DataFrame(rows)


def perplexities(min_rise: float = 0.005) -> pd.DataFrame:
    """What the LAMBADA perplexities did, by their logarithm, a loss in nats on a last word.

    Columns model, release, width, kind, saturated, best_step, change (nats from the lowest to the last), and effect,
    low and high (nats, between the windows that show it best).
    """
    curves = public.perplexities().query("step >= @LATE")
    curves = curves.assign(loss=np.log(curves.perplexity))
    found = detect(curves, ["model", "release", "width"], min_rise)
    nats = {name: found[name] * found.best_loss for name in ("effect", "low", "high")}
    found = found.assign(change=found.final_loss - found.best_loss, **nats)
    columns = ["model", "release", "width", "kind", "saturated", "best_step", "change", "effect", "low", "high"]
    return found[columns].sort_values(["release", "width", "model"], ignore_index=True)


def above_lowest(found: pd.DataFrame) -> pd.DataFrame:
    """Every public curve as its distance from its own lowest loss: model, width, seed, step, above (per cent), kind."""
    curves = public.losses().merge(found[["model", "seed", "kind"]], on=["model", "seed"])
    lowest = curves.groupby(["model", "seed"]).loss.transform("min")
    return curves.assign(above=100 * (curves.loss / lowest - 1)).drop(columns="loss")


def in_per_cent(found: pd.DataFrame, by_width: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rises of runs and of models in per cent, in the columns that charts take."""
    runs = found[["model", "width", "seed", "kind"]].assign(rise=100 * found.effect)
    columns = ["rise", "rise_low", "rise_high"]
    return runs, by_width[["model", "width"]].join(100 * by_width[columns])


def readable(by_width: pd.DataFrame) -> pd.DataFrame:
    """A frame of `by_width` with headings in words."""
    counts = by_width.saturated.astype(str) + " of " + by_width.runs.astype(str)
    per_cent = {"rise %": "rise", "from %": "rise_low", "to %": "rise_high", "between runs %": "spread"}
    table = by_width[["model", "width"]].assign(saturate=counts)
    table = table.assign(**{heading: 100 * by_width[column] for heading, column in per_cent.items()})
    return table.assign(onset=by_width.onset, seeds=by_width.seeds)


def readable_perplexities(found: pd.DataFrame, widest: int = 1024) -> pd.DataFrame:
    """Models up to a width of a frame of `perplexities`, with headings in words."""
    names = {
        "best_step": "lowest at step",
        "change": "change, nats",
        "effect": "effect, nats",
        "low": "from",
        "high": "to",
    }
    return found[found.width <= widest].drop(columns="saturated").rename(columns=names)


def _ends(values):
    return tuple(np.quantile(values, [0.025, 0.975]))


def _median(values, draws, rng):
    """Median and its 95 % interval over runs drawn with replacement; NaN without any."""
    if not len(values):
        return np.nan, np.nan, np.nan
    drawn = np.median(values[rng.integers(len(values), size=(draws, len(values)))], axis=1)
    low, high = _ends(drawn)
    return float(np.median(values)), min(low, np.median(values) - WINDOW / 2), max(high, np.median(values) + WINDOW / 2)
