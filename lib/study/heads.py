"""Heads of low rank on the states of a frozen model (Section 5.1), as data frames.

Every function takes an address and a corpus; states are computed once for all of them and kept in the cache.
"""

import hashlib
import math
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd
import torch

from lib.data import architecture, checkpoints, corpora
from lib.data.cache import cache
from lib.measure import spectra
from lib.train import heads
from lib.train.starts import ARMS, gaussian, mean_probability, truncated
from lib.train.states import last_states, windows

Z = 1.96  # of a 95 % interval over windows
STOP = 0.01  # share of the kept states, the last ones, that decide when training stops
SAMPLE = 8192  # states that the mean probability of each token is taken over


class Material:
    """A head, and the states and labels of a number of training and of validation tokens."""

    def __init__(self, address: str, corpus: str, tokens: int, validation: int, context: int, device: str, dtype: str):
        self.dtype = architecture.product_dtype(dtype)
        model, tokenizer = checkpoints.load(address, device)
        torch.set_flush_denormal(True)  # exp of low logits: denormal numbers make products several times slower
        context = architecture.longest(model, context)
        self.context, self.head = context, heads.Head(architecture.readout(model).matrix())
        body = architecture.cast(model, self.dtype)
        parts = []
        for split, count in (("train", tokens), ("validation", validation)):
            stream = corpora.tokens(corpus, tokenizer, split)[: max(1, count // context) * context + 1]
            names = checkpoints.fingerprint(address), corpora.fingerprint(corpus), split, context, dtype
            key = hashlib.sha256(" ".join(map(str, names)).encode()).hexdigest()[:16]
            states = last_states(body, stream, cache() / "states" / key, context, self.dtype)
            parts.append((states, windows(stream, context)[1].flatten()))
        self.train, self.validation = parts
        self.cuts = {}

    @cached_property
    def base(self) -> torch.Tensor:
        """Loss of the untouched head at each validation token, (N,)."""
        return heads.losses(self.head, *self.validation)[0][:, 0]

    def cut(self, arm: str, calibration: int | None = None) -> heads.Head:
        """The head in an untrained arm, all ranks, as so many states decide (None: all); computed once.

        Fewer states are those of windows drawn at random over the text, the same ones every time.
        """
        if (arm, calibration) not in self.cuts:
            weight, states = self.head.out, self.train[0]
            if calibration is not None:
                drawn = np.random.default_rng(0).permutation(len(states) // self.context)
                kept = torch.from_numpy(np.sort(drawn[: max(1, calibration // self.context)]))
                states = states.view(-1, self.context, states.shape[1])[kept].flatten(0, 1)
            every = max(1, len(states) // SAMPLE)
            frequency = mean_probability(weight, states[::every]) if arm == "weighted" else None
            self.cuts[arm, calibration] = truncated(weight, arm, states.to(weight.device), frequency)
        return self.cuts[arm, calibration]

    def measure(self, head: heads.Head, ranks: list[int] | None = None) -> pd.DataFrame:
        """Loss, accuracy (per cent) and cost over the untouched head for each rank; intervals are over windows."""
        loss, right = heads.losses(head, *self.validation, ranks)
        rows = []
        for column, rank in enumerate(ranks or [head.rank]):
            extra = (loss[:, column] - self.base).view(-1, self.context).mean(1).double().cpu()
            half = Z * float(extra.std()) / math.sqrt(len(extra)) if len(extra) > 1 else math.nan
            cost = float(extra.mean())
            rows.append(
                {
                    "rank": rank,
                    "loss": float(loss[:, column].double().mean()),
                    "accuracy": 100 * float(right[:, column].double().mean()),
                    "cost": cost,
                    "low": cost - half,
                    "high": cost + half,
                }
            )
        return pd.DataFrame(rows)


# One after another, the arms of a chapter ask for the same.
prepared = lru_cache(maxsize=1)(Material)


def untrained(
    address: str,
    corpus: str,
    ranks: list[int],
    tokens: int,
    validation: int,
    context: int = 512,
    device: str = "cpu",
    dtype: str = "float32",
) -> pd.DataFrame:
    """Arms b to d without any training: arm, rank, loss, accuracy, cost, low, high, and the W-errors at that rank.

    raw, centred and whitened are the W-errors of the real head as it is, without its mean row, and as its logits on
    the states see it. The row "untouched" is the real head.
    """
    material = prepared(address, corpus, tokens, validation, context, device, dtype)
    cuts = {arm: material.cut(arm) for arm in ARMS}
    frames = [material.measure(material.head).assign(arm="untouched")]
    frames += [material.measure(head, sorted(ranks)).assign(arm=arm) for arm, head in cuts.items()]
    frame = pd.concat(frames, ignore_index=True)
    weight, carried = material.head.out, cuts["whitened"].out.double().norm(dim=0).sort(descending=True).values
    spectrum = {
        "raw": spectra.singular_values(weight),
        "centred": spectra.singular_values(spectra.centre(weight)),
        "whitened": carried,
    }
    for name, sigma in spectrum.items():
        frame[name] = spectra.w_error(sigma)[frame["rank"]]
    return frame[["arm", *frame.columns.drop("arm")]]


def fidelity(address: str, corpus: str, tokens: int, context: int = 512, dtype: str = "float32") -> dict:
    """Loss of the model as it is in float32, and from its states kept in ``dtype``, on the same validation tokens."""
    model, tokenizer = checkpoints.load(address)
    context = architecture.longest(model, context)
    inputs, labels = windows(corpora.tokens(corpus, tokenizer, "validation")[: tokens + 1], context)
    total = 0.0
    with torch.inference_mode():
        for window, target in zip(inputs, labels, strict=True):
            total += float(torch.nn.functional.cross_entropy(model(window[None]).logits[0], target))
    kept = Material(address, corpus, context, tokens, context, "cpu", dtype)
    return {"float32": total / len(inputs), "kept": float(kept.base.double().mean()), "tokens": inputs.numel()}


def rates(
    address: str,
    corpus: str,
    arm: str,
    ranks: list[int],
    rates: list[float],
    tokens: int,
    train: int,
    validation: int,
    start: str = "weighted",
    epochs: int = 1,
    batch: int = 1024,
    context: int = 512,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
) -> pd.DataFrame:
    """The stopping loss of each (rank, learning rate) after a short run, all in one pass: arm, rank, rate, loss."""
    material = prepared(address, corpus, tokens, validation, context, device, dtype)
    grid = [(rank, rate) for rank in ranks for rate in rates]
    starts = initial(material, arm, ranks, start, seed)
    runs = _train(material, [(starts[rank], rate) for rank, rate in grid], train, epochs, batch, seed)
    return pd.DataFrame(
        [
            {"arm": arm, "rank": rank, "rate": rate, "loss": min(run.losses)}
            for (rank, rate), run in zip(grid, runs, strict=True)
        ]
    )


def gap(
    address: str,
    corpus: str,
    rank: int,
    rates: list[float],
    parts: int,
    tokens: int,
    train: int,
    validation: int,
    start: str = "weighted",
    epochs: int = 2,
    batch: int = 1024,
    context: int = 512,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
) -> pd.DataFrame:
    """Rank r against a full refit, both trained on each of ``parts`` disjoint parts: part, low_rank, refit, untouched.

    Each part has ``train`` tokens of its own and its own share of the validation tokens; ``rates`` are the learning
    rates of the low rank and of the refit.
    """
    material = prepared(address, corpus, tokens, validation, context, device, dtype)
    whole = material.cut(start)
    starts = list(zip((whole.cut(rank), whole), rates, strict=True))
    share, rows = len(material.validation[0]) // parts, []
    for part in range(parts):
        runs = _train(material, starts, train, epochs, batch, seed, offset=part * train)
        here = slice(part * share, (part + 1) * share)
        states, labels = (whole[here] for whole in material.validation)
        low, refit = (float(heads.losses(run.head, states, labels)[0].double().mean()) for run in runs)
        rows.append(
            {
                "part": part + 1,
                "low_rank": low,
                "refit": refit,
                "gap": low - refit,
                "untouched": float(material.base[here].double().mean()),
            }
        )
    return pd.DataFrame(rows)


def smallest_rank(
    address: str,
    within: list[float],
    corpus: str = "wiki-en",
    tokens: int = 32768,
    validation: int = 8192,
    steps: int = 24,
    arm: str = "weighted",
    calibration: int | None = None,
    context: int = 512,
    device: str = "cpu",
    dtype: str = "float32",
) -> pd.DataFrame:
    """The smallest rank whose loss is within x nats of the full head, without training, for each x of ``within``.

    Ranks are tried in ``steps`` equal steps up to the width, all in one pass. Columns: address, width, vocabulary,
    within, rank, loss, cost, low, high, saved (parameters of the head), share (of them). Where no rank that saves
    parameters will do, rank is the width and saved is 0. ``calibration`` is the number of the kept states that decide
    what to cut, drawn over the whole text (None: all). A tied head saves nothing unless the embedding is factored
    too. Raises ValueError where ``within`` is not positive.
    """
    if not within or min(within) <= 0:
        raise ValueError(f"within is {within}: pass a list of positive numbers of nats, such as [0.05].")
    material = prepared(address, corpus, tokens, validation, context, device, dtype)
    vocabulary, width = material.head.out.shape
    ranks = sorted({round(width * step / steps) for step in range(1, steps + 1)} - {0})
    frame, rows = material.measure(material.cut(arm, calibration), ranks), []
    frame["saved"] = vocabulary * width - frame["rank"] * (vocabulary + width)
    for nats in sorted(within):
        enough = frame[(frame["cost"] <= nats) & (frame["saved"] > 0)]
        found = enough.iloc[0].to_dict() if len(enough) else frame.iloc[-1].to_dict() | {"saved": 0}
        rows.append({"address": address, "width": width, "vocabulary": vocabulary, "within": nats, **found})
    result = pd.DataFrame(rows).astype({"rank": int, "saved": int})
    result["share"] = result["saved"] / (vocabulary * width)
    return result.drop(columns="accuracy")


def chosen(searched: pd.DataFrame, ranks: list[int]) -> list[float]:
    """For each rank the learning rate of the least loss at the nearest rank, in log r, of a result of `rates`."""
    best = searched.loc[searched.groupby("rank")["loss"].idxmin()].set_index("rank")["rate"]
    return [float(best[min(best.index, key=lambda known: abs(math.log(known / rank)))]) for rank in ranks]


def initial(material, arm, ranks, start, seed):
    """Rank -> head before training, for an arm as `rates` takes it."""
    vocabulary, width = material.head.out.shape
    if arm in ("trained", "refit"):
        whole = material.cut(start)
        return {rank: whole.cut(rank) for rank in ranks}
    if arm not in ("as printed", "scaled"):
        raise ValueError(f"arm is {arm!r}: pass as printed, scaled, trained or refit.")
    scale = None if arm == "as printed" else float(material.train[0][:4096].float().square().mean().sqrt())
    return {rank: gaussian(vocabulary, width, rank, scale, seed, material.head.out.device) for rank in ranks}


def _train(material, starts, train, epochs, batch, seed, offset=0):
    """Runs on ``train`` tokens from ``offset`` on; the tokens at the end of what is kept decide when to stop."""
    states, labels = material.train
    stop = max(1, round(STOP * len(states) / material.context)) * material.context
    if offset + train > len(states) - stop:
        raise ValueError(
            f"{offset + train} training and {stop} stopping tokens are wanted, and {len(states)} states are kept: "
            "raise tokens or lower train."
        )
    here = slice(offset, offset + train)
    recipe = heads.Recipe(epochs=epochs, batch=batch, evaluations=2, dtype=material.dtype, seed=seed)
    return heads.train(starts, states[here], labels[here], (states[-stop:], labels[-stop:]), recipe)
