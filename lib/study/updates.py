"""Heads of low rank after so many updates of the optimiser, from a random draw and from the real head (Section 5.1).

The paper trains each head for about 286 updates. Chapter 5.1 shows such runs, of several lengths, as records that
`python -m lib.run.kept` makes.
"""

from functools import lru_cache

import numpy as np
import pandas as pd

from lib.study.heads import initial, prepared
from lib.train import heads

STOP = 4  # windows at the end of the kept states, on which curves and rates are judged
ARMS = ("scaled", "trained")


def trained(
    address: str,
    corpus: str,
    arm: str,
    ranks: list[int],
    rates: list[float],
    updates: int,
    search: int,
    tokens: int,
    validation: int,
    start: str = "weighted",
    batch: int = 512,
    evaluations: int = 8,
    context: int = 512,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
) -> pd.DataFrame:
    """Heads of each rank after ``updates`` steps of ``batch`` fresh tokens, with a cosine of that length.

    ``arm`` is "scaled" (A and B from N(0, 1), with logits of variance 1) or "trained" (from the untrained arm
    ``start``, at full rank the real head as a product). Each rank takes the rate that serves it best in ``search``
    updates, whatever the length and the seed. A row for each rank: rate, tried (losses of the rates after the search),
    steps and curve (loss of the last kept windows on the way, the best of which is step), and of the head at that step,
    on the validation tokens, loss, accuracy (per cent) and windows (loss of each window).
    Raises ValueError where too few tokens are kept.
    """
    if arm not in ARMS:
        raise ValueError(f"arm is {arm!r}: pass one of {', '.join(ARMS)}.")
    material = prepared(address, corpus, tokens, validation, context, device, dtype)
    tried = _searched(material, arm, tuple(ranks), tuple(rates), search, start, batch)
    best = [rates[int(np.argmin(losses))] for losses in tried]
    runs = _train(material, _in_order(material, arm, ranks, start, seed), best, updates, batch, evaluations, seed)
    rows = []
    for rank, run, losses in zip(ranks, runs, tried, strict=True):
        loss, right = heads.losses(run.head, *material.validation)
        rows.append(
            {
                "rank": rank,
                "rate": run.rate,
                "step": run.best,
                "tried": losses,
                "steps": run.steps,
                "curve": run.losses,
                "loss": float(loss.double().mean()),
                "accuracy": 100 * float(right.double().mean()),
                "windows": loss[:, 0].view(-1, material.context).double().mean(1).tolist(),
            }
        )
    return pd.DataFrame(rows)


@lru_cache(maxsize=2)
def _searched(material, arm, ranks, rates, search, start, batch):
    """For each rank the loss after a short run at each rate; the first seed decides for all."""
    starts = _in_order(material, arm, ranks, start, seed=0)
    runs = [_train(material, starts, [rate] * len(ranks), search, batch, evaluations=1, seed=0) for rate in rates]
    return [[by_rank[place].losses[-1] for by_rank in runs] for place in range(len(ranks))]


def _in_order(material, arm, ranks, start, seed):
    by_rank = initial(material, arm, ranks, start, seed)
    return [by_rank[rank] for rank in ranks]


def _train(material, starts, rates, updates, batch, evaluations, seed):
    """Runs on the first tokens, each seen once."""
    states, labels = material.train
    wanted, stop = updates * batch, STOP * material.context
    if wanted > len(states) - stop:
        raise ValueError(
            f"{updates} updates of {batch} tokens and {stop} to judge them are wanted, and {len(states)} states are "
            "kept: raise tokens, or lower updates or batch."
        )
    recipe = heads.Recipe(
        epochs=1, batch=batch, evaluations=evaluations, patience=evaluations + 1, dtype=material.dtype, seed=seed
    )
    pairs = list(zip(starts, rates, strict=True))
    return heads.train(pairs, states[:wanted], labels[:wanted], (states[-stop:], labels[-stop:]), recipe)
