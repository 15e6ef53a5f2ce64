"""The smallest model that saturates (chapter 8): bigram counts, with the gradient of the logits rounded, or not."""

from dataclasses import asdict

import numpy as np
import pandas as pd
from scipy.stats import t

from lib.measure.saturation import saturation
from lib.train import bigram, suite

QUANTITIES = ["gap", "offset", "anisotropy", "entropy", "entropy_centred", "ratio", "delta"]
CONTROL = "float32"
ENOUGH = 0.75  # of the seeds must be called saturated, and none of the control's


def arms(powers: list[int]) -> dict[str, dict]:
    """Name -> dtype, kappa and centring: float32, bf16, fp16 at kappa 2^power, and centred at the last power."""
    half = {f"fp16, {name(power)}": {"dtype": "float16", "kappa": 2.0**power, "centred": False} for power in powers}
    last = 2.0 ** powers[-1]
    return {
        CONTROL: {"dtype": "float32", "kappa": 1.0, "centred": False},
        f"bf16, {name(powers[-1])}": {"dtype": "bfloat16", "kappa": last, "centred": False},
        **half,
        f"fp16, {name(powers[-1])}, centred": {"dtype": "float16", "kappa": last, "centred": True},
    }


def name(power: int) -> str:
    """A power of two as a label writes it."""
    return "1" if power == 0 else f"2^{power}"


def trained(
    profile: str,
    vocabulary: int,
    contexts: int,
    width: int,
    updates: int,
    rate: float,
    powers: list[int],
    seeds: int,
    evaluations: int,
) -> pd.DataFrame:
    """Every arm and seed along training, on the training text of a profile of the suite.

    A row for each arm, seed and step: arm, kappa, seed, step, loss (nats, from float64) and what
    `lib.train.bigram.measured` gives. Raises ValueError where the text has too few contexts.
    """
    ids = np.load(suite.text(profile, vocabulary) / "train.npy")
    text = bigram.bigrams(ids, contexts, vocabulary)
    known = arms(powers)
    runs = [bigram.Run(**about, seed=seed) for about in known.values() for seed in range(seeds)]
    frame = pd.DataFrame(bigram.train(runs, text, width, updates, rate, evaluations))
    labels = [label for label in known for _ in range(seeds)]
    about = pd.DataFrame([asdict(run) for run in runs])[["kappa", "seed"]].assign(arm=labels)
    frame = about.loc[frame.pop("run")].reset_index(drop=True).join(frame)
    return frame.assign(loss=frame.gap + text.entropy)[["arm", "kappa", "seed", "step", "loss", *QUANTITIES]]


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


def answers(called: pd.DataFrame) -> pd.DataFrame:
    """A row for each arm: runs, saturated (how many), rise and worst (means, nats), kinds, and turns, by the criterion.

    An arm turns where at least ENOUGH of its runs are saturated and none of the control's is. called: `verdicts`.
    """
    groups = called.groupby("arm", sort=False)
    table = groups.agg(
        runs=("saturated", "size"), saturated=("saturated", "sum"), rise=("rise", "mean"), worst=("worst", "mean")
    )
    table["kinds"] = groups.kind.agg(lambda kinds: ", ".join(f"{n} {kind}" for kind, n in kinds.value_counts().items()))
    table["turns"] = (table.saturated >= ENOUGH * table.runs) & (table.saturated[CONTROL] == 0)
    return table.reset_index()


def listed(answered: pd.DataFrame) -> str:
    """Names of the arms that turn, for a sentence; answered: `answers`."""
    return "; ".join(answered.arm[answered.turns]) or "none"


def summary(frame: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """The last step, means over seeds with t-intervals: arm, quantity, value, low, high.

    Without a second seed there is no interval: low and high are NaN.
    """
    last = frame[frame.step == frame.step.max()].melt(["arm", "seed"], QUANTITIES, "quantity")
    found = last.groupby(["arm", "quantity"], sort=False).value.agg(value="mean", error="sem", seeds="size")
    reach = found.error * t.ppf(0.5 + level / 2, found.seeds - 1)
    return found[["value"]].assign(low=found.value - reach, high=found.value + reach).reset_index()


def wide(summarised: pd.DataFrame) -> pd.DataFrame:
    """The means of a `summary` as a table: an arm a row, a quantity a column."""
    table = summarised.pivot(index="arm", columns="quantity", values="value")
    return table.loc[summarised.arm.unique(), QUANTITIES].rename_axis(columns=None).reset_index()


def along(frame: pd.DataFrame, *quantities: str) -> pd.DataFrame:
    """Long form for a chart: arm, quantity, step, the mean over seeds (value), and their extremes (low, high)."""
    groups = frame.melt(["arm", "step"], list(quantities), "quantity").groupby(["arm", "quantity", "step"], sort=False)
    return groups.value.agg(value="mean", low="min", high="max").reset_index()
