"""Whether training runs of the reader's own saturate: the book's detector on loss curves from files.

The detector looks at points of which each is nearly the loss: what lies between the lowest and the highest of them
decides about failures. The loss of a single batch is no such point, so long or noisy curves are averaged first.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import optimize, stats

from lib.data.curves import Curve
from lib.measure import onset
from lib.measure.saturation import BINS, DEVIATIONS, DIVERGED, FEWEST, saturation

SCHEMA, VERSION = "loss-curves", 1
POINTS = 400  # of a curve that the detector sees: the published ones have up to 154
NOISE = 0.02  # of such a point, at most, if there are enough to average
POWER = 0.8  # chance of finding the rise that further points are counted for
LEVEL = 0.95  # of intervals of the onset and over runs
UNSETTLED = "noise"
REDRAWN = ("saturation", "still falling", "noise")  # what a trend that falls and rises once can tell from one another


def judge(curves: Sequence[Curve], min_rise: float = 0.005, draws: int = 40, seed: int = 0) -> dict:
    """What each curve does, how sure that is and what would settle it; several curves are seeds of one setting.

    min_rise: the smallest relative rise that counts. draws: how often each curve is drawn anew. Raises ValueError
    without curves. Returns numbers that JSON can hold, relative ones as fractions, None for what is not known:

    schema, version; criterion: what decides, by name.
    runs: for each curve its name, read (column, axis, unit, rows, points, averaged: points to a mean, said, failed: the
    step from which on no loss is finite), the fields of `measure.saturation.Saturation` with its effect as rise (value,
    low, high), redrawn_saturated (share of curves with its trend and new noise that saturate), onset (step, low, high)
    and more (points that would settle what is open, factor: how many times as many that makes, rise: the one that they
    would tell).
    seeds: None for a single curve, else what `public.by_width` says of the runs of one model; calm: runs without a
    spike, onset_first and onset_last.
    """
    if not curves:
        raise ValueError("there is no loss curve to judge: pass at least one file")
    runs = [_run(curve, min_rise, draws, seed) for curve in curves]
    criterion = {"smallest_rise": min_rise, "told_rise": 2 * min_rise, "deviations": DEVIATIONS, "diverged": DIVERGED}
    criterion |= {"power": POWER, "fewest_points": FEWEST, "level": LEVEL, "draws": draws, "seed": seed}
    seeds = _seeds(runs, min_rise, seed) if len(runs) > 1 else None
    return _plain({"schema": SCHEMA, "version": VERSION, "criterion": criterion, "runs": runs, "seeds": seeds})


def drawn(curves: Sequence[Curve], marks: int = 1200) -> pd.DataFrame:
    """The curves as a chart shows them, at most so many marks in all: run, unit, series, step, loss, above.

    series: `points`, or `means` of as many neighbours as the detector takes together; above: per cent above the lowest
    mean of its run.
    """
    frames = []
    for curve in curves:
        most = max(BINS, marks // len(curves) - BINS)
        whole = _averaged(curve.steps, curve.losses, -(-len(curve.steps) // most))
        near = _near(*_points(curve)[:2])
        means = _averaged(*near, -(-len(near[0]) // BINS))
        for series, (steps, losses) in {"points": whole, "means": means}.items():
            above = 100 * (losses / means[1].min() - 1)
            about = {"run": curve.name, "unit": curve.unit, "series": series}
            frames.append(pd.DataFrame({"step": steps, "loss": losses, "above": above}).assign(**about))
    return pd.concat(frames, ignore_index=True)


def _run(curve, min_rise, draws, seed):
    """One entry of `judge`."""
    steps, losses, width = _points(curve)
    found = saturation(steps, losses, min_rise)
    near = _near(steps, losses)
    rise = {"value": found.effect, "low": found.interval[0], "high": found.interval[1]}
    read = {"column": curve.column, "axis": curve.axis, "unit": curve.unit, "rows": curve.rows}
    read |= {"said": curve.said, "failed": curve.failed}
    told = dataclasses.asdict(found)
    told = {name: told[name] for name in ("best_step", "best_loss", "final_step", "final_loss", "noise", "correlation")}
    drawable = len(near[0]) >= FEWEST and found.kind in REDRAWN
    share = _redrawn(*near, min_rise, draws, seed) if drawable else None
    return {
        "name": curve.name,
        "read": read | {"points": len(curve.steps), "averaged": width},
        "kind": found.kind,
        "saturated": found.saturated,
        "reason": found.reason,
        "rise": rise,
        **told,
        "redrawn_saturated": share,
        "onset": _onset(*near, min_rise, seed) if found.saturated else None,
        "more": _more(found, len(near[0]), width, min_rise),
    }


def _points(curve):
    """Steps and losses that the detector sees, and how many points each is the mean of."""
    y = np.log(curve.losses)
    noise = 1.4826 * np.median(np.abs(y[:-2] - 2 * y[1:-1] + y[2:])) / np.sqrt(6)
    width = max(-(-len(y) // POINTS), int(np.ceil((noise / NOISE) ** 2)))
    width = max(1, min(width, len(y) // BINS))
    return *_averaged(curve.steps, curve.losses, width), width


def _averaged(steps, losses, width):
    """Means over `width` neighbours, of the loss in logarithms and without the extreme tenths; the first few go."""
    if width == 1:
        return steps, losses
    steps, y = (values[len(values) % width :].reshape(-1, width) for values in (steps, np.log(losses)))
    return steps.mean(1), np.exp(stats.trim_mean(y, 0.1, axis=1))


def _near(steps, losses):
    """The part of a curve from where it first comes near its lowest."""
    first = (losses <= losses.min() * (1 + DIVERGED)).argmax()
    return steps[first:], losses[first:]


def _redrawn(steps, losses, min_rise, draws, seed):
    """Share of curves with this one's trend and new noise of its kind that saturate."""
    steps, losses = _averaged(steps, losses, -(-len(steps) // BINS))
    found, rng = saturation(steps, losses, min_rise), np.random.default_rng(seed)
    noise = rng.standard_normal((draws, len(steps)))
    for place in range(1, len(steps)):
        noise[:, place] *= np.sqrt(1 - found.correlation**2)
        noise[:, place] += found.correlation * noise[:, place - 1]
    again = np.exp(_trend(np.log(losses)) + found.noise * noise)
    return float(np.mean([saturation(steps, curve, min_rise).saturated for curve in again]))


def _trend(y):
    """The nearest curve that first only falls and then only rises, (n,)."""
    fits = [
        np.concatenate([optimize.isotonic_regression(part, increasing=up).x for part, up in parts if len(part)])
        for parts in ([(y[:turn], False), (y[turn:], True)] for turn in range(len(y) + 1))
    ]
    return min(fits, key=lambda fit: np.sum((y - fit) ** 2))


def _onset(steps, losses, min_rise, seed):
    """From which step on the loss stays above its floor by more than `min_rise`, with an interval."""
    left = onset.departure(*_averaged(steps, losses / losses.min(), -(-len(steps) // BINS)), min_rise, seed=seed)
    return {"step": left.halfway, "low": left.low, "high": left.high} if left.found else None


def _more(found, near, width, min_rise):
    """How many further points would settle what noise leaves open: None where nothing is open.

    The standard error of the rise falls as one over the root of the number of points. Enough are those with which a
    rise of twice `min_rise` would pass the detector with the chance `POWER`, and with which the rise as it is now
    would be told from either zero or that.
    """
    told = 2 * min_rise
    if found.kind != UNSETTLED or (near >= FEWEST and found.interval[1] < told):
        return None
    low, high = np.log1p(found.interval)
    error, effect = (high - low) / (2 * DEVIATIONS), np.log1p(found.effect)
    target = min(
        np.log1p(told) / (DEVIATIONS + stats.norm.ppf(POWER)), max(effect, np.log1p(told) - effect) / DEVIATIONS
    )
    factor = max((error / target) ** 2, FEWEST / near)
    return {"rise": told, "factor": factor, "points": int(np.ceil((factor - 1) * near * width))}


def _seeds(runs, min_rise, seed, draws=2000):
    """All runs together as `public.by_width` takes the runs of one model, with the share, the rise and its interval."""
    from lib.study import public  # brings torch and lm-eval along, which a single curve need not wait for

    rows = [run["rise"] | {name: run[name] for name in ("name", "kind", "saturated")} for run in runs]
    found = pd.DataFrame(rows).rename(columns={"value": "effect"})
    calm = found.kind != "spike"
    if not calm.any():
        return {"runs": len(runs), "saturated": 0, "calm": 0}
    error = (found.high - found.low) / (2 * DEVIATIONS)
    onsets = [run["onset"]["step"] if run["onset"] else np.nan for run in runs]
    found = found.assign(error=error, onset=onsets, model="own", width=0)
    together = public.by_width(found, min_rise, draws, seed).iloc[0]
    names = ["runs", "saturated", "spread", "seeds"]
    names += [f"{name}{end}" for name in ("share", "rise") for end in ("", "_low", "_high")]
    steps = [step for step in onsets if np.isfinite(step)]
    first, last = (min(steps), max(steps)) if steps else (None, None)
    about = {"calm": int(calm.sum()), "onset": together.onset, "onset_first": first, "onset_last": last}
    return {name: together[name] for name in names} | about


def _plain(value):
    """As JSON holds it: lists, Python's numbers, None for what is not finite."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
