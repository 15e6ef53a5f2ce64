"""The smallest model that saturates (chapter 8): bigram counts, with the gradient of the logits rounded, or not."""

import re
from dataclasses import asdict

import numpy as np
import pandas as pd

from lib.study.arms import word
from lib.train import bigram, suite

QUANTITIES = ["gap", "gap_fp16", "offset", "anisotropy", "entropy", "entropy_centred", "ratio", "delta"]
CONTROL = "float32"
STORED = ", logits too"
FROM = 64  # mean logit from which the cost of rounding is looked at
ALONE = r"fp16, [^,]*"  # arms of fp16 without anything else


def arms(powers: list[int]) -> dict[str, dict]:
    """Name -> how the gradient is stored: float32, bf16, fp16 at kappa 2^power, and two cures at the last power."""
    half = {f"fp16, {word(2.0**power)}": {"dtype": "float16", "kappa": 2.0**power} for power in powers}
    last = {"dtype": "float16", "kappa": 2.0 ** powers[-1]}
    return {
        CONTROL: {"dtype": "float32", "kappa": 1.0},
        f"bf16, {word(2.0 ** powers[-1])}": last | {"dtype": "bfloat16"},
        **half,
        f"fp16, {word(2.0 ** powers[-1])}, centred": last | {"centred": True},
        f"fp16, {word(2.0 ** powers[-1])}, balanced": last | {"balanced": True},
    }


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
    device: str = "cpu",
) -> pd.DataFrame:
    """Every arm and seed along training, on the training text of a profile of the suite.

    A row for each arm, seed and step: arm, kappa, seed, step, loss (nats, from float64) and what
    `lib.train.bigram.measured` gives. Raises ValueError where the text has too few contexts.
    """
    return _trained(arms(powers), profile, vocabulary, contexts, width, updates, rate, seeds, evaluations, device)


def stored(
    profile: str,
    vocabulary: int,
    contexts: int,
    width: int,
    updates: int,
    rate: float,
    powers: list[int],
    seeds: int,
    evaluations: int,
    device: str = "cpu",
) -> pd.DataFrame:
    """As `trained`, of float32, of fp16 at the first kappa 2^power, and at each with the logits stored in fp16 too."""
    every = arms(powers)
    half = [name for name in every if re.fullmatch(ALONE, name)]
    known = {name: every[name] for name in (CONTROL, half[0])}
    known |= {name + STORED: every[name] | {"logits": "float16"} for name in half}
    return _trained(known, profile, vocabulary, contexts, width, updates, rate, seeds, evaluations, device)


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Those of several learning rates in fp16 without a cure: rate, power (log2 of kappa), step, gap, offset."""
    fp16 = frame[frame.arm.str.fullmatch(ALONE) & (frame.step > 0)]
    return fp16.assign(power=np.log2(fp16.kappa).round().astype(int))[["rate", "power", "step", "gap", "offset"]]


def seen(frame: pd.DataFrame) -> pd.DataFrame:
    """Of `stored`: cost (what storing the logits in fp16 adds to the loss), and the loss that a trainer would read."""
    cost = frame.gap_fp16 - frame.gap
    return frame.assign(cost=cost, loss=frame.loss + cost.where(frame.arm.str.endswith(STORED), 0))


def steps(frame: pd.DataFrame, draws: int, seed: int) -> dict[str, float]:
    """Does the cost of rounding climb in steps of four at powers of two, or as the square of the offset?

    frame: `seen`. Where the mean logit exceeds 64 the cost is compared with c s^2 / 24, s the spacing of fp16 there,
    and with the square of the offset, each up to a factor of its own: deviation of the log2 of the ratio around
    `stairs` and around `square`, and `less`, by how much the first is smaller, with a 95 % interval over `runs`.
    The same for stairs at powers of two times any share: `shifted`, and the `share` that fits best. NaN without runs.
    """
    rests = frame[(frame.offset > FROM) & (frame.cost > 0)]
    parts = [np.log2(part[["cost", "offset"]].to_numpy()) for _, part in rests.groupby(["arm", "seed"])]
    if not parts:
        names = ("stairs", "square", "shifted", "share", "less", "low", "high", "shifted-less", "shifted-low")
        return {"runs": 0, **dict.fromkeys(names, np.nan)}
    found = _around(np.concatenate(parts))
    picked = np.random.default_rng(seed).integers(len(parts), size=(draws, len(parts)))
    drawn = pd.DataFrame([_around(np.concatenate([parts[number] for number in numbers])) for numbers in picked])
    low, high = (drawn.square - drawn.stairs).quantile([0.025, 0.975])
    found |= {"less": found["square"] - found["stairs"], "low": low, "high": high, "runs": len(parts)}
    shifted = (drawn.square - drawn.shifted).quantile(0.025)
    return found | {"shifted-less": found["square"] - found["shifted"], "shifted-low": shifted}


def _around(logs):
    """Deviations of the log2 cost around stairs, shifted stairs and the square; logs (n, 2): of cost and offset."""
    cost, offset = logs.T
    shifts = np.arange(0, 1, 1 / 32)
    each = [np.std(cost - 2 * np.floor(offset + shift)) for shift in shifts]
    best = int(np.argmin(each))
    return {
        "stairs": each[0],
        "square": np.std(cost - 2 * offset),
        "shifted": each[best],
        "share": 2.0 ** -shifts[best],
    }


def jump(run: pd.DataFrame, window: int = 5) -> dict[str, float]:
    """Where the cost of rounding grows most: the medians of two neighbouring windows of evaluations, and their offsets.

    run: one run of `seen` along training, from a mean logit of 256 on. step (of the border), before, after (cost,
    nats), from and to (mean logit); NaN where there are too few evaluations.
    """
    run = run[(run.cost > 0) & (run.offset > 4 * FROM)]
    if len(run) < 2 * window:
        return dict.fromkeys(("step", "before", "after", "from", "to"), np.nan)
    medians = run[["cost", "offset"]].rolling(window).median()
    first, last = medians.iloc[window - 1 : -window], medians.iloc[2 * window - 1 :]
    place = int(np.argmax(last.cost.to_numpy() / first.cost.to_numpy()))
    return {
        "step": float(run.step.iloc[place + window]),
        "before": float(first.cost.iloc[place]),
        "after": float(last.cost.iloc[place]),
        "from": float(first.offset.iloc[place]),
        "to": float(last.offset.iloc[place]),
    }


def _trained(known, profile, vocabulary, contexts, width, updates, rate, seeds, evaluations, device):
    ids = np.load(suite.text(profile, vocabulary) / "train.npy")
    text = bigram.bigrams(ids, contexts, vocabulary)
    runs = [bigram.Run(**about, seed=seed) for about in known.values() for seed in range(seeds)]
    frame = pd.DataFrame(bigram.train(runs, text, width, updates, rate, evaluations, device))
    labels = [label for label in known for _ in range(seeds)]
    about = pd.DataFrame([asdict(run) for run in runs])[["kappa", "seed"]].assign(arm=labels)
    frame = about.loc[frame.pop("run")].reset_index(drop=True).join(frame)
    return frame.assign(loss=frame.gap + text.entropy)[["arm", "kappa", "seed", "step", "loss", *QUANTITIES]]
