"""Checkpoints along training runs: which to measure, and how their addresses read in a data frame."""

import re
from dataclasses import asdict

import pandas as pd

from lib.data import checkpoints
from lib.measure.onset import Rise, departure, lag, rise


def points(runs: list[str], steps: list[int]) -> list[dict]:
    """Grid of checkpoints of each run, an address without its revision: those nearest to ``steps``, and the last.

    Raises ValueError for a run that has no steps.
    """
    grid = []
    for run in runs:
        there = [int(name[4:]) for name in checkpoints.revisions(run) if re.fullmatch(r"step\d+", name)]
        if not there:
            raise ValueError(f"{run} has no revisions named stepN: pass runs that were saved along training.")
        wanted = [step for step in steps if step < there[-1]]
        nearest = {min(there, key=lambda kept, step=step: abs(kept - step)) for step in wanted} | {there[-1]}
        grid += [{"address": f"{run}@step{step}"} for step in sorted(nearest)]
    return grid


def name(run: str) -> str:
    """The model of a run's address, without its seed: "nano-8" of suite:nano-8-seed0."""
    return re.fullmatch(r"(?:.*[:/])?(.+?)(?:-seed\d+)?", run.partition("@")[0])[1]


def label(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with what its column ``address`` says: model (without the seed), seed, step in front."""
    parts = frame["address"].str.extract(r"^(?P<run>.*?(?:-seed(?P<seed>\d+))?)@step(?P<step>\d+)$")
    labels = pd.DataFrame(
        {
            "model": parts["run"].map(name),
            "seed": parts["seed"].fillna(0).astype(int),
            "step": parts["step"].astype(int),
        }
    )
    return pd.concat([labels, frame.drop(columns="address")], axis=1)


def curves(frame: pd.DataFrame, *quantities: str) -> pd.DataFrame:
    """Long form of columns measured along training: model, seed, step, quantity, value."""
    return frame.melt(["model", "seed", "step"], list(quantities), "quantity", "value")


def over_seeds(frame: pd.DataFrame, value: str, *keys: str) -> pd.DataFrame:
    """Mean, low and high (the extremes) of a column over seeds, by model, step and the keys."""
    grouped = frame.groupby([*keys, "model", "step"], sort=False)[value]
    return grouped.agg(**{value: "mean", "low": "min", "high": "max"}).reset_index()


def turns(frame: pd.DataFrame, least: dict[str, float]) -> pd.DataFrame:
    """The largest rise of each curve in a long frame (`curves`): model, seed, quantity and the fields of a Rise.

    ``least`` says for each quantity which rise counts, in its own unit.
    """
    return _each(frame, rise, least)


def departures(frame: pd.DataFrame, least: dict[str, float]) -> pd.DataFrame:
    """When each curve leaves its floor for good, in the form of `turns`; its step stands in the column halfway.

    ``least`` says for each quantity which share above its lowest value counts.
    """
    return _each(frame, departure, least)


def _each(frame, find, least):
    rows = []
    for (model, seed, quantity), part in frame.groupby(["model", "seed", "quantity"], sort=False):
        part = part.sort_values("step")
        found = find(part["step"], part["value"], least[quantity])
        rows.append({"model": model, "seed": seed, "quantity": quantity, **asdict(found)})
    return pd.DataFrame(rows)


def lags(frame: pd.DataFrame, pairs: list[tuple[str, str]]) -> pd.DataFrame:
    """Steps from one quantity's turn to another's in each run of a frame of turns: lag, low, high; NaN without a turn.

    Positive: the first of the pair comes first.
    """
    fields = list(Rise.__dataclass_fields__)
    rows = []
    for (model, seed), part in frame.groupby(["model", "seed"], sort=False):
        found = {row["quantity"]: Rise(*(row[field] for field in fields)) for _, row in part.iterrows()}
        for first, second in pairs:
            middle, low, high = lag(found[first], found[second])
            name = f"{first} to {second}"
            rows.append({"model": model, "seed": seed, "lag": name, "steps": middle, "low": low, "high": high})
    return pd.DataFrame(rows)


def thresholds(figure: pd.DataFrame, error: float = 1000) -> pd.DataFrame:
    """Turns of the anisotropy from the paper's Figure 3, in the form of `turns`: it says when one half is exceeded.

    ``error`` is the spacing of its checkpoints, which bounds each turn.
    """
    step = figure["step_above_0.5"]
    where = {"model": figure["model"], "seed": 0, "quantity": "anisotropy", "floor_step": float("nan")}
    when = {"halfway": step, "low": step - error, "high": step + error}
    return pd.DataFrame(where | when | {"size": float("nan"), "noise": float("nan"), "found": step.notna()})
