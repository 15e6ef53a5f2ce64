"""What storing logits in half precision costs where they share an offset: measured, and by the formula (chapter 8)."""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from lib.measure import offsets
from lib.study import heads
from lib.train import precision

FORMATS = {name: precision.FORMATS[precision.named(name)][0] for name in ("fp16", "bf16")}  # bits of mantissa
ROWS = 128  # positions whose logits are held at once


def costs(address: str, corpus: str, tokens: int, octaves: list[int], context: int = 512) -> pd.DataFrame:
    """Loss with logits of a real model rounded at an offset, over the loss without: a row for each format and octave.

    The offset is 1.5 times 2^octave, the middle of the numbers of one spacing. Columns format, octave, offset, spacing,
    cost, low, high (nats; 95 % over windows), expected: c s^2 / 24 with c, the mean of 1 - sum p^2 over the same
    positions, as column c.
    """
    points = [(dtype, octave) for dtype in FORMATS for octave in octaves]
    losses, spreads, context = [], [], _material(address, corpus, tokens, context).context
    for logits, own in _logits(address, corpus, tokens, context):
        logits = logits - logits.mean(1, keepdim=True)
        exact = F.cross_entropy(logits, own, reduction="none")
        spreads.append(1 - logits.softmax(1).square().sum(1))
        losses.append(torch.stack([_shifted(logits, own, *point) - exact for point in points]))
    c = float(torch.cat(spreads).mean())
    rows = []
    for (dtype, octave), each in zip(points, torch.cat(losses, 1), strict=True):
        offset, digits = 1.5 * 2.0**octave, FORMATS[dtype]
        cost, reach = _mean(each, context)
        about = {"format": dtype, "octave": octave, "offset": offset, "spacing": offsets.spacing(offset, digits)}
        about |= {"cost": cost, "low": cost - reach, "high": cost + reach}
        rows.append(about | {"expected": offsets.rounding_cost(offset, c, digits), "c": c})
    return pd.DataFrame(rows)


def health(address: str, corpus: str, tokens: int, context: int = 512) -> dict[str, float]:
    """Does a model drift? Its logits as they are, what storing them costs, and what its gradient would lose in fp16.

    offset (mean logit over tokens and positions), spread (its deviation over positions), largest (absolute logit);
    spacing_fp16, spacing_bf16 (between numbers at the offset); cost_fp16, cost_bf16 (nats); delta_1, delta_16 (of a
    gradient stored in fp16 at kappa 1 and 1/16: the sum that it loses).
    """
    found = []
    for logits, own in _logits(address, corpus, tokens, context):
        exact = F.cross_entropy(logits, own, reduction="none")
        about = {"offset": logits.mean(1), "largest": logits.abs().amax(1)}
        for dtype in FORMATS:
            about[f"cost_{dtype}"] = F.cross_entropy(precision.rounded(logits, dtype), own, reduction="none") - exact
        slope = gradient(logits, own)
        for name, kappa in {"delta_1": 1.0, "delta_16": 1 / 16}.items():
            about[name] = -precision.rounded(slope, "fp16", kappa).double().sum(1)
        found.append(pd.DataFrame({name: part.double() for name, part in about.items()}))
    frame = pd.concat(found)
    means = frame.mean().to_dict()
    spacings = {f"spacing_{name}": offsets.spacing(means["offset"], digits) for name, digits in FORMATS.items()}
    return means | {"spread": float(frame.offset.std()), "largest": float(frame.largest.max())} | spacings


def lost(address: str, corpus: str, tokens: int, powers: list[int], context: int = 512) -> pd.DataFrame:
    """What fp16 takes from the gradient of a model's logits, at kappa = 2^power: a row for each power.

    Columns kappa, delta, low, high (mean of minus the sum of a position's stored gradient; 95 % over windows), tail
    (mean probability of the tokens whose entry becomes zero) and flushed (their share of the vocabulary).
    """
    found, context = [], _material(address, corpus, tokens, context).context
    for logits, own in _logits(address, corpus, tokens, context):
        slope = gradient(logits, own)
        for power in powers:
            stored = precision.rounded(slope, "fp16", 2.0**power)
            gone = stored == 0
            parts = -stored.double().sum(1), (slope * gone).double().sum(1), gone.double().mean(1)
            found.append(pd.DataFrame(dict(zip(("delta", "tail", "flushed"), parts, strict=True))).assign(power=power))
    rows = []
    for power, frame in pd.concat(found).groupby("power", sort=False):
        delta, reach = _mean(torch.tensor(frame.delta.to_numpy()), context)
        ends = {"kappa": 2.0**power, "delta": delta, "low": delta - reach, "high": delta + reach}
        rows.append(ends | frame[["tail", "flushed"]].mean().to_dict())
    return pd.DataFrame(rows)


def gradient(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Gradient of each position's loss by its logits (n, V), exact: probabilities less the label."""
    return logits.softmax(1).scatter_add_(1, labels[:, None], -torch.ones(len(labels), 1))


def by_model(lost_frame: pd.DataFrame) -> pd.DataFrame:
    """Delta of several models: a row for each kappa, a column for each address. lost_frame: `lost`, with `address`."""
    table = lost_frame.pivot(index="kappa", columns="address", values="delta").sort_index(ascending=False)
    return table[lost_frame.address.unique()].rename_axis(columns=None).reset_index()


def agreement(frame: pd.DataFrame, finest: float = 1.0) -> float:
    """Largest factor between cost and formula, for spacings up to `finest` and intervals below the cost."""
    known = frame[(frame.spacing <= finest) & (frame.high - frame.low < frame.cost)]
    return float(np.exp(np.abs(np.log(known.cost / known.expected)).max()))


def _material(address, corpus, tokens, context):
    return heads.prepared(address, corpus, context, tokens, context, "cpu", "float32")


def _logits(address, corpus, tokens, context):
    """Logits and labels of a few positions at a time."""
    material = _material(address, corpus, tokens, context)
    states, labels = material.validation
    for part, own in zip(states.split(ROWS), labels.split(ROWS), strict=True):
        yield part @ material.head.out.T, own


def _mean(each, context):
    """Mean of a value of every position, and the half of its 95 % interval over windows."""
    windows = each.double().view(-1, context).mean(1)
    return float(windows.mean()), float(heads.Z * windows.std() / len(windows) ** 0.5)


def _shifted(logits, labels, dtype, octave):
    """Losses (n,) of logits stored at an offset; taken away again, which is exact."""
    offset = 1.5 * 2.0**octave
    return F.cross_entropy(precision.rounded_(logits + offset, dtype) - offset, labels, reduction="none")
