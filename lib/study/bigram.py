"""The smallest model that saturates (chapter 8): bigram counts, with the gradient of the logits rounded, or not."""

from dataclasses import asdict

import numpy as np
import pandas as pd

from lib.study.arms import word
from lib.train import bigram, suite

QUANTITIES = ["gap", "offset", "anisotropy", "entropy", "entropy_centred", "ratio", "delta"]
CONTROL = "float32"


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
) -> pd.DataFrame:
    """Every arm and seed along training, on the training text of a profile of the suite.

    A row for each arm, seed and step: arm, kappa, seed, step, loss (nats, from float64) and what
    `lib.train.bigram.measured` gives. Raises ValueError where the text has too few contexts.
    """
    return _trained(arms(powers), profile, vocabulary, contexts, width, updates, rate, seeds, evaluations)


def twins(
    profile: str,
    vocabulary: int,
    contexts: int,
    width: int,
    updates: int,
    rate: float,
    power: int,
    seeds: int,
    evaluations: int,
) -> pd.DataFrame:
    """As `trained`, of two arms: float32, and fp16 at kappa 2^power."""
    known = {name: arm for name, arm in arms([power]).items() if name in (CONTROL, f"fp16, {word(2.0**power)}")}
    return _trained(known, profile, vocabulary, contexts, width, updates, rate, seeds, evaluations)


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Those of several learning rates in fp16 without a cure: rate, power (log2 of kappa), step, gap, offset."""
    fp16 = frame[frame.arm.str.fullmatch(r"fp16, [^,]*") & (frame.step > 0)]
    return fp16.assign(power=np.log2(fp16.kappa).round().astype(int))[["rate", "power", "step", "gap", "offset"]]


def _trained(known, profile, vocabulary, contexts, width, updates, rate, seeds, evaluations):
    ids = np.load(suite.text(profile, vocabulary) / "train.npy")
    text = bigram.bigrams(ids, contexts, vocabulary)
    runs = [bigram.Run(**about, seed=seed) for about in known.values() for seed in range(seeds)]
    frame = pd.DataFrame(bigram.train(runs, text, width, updates, rate, evaluations))
    labels = [label for label in known for _ in range(seeds)]
    about = pd.DataFrame([asdict(run) for run in runs])[["kappa", "seed"]].assign(arm=labels)
    frame = about.loc[frame.pop("run")].reset_index(drop=True).join(frame)
    return frame.assign(loss=frame.gap + text.entropy)[["arm", "kappa", "seed", "step", "loss", *QUANTITIES]]
