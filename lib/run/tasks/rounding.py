"""What storing logits in half precision costs where they share an offset: measured, and by the formula (chapter 8)."""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from lib.measure import offsets
from lib.run.tasks import heads
from lib.train import precision

FORMATS = {"fp16": 10, "bf16": 7}  # bits of mantissa
ROWS = 128  # positions whose logits are held at once


def costs(address: str, corpus: str, tokens: int, octaves: list[int], context: int = 512) -> pd.DataFrame:
    """Loss with logits of a real model rounded at an offset, over the loss without: a row for each format and octave.

    The offset is 1.5 times 2^octave, the middle of the numbers of one spacing. Columns format, octave, offset, spacing,
    cost, low, high (nats; 95 % over windows), expected: c s^2 / 24 with c, the mean of 1 - sum p^2 over the same
    positions, as column c.
    """
    material = heads.prepared(address, corpus, context, tokens, context, "cpu", "float32")
    states, labels = material.validation
    weight = material.head.out
    losses, spreads = [], []
    for part, own in zip(states.split(ROWS), labels.split(ROWS), strict=True):
        logits = part @ weight.T
        logits = logits - logits.mean(1, keepdim=True)
        exact = F.cross_entropy(logits, own, reduction="none")
        spreads.append(1 - logits.softmax(1).square().sum(1))
        losses.append(torch.stack([_shifted(logits, own, *point) - exact for point in _points(octaves)]))
    by_window = torch.cat(losses, 1).double().unflatten(1, (-1, material.context)).mean(2)
    half = heads.Z * by_window.std(1) / by_window.shape[1] ** 0.5
    c = float(torch.cat(spreads).mean())
    rows = []
    for (dtype, octave), cost, reach in zip(_points(octaves), by_window.mean(1).tolist(), half.tolist(), strict=True):
        offset, digits = 1.5 * 2.0**octave, FORMATS[dtype]
        about = {"format": dtype, "octave": octave, "offset": offset, "spacing": 2.0 ** (octave - digits), "cost": cost}
        about |= {"low": cost - reach, "high": cost + reach}
        rows.append(about | {"expected": offsets.rounding_cost(offset, c, digits), "c": c})
    return pd.DataFrame(rows)


def health(address: str, corpus: str, tokens: int, context: int = 512) -> dict[str, float]:
    """Does a model drift? Its logits as they are, what storing them costs, and what its gradient would lose in fp16.

    offset (mean logit over tokens and positions), spread (its deviation over positions), largest (absolute logit);
    spacing_fp16, spacing_bf16 (between numbers at the offset); cost_fp16, cost_bf16 (nats); delta_1, delta_16 (of a
    gradient stored in fp16 at kappa 1 and 1/16: the sum that it loses).
    """
    material = heads.prepared(address, corpus, context, tokens, context, "cpu", "float32")
    states, labels = material.validation
    found, largest, means = [], 0.0, []
    for part, own in zip(states.split(ROWS), labels.split(ROWS), strict=True):
        logits = part @ material.head.out.T
        exact = F.cross_entropy(logits, own, reduction="none")
        costs = [F.cross_entropy(precision.rounded(logits, dtype), own, reduction="none") - exact for dtype in FORMATS]
        gradient = logits.softmax(1).scatter_add_(1, own[:, None], -torch.ones(len(own), 1))
        lost = [-precision.rounded(gradient, "fp16", kappa).double().sum(1) for kappa in (1.0, 1 / 16)]
        found.append(torch.stack([*costs, *lost]).double())
        largest, means = max(largest, float(logits.abs().max())), [*means, logits.mean(1)]
    means = torch.cat(means).double()
    columns = zip(
        (*(f"cost_{name}" for name in FORMATS), "delta_1", "delta_16"), torch.cat(found, 1).mean(1), strict=True
    )
    offset = float(means.mean())
    spacings = {f"spacing_{name}": spacing(offset, digits) for name, digits in FORMATS.items()}
    about = {"offset": offset, "spread": float(means.std()), "largest": largest}
    return about | spacings | {name: float(value) for name, value in columns}


def lost(address: str, corpus: str, tokens: int, powers: list[int], context: int = 512) -> pd.DataFrame:
    """What fp16 takes from the gradient of a model's logits, at kappa = 2^power: a row for each power.

    Columns kappa, delta, low, high (mean of minus the sum of a position's stored gradient; 95 % over windows), tail
    (mean probability of the tokens whose entry becomes zero) and flushed (their share of the vocabulary).
    """
    material = heads.prepared(address, corpus, context, tokens, context, "cpu", "float32")
    states, labels = material.validation
    found = []
    for part, own in zip(states.split(ROWS), labels.split(ROWS), strict=True):
        gradient = (part @ material.head.out.T).softmax(1).scatter_add_(1, own[:, None], -torch.ones(len(own), 1))
        for power in powers:
            stored = precision.rounded(gradient, "fp16", 2.0**power)
            gone = stored == 0
            parts = -stored.double().sum(1), (gradient * gone).double().sum(1), gone.double().mean(1)
            found.append(pd.DataFrame(dict(zip(("delta", "tail", "flushed"), parts, strict=True))).assign(power=power))
    rows = []
    for power, frame in pd.concat(found).groupby("power", sort=False):
        windows = frame.delta.to_numpy().reshape(-1, material.context).mean(1)
        half = heads.Z * windows.std(ddof=1) / len(windows) ** 0.5 if len(windows) > 1 else np.nan
        means = frame[["delta", "tail", "flushed"]].mean().to_dict()
        rows.append({"kappa": 2.0**power, **means, "low": means["delta"] - half, "high": means["delta"] + half})
    return pd.DataFrame(rows)[["kappa", "delta", "low", "high", "tail", "flushed"]]


def by_model(lost_frame: pd.DataFrame) -> pd.DataFrame:
    """Delta of several models: a row for each kappa, a column for each address. lost_frame: `lost`, with `address`."""
    table = lost_frame.pivot(index="kappa", columns="address", values="delta").sort_index(ascending=False)
    return table[lost_frame.address.unique()].rename_axis(columns=None).reset_index()


def spacing(offset: float, digits: int) -> float:
    """Distance of the numbers of a format with so many bits of mantissa at an offset; 0 at 0."""
    return 2.0 ** (np.floor(np.log2(abs(offset))) - digits) if offset else 0.0


def agreement(frame: pd.DataFrame, finest: float = 1.0) -> float:
    """Largest factor between cost and formula, for spacings up to `finest` and intervals below the cost."""
    known = frame[(frame.spacing <= finest) & (frame.high - frame.low < frame.cost)]
    return float(np.exp(np.abs(np.log(known.cost / known.expected)).max()))


def _points(octaves):
    return [(dtype, octave) for dtype in FORMATS for octave in octaves]


def _shifted(logits, labels, dtype, octave):
    """Losses (n,) of logits stored at an offset; taken away again, which is exact."""
    offset = 1.5 * 2.0**octave
    return F.cross_entropy(precision.rounded_(logits + offset, dtype) - offset, labels, reduction="none")
