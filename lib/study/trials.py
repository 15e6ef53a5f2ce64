"""Training runs with anything changed that might decide whether they saturate: chapter 8, the training laboratory."""

import dataclasses
import difflib

import numpy as np
import pandas as pd

from lib.run import sweep
from lib.study.arms import last, word
from lib.train import suite, trial
from lib.train.together import train

FIELDS = {field.name: field.default for field in dataclasses.fields(trial.Trial)}
QUANTITIES = [
    "loss",
    "offset",
    "delta",
    "anisotropy",
    "entropy",
    "entropy_centred",
    "ratio",
    "ones",
    "gain",
    "key_bias",
]


def trained(text: str, **settings) -> pd.DataFrame:
    """One run along training: a row for each evaluation, with what `lib.train.followed.measured` gives.

    text: a profile of the suite, whose training and validation texts are read. settings: fields of
    `lib.train.trial.Trial`. Raises ValueError for a setting that it does not have, or can't have.
    """
    _known(settings)
    run = trial.Trial(**settings)
    folder = suite.text(text, run.vocabulary)
    streams = (np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("train", "validation"))
    return pd.DataFrame(train([run], *streams)[0])


def together(text: str, runs: list[dict], device: str = "cpu") -> pd.DataFrame:
    """As `trained`, of several runs side by side, each with settings of its own; columns arm and seed name them.

    On a GPU they run at the same time. Raises ValueError for settings that can't be, or that runs have to share.
    """
    for settings in runs:
        _known(settings)
    runs = [{name: settings.get(name, FIELDS[name]) for one in runs for name in one} for settings in runs]
    trials = [trial.Trial(**settings) for settings in runs]
    folder = suite.text(text, trials[0].vocabulary)
    streams = (np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("train", "validation"))
    rows = train(trials, *streams, device)
    frames = [pd.DataFrame(along).assign(**settings) for along, settings in zip(rows, runs, strict=True)]
    return labelled(pd.concat(frames, ignore_index=True), runs)


def points(settings: dict) -> list[dict]:
    """The runs that settings ask for: every combination where a value is a list; what is as by default is left out.

    Raises ValueError for a setting that there is not, or that can't be had, before anything is trained.
    """
    _known(settings)
    axes = {name: value if isinstance(value, list) else [value] for name, value in settings.items()}
    if empty := [name for name, values in axes.items() if not values]:
        raise ValueError(f"{empty[0]} is an empty list: give it at least one value, or leave it out.")
    changed = {name: values for name, values in axes.items() if values != [FIELDS[name]]}
    grid = sweep.product(**changed)
    runs = [trial.Trial(**point) for point in grid]
    if len(set(runs)) < len(runs):
        raise ValueError("two runs of the grid are the same: give each value once; fp32 is float32, and 8.0 is 8.")
    return grid


def along(grid: list[dict], text: str, **how) -> pd.DataFrame:
    """All runs of a grid along training; a column `arm` says what differs, seeds apart. how: `sweep.run`'s.

    Raises ValueError for a run without a curve, before anything is trained.
    """
    if any(min(point.get(name, FIELDS[name]) for name in ("steps", "evaluations")) < 2 for point in grid):
        raise ValueError("steps or evaluations are less than 2: expected 2 or more, so that there is a curve.")
    return labelled(sweep.run(trained, grid, text=text, **how), grid)


def labelled(frame: pd.DataFrame, grid: list[dict]) -> pd.DataFrame:
    """The frame of a grid's runs, in the grid's order, with columns arm and seed: what differs between its points.

    A run begins where its step is 0; its point is told by that, since some settings and measures share a name.
    """
    differing = [name for name in grid[0] if name != "seed" and len({repr(point[name]) for point in grid}) > 1]
    words = [", ".join(f"{name} {word(point[name])}" for name in differing) or "run" for point in grid]
    runs = frame.step.eq(0).cumsum() - 1
    seeds = [point.get("seed", FIELDS["seed"]) for point in grid]
    return frame.assign(arm=runs.map(dict(enumerate(words))), seed=runs.map(dict(enumerate(seeds))))


def sentences(frame: pd.DataFrame, answered: pd.DataFrame) -> list[str]:
    """What came out, a sentence for each arm. frame: `along`; answered: `arms.answers`."""
    ends = last(frame).groupby("arm", sort=False)[["loss", "offset", "delta"]].mean()
    lines = []
    for row in answered.itertuples():
        end = ends.loc[row.arm]
        verdict = f"{row.saturated} of {row.runs} runs saturate"
        where = f"loss {end.loss:.3f} nats at the end, {row.rise:.3f} above its best"
        lines.append(f"**{row.arm}**: {verdict}; {where}; mean logit {end.offset:+.3g}; delta {end.delta:.2g}.")
    return lines


def _known(settings):
    if unknown := [name for name in settings if name not in FIELDS]:
        near = difflib.get_close_matches(unknown[0], FIELDS, 1)
        advice = f"; did you mean {near[0]}?" if near else f": expected one of {', '.join(FIELDS)}."
        raise ValueError(f"there is no setting {unknown[0]!r}{advice}")
