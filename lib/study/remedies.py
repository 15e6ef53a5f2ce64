"""What other heads are worth (chapter 7): small models trained with each, against linear heads of every width.

Two rules, chosen before the runs: a linear model with as many parameters, and one whose step takes as long. Both are
read off a curve of linear models of several widths, seed by seed.
"""

import itertools

import numpy as np
import pandas as pd

from lib.train import joint, remedies, suite

ATTENTION = {16: 2, 24: 3, 32: 4, 64: 4, 96: 6, 128: 8}  # heads for each width
RATES = {16: 1e-2, 24: 1e-2, 32: 1e-2, 64: 5e-3, 96: 5e-3, 128: 5e-3}  # the suite's
WIDTHS = {16: (16, 24, 32, 64), 64: (64, 96, 128)}  # of bodies: those of the linear models beside them
KINDS = {16: tuple(remedies.HEADS), 64: ("linear", "mixture", "wide", "bigram")}
STEPS = {16: 500, 64: 300}
SEEDS = range(3)


def trained(
    text: str,
    head: str,
    width: int,
    seed: int,
    steps: int,
    vocabulary: int = 4096,
    tokens_per_step: int = 512,
    evaluations: int = 8,
    validation_tokens: int = 8192,
    factor: float = 1.0,
) -> pd.DataFrame:
    """A model of a width trained with a head of a kind: a row for each evaluation, columns as `lib.train.joint.train`.

    text: a profile of the suite, whose text is read; factor: times the suite's learning rate. Raises ValueError for a
    width or a head that there is not.
    """
    if width not in ATTENTION:
        raise ValueError(f"width is {width}: expected one of {', '.join(map(str, ATTENTION))}.")
    run = joint.Joint(
        head=head,
        width=width,
        heads=ATTENTION[width],
        vocabulary=vocabulary,
        steps=steps,
        tokens_per_step=tokens_per_step,
        learning_rate=factor * RATES[width],
        evaluations=evaluations,
        validation_tokens=validation_tokens,
        seed=seed,
    )
    folder = suite.text(text, vocabulary)
    return pd.DataFrame(joint.train(run, *(np.load(folder / f"{part}.npy") for part in ("train", "validation"))))


def grid() -> list[dict]:
    """Points of all runs, width by width and seed by seed: heads at 16 and 64, and linear ones on wider bodies."""
    points = []
    for (base, kinds), seed in itertools.product(KINDS.items(), SEEDS):
        pairs = [(kind, base) for kind in kinds] + [("linear", width) for width in WIDTHS[base][1:]]
        points += [{"head": kind, "width": width, "seed": seed, "steps": STEPS[base]} for kind, width in pairs]
    return points
