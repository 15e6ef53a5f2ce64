"""Checkpoints along training runs: which to measure, and how their addresses read in a data frame."""

import re

import numpy as np
import pandas as pd

from lib.data import checkpoints


def points(runs: list[str], count: int | None = None) -> list[dict]:
    """Grid of the checkpoints of each run, an address without its revision: all of them, or ``count`` evenly chosen.

    The first and the last are always among them. Raises ValueError for a run that has no steps.
    """
    grid = []
    for run in runs:
        steps = [revision for revision in checkpoints.revisions(run) if re.fullmatch(r"step\d+", revision)]
        if not steps:
            raise ValueError(f"{run} has no revisions named stepN: pass runs that were saved along training.")
        chosen = np.linspace(0, len(steps) - 1, min(count or len(steps), len(steps))).round().astype(int)
        grid += [{"address": f"{run}@{steps[place]}"} for place in chosen]
    return grid


def label(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with what its column ``address`` says: model (without the seed), seed, step in front."""
    parts = frame["address"].str.extract(r"(?:.*[:/])?(?P<model>.+?)(?:-seed(?P<seed>\d+))?@step(?P<step>\d+)$")
    parts = parts.assign(seed=parts["seed"].fillna(0).astype(int), step=parts["step"].astype(int))
    return pd.concat([parts, frame.drop(columns="address")], axis=1)
