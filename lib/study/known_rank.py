"""Heads narrower and wider than the rank of their language, in float32 (chapter 8): the knee, and what comes late."""

import numpy as np
import pandas as pd

from lib.train import known_rank

SMALL = 0.05  # of the gap of width 1: what a head that is wide enough may leave
RATE = 0.01  # peak of the learning rate
FLOOR = 1e-9  # nats: gaps below it are rounding


def heads(
    rank: int, spread: float, zipf: float, contexts: int, vocabulary: int, updates: int, seeds: int
) -> pd.DataFrame:
    """Free-state heads of widths 1 to rank + 1 on one language; a row for each width, seed and evaluation.

    Columns: width, seed, step, loss, gap (nats over the entropy), entropy.
    """
    learned = known_rank.language(rank, contexts, vocabulary, spread, zipf)
    frames = [
        pd.DataFrame(known_rank.train(learned, width, updates, seeds, RATE)).assign(width=width)
        for width in range(1, rank + 2)
    ]
    return pd.concat(frames, ignore_index=True).assign(entropy=learned.entropy)


def knees(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each language of a grid of `heads`: rank, spread, zipf, entropy, told, knee, cliff, last, left.

    told: rank - 1. knee: the least width whose mean gap at the end is at most SMALL of that of width 1, NaN if none is.
    cliff: the width before which the logarithm of the gap drops most. last: share of the gap of width 1 that width
    rank - 2 leaves; left: that of width rank - 1.
    """
    rows = []
    for (rank, spread, zipf), part in frame.groupby(["rank", "spread", "zipf"]):
        gaps = part[part.step == part.step.max()].groupby("width").gap.mean().clip(lower=FLOOR)
        share, drops = gaps / gaps.loc[1], np.diff(np.log(gaps))
        rows.append(
            {
                "rank": rank,
                "spread": spread,
                "zipf": zipf,
                "entropy": part.entropy.iloc[0],
                "told": rank - 1,
                "knee": share.index[share <= SMALL].min(),
                "cliff": int(gaps.index[1 + drops.argmin()]),
                "last": share.loc[rank - 2],
                "left": share.loc[rank - 1],
            }
        )
    return pd.DataFrame(rows)


def rises(frame: pd.DataFrame) -> pd.DataFrame:
    """How far each head that is too narrow rose above its lowest gap, as a share of it: rank, width, seed, rise."""
    rows = []
    narrow = frame[frame.width < frame["rank"] - 1]
    for (rank, _, _, width, seed), part in narrow.groupby(["rank", "spread", "zipf", "width", "seed"]):
        gap = part.gap.to_numpy()
        rows.append({"rank": rank, "width": width, "seed": seed, "rise": gap[gap.argmin() :].max() / gap.min() - 1})
    return pd.DataFrame(rows)
