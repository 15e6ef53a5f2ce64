"""Spectra of heads by address (Section 4.2), as data frames."""

import functools

import numpy as np
import pandas as pd
import torch
from scipy.optimize import brentq

from lib.data import architecture, checkpoints
from lib.data import corpora as texts
from lib.measure import spectra
from lib.measure.anisotropy import anisotropy
from lib.train.states import windows

RAW, CENTRED, DEFLATED = VIEWS = ("raw", "mean row removed", "frequency axis removed too")
CHUNK = 256  # states whose logits exist at a time: 50 MB at V = 49,152


def spectrum(address: str, corpora: list[str], rows: int | None = None) -> pd.DataFrame:
    """Singular values of a head in each of the VIEWS: view, width, rank (from 1), sigma, correlation.

    The last is that of the top left singular direction with log(count + 1) of the tokens over the training part of
    the corpora, up to sign.
    """
    weight = checkpoints.head(address, rows)
    frequency = log_frequency(address, corpora, len(weight))
    frames = []
    for view, seen in _views(weight, frequency).items():
        left = spectra.principal(seen)[0][:, 0]
        frames.append(_frame(seen, view=view, correlation=abs(float(np.corrcoef(left, frequency)[0, 1]))))
    return pd.concat(frames, ignore_index=True)


def nulls(address: str, seed: int, rows: int | None = None) -> pd.DataFrame:
    """Singular values of two matrices that hold no language: null, view, width, rank, sigma.

    "Gaussian": independent entries of one variance. "shuffled": the entries of each column of the head in random order,
    which keeps the mean row and every column's distribution.
    """
    weight, rng = checkpoints.head(address, rows).float().numpy(), np.random.default_rng(seed)
    gaussian = rng.standard_normal(weight.shape, np.float32)
    shuffled = rng.permuted(np.ascontiguousarray(weight.T), axis=1).T
    return pd.concat(
        [
            _frame(seen, null=null, view=view)
            for null, matrix in (("Gaussian", gaussian), ("shuffled", shuffled))
            for view, seen in ((RAW, matrix), (CENTRED, spectra.centre(matrix)))
        ],
        ignore_index=True,
    )


def geometry(address: str, rows: int | None = None) -> dict[str, float]:
    """How the rows of a head lie: the mean row against the top direction, the rows against each other.

    Rows of zeros, such as some models keep for padding, have no direction and are left out of the cosines.
    """
    weight = checkpoints.head(address, rows)
    _, sigma, right = spectra.principal(weight, 2)
    mean = weight.double().mean(0).numpy()
    total = float(torch.linalg.norm(weight, dtype=torch.float64)) ** 2
    return {
        "vocabulary": len(weight),
        "width": weight.shape[1],
        "first": float(sigma[0]),
        "second": float(sigma[1]),
        "top_cosine_mean_row": abs(float(right[:, 0] @ mean / np.linalg.norm(mean))),
        "mean_row_share": float(len(weight) * mean @ mean / total),
        "row_cosine": anisotropy(weight[weight.any(dim=1)]),
        "row_cosine_centred": anisotropy(spectra.centre(weight)),
    }


@torch.inference_mode()
def blindness(
    address: str, corpus: str, tokens: int, context: int = 256, device: str = "cpu", dtype: str = "float32"
) -> dict[str, float]:
    """What centring the head does to its predictions on real text: losses before and after, and the KL between them.

    The body's products are made in ``dtype``, the head's and its logits in float32, sums in float64.
    """
    model, tokenizer = checkpoints.load(address, device)
    stream = texts.tokens(corpus, tokenizer, "validation")[: tokens + 1]
    inputs, labels = windows(stream, architecture.longest(model, context))
    readout = architecture.readout(model)
    weights = readout.weight, spectra.centre(readout.weight)
    architecture.cast(model, architecture.product_dtype(dtype))
    sums = torch.zeros(3, dtype=torch.float64)
    worst = 0.0
    for batch, target in zip(inputs.split(1), labels.split(1), strict=True):
        states = architecture.last_states(model, batch.to(device)).flatten(0, 1)
        for part, right in zip(states.split(CHUNK), target.flatten().to(device).split(CHUNK), strict=True):
            before, after = (readout.logits(part, weight).log_softmax(-1) for weight in weights)
            divergence = (before.exp() * (before - after)).sum(-1, dtype=torch.float64)
            worst = max(worst, float(divergence.abs().max()))
            losses = [-p.gather(1, right[:, None]).sum(dtype=torch.float64) for p in (before, after)]
            sums += torch.stack([*losses, divergence.sum()]).cpu()
    before, after, divergence = (sums / labels.numel()).tolist()
    return {
        "tokens": labels.numel(), "loss": before, "loss_centred": after, "kl": divergence, "worst_kl": worst,
        "difference": abs(after - before),
    }  # fmt: skip


