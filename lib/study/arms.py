"""Arms of an experiment, each trained from several seeds: what the detector says of them, and where they end."""

import numpy as np
import pandas as pd
from scipy.stats import t

from lib.measure.saturation import saturation

ENOUGH = 0.75  # of the seeds must be called saturated, and none of the control's


def verdicts(frame: pd.DataFrame, min_rise: float) -> pd.DataFrame:
    """What the detector says of each run's loss: arm, seed, kind, saturated, rise and worst (nats).

    rise is the loss at the end and worst the largest loss after the lowest one, each less the lowest.
    """
    rows = []
    for (arm, seed), run in frame.groupby(["arm", "seed"], sort=False):
        steps, losses = run.step.to_numpy(), run.loss.to_numpy()
        found = saturation(steps, losses, min_rise)
        worst = losses[losses.argmin() :].max()
        rises = {"rise": losses[-1] - losses.min(), "worst": worst - losses.min()}
        rows.append({"arm": arm, "seed": seed, "kind": found.kind, "saturated": found.saturated} | rises)
    return pd.DataFrame(rows)


def answers(called: pd.DataFrame, control: str | None = None) -> pd.DataFrame:
    """A row for each arm: runs, saturated (how many), rise and worst (means, nats), kinds, and turns, by the criterion.

    An arm turns where at least ENOUGH of its runs are saturated and none of the control's is, if it is there.
    called: `verdicts`.
    """
    groups = called.groupby("arm", sort=False)
    table = groups.agg(
        runs=("saturated", "size"), saturated=("saturated", "sum"), rise=("rise", "mean"), worst=("worst", "mean")
    )
    table["kinds"] = groups.kind.agg(lambda kinds: ", ".join(f"{n} {kind}" for kind, n in kinds.value_counts().items()))
    table["turns"] = (table.saturated >= ENOUGH * table.runs) & (table.saturated.get(control, 0) == 0)
    return table.reset_index()


def listed(answered: pd.DataFrame) -> str:
    """Names of the arms that turn, for a sentence; answered: `answers`."""
    return "; ".join(answered.arm[answered.turns]) or "none"


def last(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of the last step of each arm."""
    return frame[frame.step == frame.groupby("arm").step.transform("max")]


def summary(frame: pd.DataFrame, quantities: list[str], level: float = 0.95) -> pd.DataFrame:
    """The last step of each arm, means over seeds with t-intervals: arm, quantity, value, low, high.

    Without a second seed there is no interval: low and high are NaN.
    """
    ends = last(frame).melt(["arm", "seed"], quantities, "quantity")
    found = ends.groupby(["arm", "quantity"], sort=False).value.agg(value="mean", error="sem", seeds="size")
    reach = found.error * t.ppf(0.5 + level / 2, found.seeds - 1)
    return found[["value"]].assign(low=found.value - reach, high=found.value + reach).reset_index()


def wide(summarised: pd.DataFrame) -> pd.DataFrame:
    """The means of a `summary` as a table: an arm a row, a quantity a column."""
    table = summarised.pivot(index="arm", columns="quantity", values="value")
    return table.loc[summarised.arm.unique(), summarised.quantity.unique()].rename_axis(columns=None).reset_index()


def along(frame: pd.DataFrame, *quantities: str) -> pd.DataFrame:
    """Long form for a chart: arm, quantity, step, the mean over seeds (value), and their extremes (low, high)."""
    groups = frame.melt(["arm", "step"], list(quantities), "quantity").groupby(["arm", "quantity", "step"], sort=False)
    return groups.value.agg(value="mean", low="min", high="max").reset_index()


def word(value) -> str:
    """A value of a setting as a label writes it: powers of two as such."""
    if isinstance(value, float) and value > 0 and value != int(value) and np.log2(value).is_integer():
        return f"2^{int(np.log2(value))}"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