def entropies(frame: pd.DataFrame) -> pd.DataFrame:
    """Singular entropy for both powers from a frame with rank and sigma: one row for each spectrum and power.

    Columns: all others of the frame, power, entropy, effective_rank.
    """
    keys = [column for column in frame.columns if column not in ("rank", "sigma")]
    rows = [
        dict(zip(keys, key, strict=True))
        | {
            "power": power,
            "entropy": spectra.singular_entropy(part["sigma"], power),
            "effective_rank": spectra.effective_rank(part["sigma"], power),
        }
        for key, part in frame.groupby(keys, sort=False)
        for power in (1, 2)
    ]
    return pd.DataFrame(rows)


def tails(ratios: pd.DataFrame, entropies: pd.DataFrame) -> pd.DataFrame:
    """Where all values beyond the second must lie for the paper's Figures 4 and 5 to agree, for powers 1 and 2.

    ratios: model, width, step, ratio (second value over the first); entropies: model, step, entropy. The values beyond
    the second are taken as one level; tail is that level over the second value: near one for a spectrum without a gap.
    """
    rows = []
    for row in ratios.itertuples():
        curve = entropies[entropies.model == row.model].sort_values("step")
        read = float(np.interp(row.step, curve.step, curve.entropy))
        for power in (1, 2):

            def excess(log_tail, row=row, power=power, read=read):
                rest = np.full(row.width - 2, row.ratio * np.exp(log_tail))
                return spectra.singular_entropy(np.r_[1.0, row.ratio, rest], power) - read

            tail = float(np.exp(brentq(excess, -30, 0)))
            rows.append({"model": row.model, "step": row.step, "entropy": read, "power": power, "tail": tail})
    return pd.DataFrame(rows)


def log_frequency(address: str, corpora: list[str], vocabulary: int) -> np.ndarray:
    """log(count + 1) of each of the first ``vocabulary`` tokens over the training part of the corpora."""
    run = address.partition("@")[0]  # all steps of a run share a tokenizer
    return np.log1p(_counts(run, address, tuple(corpora), vocabulary))


def thin(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """Rows at about ``count`` ranks between the first and the last of each width, evenly spaced in the logarithm."""
    kept = [
        part[part["rank"].isin(np.unique(np.geomspace(1, width, count).round()))]
        for width, part in frame.groupby("width", sort=False)
    ]
    return pd.concat(kept, ignore_index=True)


@functools.lru_cache(maxsize=8)
def _counts(run, address, corpora, vocabulary):
    tokenizer = checkpoints.tokenizer(address)
    counts = sum(np.bincount(texts.tokens(name, tokenizer, "train"), minlength=vocabulary) for name in corpora)
    return counts[:vocabulary]


def _views(weight, frequency):
    centred = spectra.centre(weight)
    return dict(zip(VIEWS, (weight, centred, spectra.deflate(centred, frequency - frequency.mean())), strict=True))


def _frame(weight, **columns):
    sigma = spectra.singular_values(weight)
    ranks = np.arange(1, len(sigma) + 1)
    return pd.DataFrame(columns | {"width": len(sigma), "rank": ranks, "sigma": sigma})
