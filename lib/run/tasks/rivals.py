"""Other explanations of what narrow models do late (chapter 8): rank, what the head passes on, which tokens lose."""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from lib.data import checkpoints
from lib.measure import spectra
from lib.run.tasks import heads
from lib.run.tasks.rounding import gradient
from lib.train import bigram, suite

ROWS = 256  # positions whose logits are held at once


def known_rank(
    rank: int, widths: list[int], contexts: int, vocabulary: int, spread: float, skew: float, updates: int, seeds: int
) -> pd.DataFrame:
    """Heads of several widths on a language whose log-probabilities have a known rank, trained in float32.

    The logits of a context are its `rank - 1` normal coordinates times those of the tokens, with deviation `spread`;
    less their normaliser, which adds the all-ones direction, they have that rank. skew: exponent of
    Zipf's law over the contexts. A row for each width, seed and evaluation: width, seed, step, loss and gap (nats over
    the source's entropy). Raises ValueError for a rank below 2 or beyond what the sizes allow.
    """
    if not 2 <= rank <= min(contexts, vocabulary):
        raise ValueError(f"rank is {rank}: expected 2 to {min(contexts, vocabulary)}.")
    rng = np.random.default_rng(0)
    inner = rng.standard_normal((contexts, rank - 1)) @ rng.standard_normal((rank - 1, vocabulary))
    log_p = torch.from_numpy(spread * inner / (rank - 1) ** 0.5).log_softmax(1)
    weights = np.arange(1, contexts + 1.0) ** -skew
    shares = torch.from_numpy(weights / weights.sum())
    entropy = float(-(shares @ (log_p.exp() * log_p).sum(1)))
    text = bigram.Bigrams(log_p.exp().float(), torch.arange(log_p.numel()), shares.float(), entropy)
    runs = [bigram.Run("float32", 1.0, seed) for seed in range(seeds)]
    frames = []
    for width in widths:
        found = pd.DataFrame(bigram.train(runs, text, width, updates, 0.01, 40))
        frames.append(found.rename(columns={"run": "seed"}).assign(width=width, loss=found.gap + entropy))
    return pd.concat(frames, ignore_index=True)[["width", "seed", "step", "loss", "gap"]]


def knee(frame: pd.DataFrame, factor: float = 0.05) -> int | None:
    """The least width whose mean gap at the end is at most so much of the narrowest one's, if any; of `known_rank`."""
    last = frame[frame.step == frame.step.max()].groupby("width").gap.mean()
    enough = last.index[last <= factor * last.iloc[0]]
    return int(enough.min()) if len(enough) else None


def late(addresses: list[str], steps: list[int]) -> pd.DataFrame:
    """Singular entropy of heads of the suite at two steps: run, width, raw and centred at each, and what changed."""
    rows = []
    for address in addresses:
        found = {"run": address.removeprefix("suite:")}
        for step, when in zip(steps, ("early", "late"), strict=True):
            head = checkpoints.head(f"{address}@step{step}")
            for name, seen in (("raw", head), ("centred", spectra.centre(head))):
                found[f"{name} {when}"] = spectra.singular_entropy(spectra.singular_values(seen))
        found |= {f"{name} change": found[f"{name} late"] - found[f"{name} early"] for name in ("raw", "centred")}
        rows.append(found | {"width": head.shape[1]})
    return pd.DataFrame(rows)


def passed(address: str, corpus: str, tokens: int, context: int = 128) -> dict[str, float]:
    """How much of the gradient of the logits a head hands down (Murugan 2026).

    share: of the squared length of p - y that lies in the span of the head's columns, over positions; null: d / V, that
    of a direction drawn at random. share_centred: the same for the head less its mean row, which the exact gradient is
    blind to.
    """
    material = heads.prepared(address, corpus, context, tokens, context, "cpu", "float32")
    states, labels = material.validation
    weight = material.head.out.double()
    bases = [torch.linalg.qr(matrix)[0] for matrix in (weight, weight - weight.mean(0))]
    whole, within = 0.0, np.zeros(2)
    for part, own in zip(states.split(ROWS), labels.split(ROWS), strict=True):
        slope = gradient(part @ material.head.out.T, own).double()
        whole += float(slope.square().sum())
        within += [float((slope @ basis).square().sum()) for basis in bases]
    null = weight.shape[1] / len(weight)
    return {"share": within[0] / whole, "share_centred": within[1] / whole, "null": null}


def by_frequency(address: str, profile: str, tokens: int, bands: int, context: int = 128) -> pd.DataFrame:
    """Loss by how frequent the target is, on the validation text of a profile of the suite.

    Bands hold equal shares of the tokens of the text, the most frequent first: band (from 1), share, loss (nats).
    """
    model, _ = checkpoints.load(address)
    folder = suite.text(profile, model.config.vocab_size)
    ids = torch.from_numpy(np.load(folder / "validation.npy")[: tokens // context * context + 1].astype(np.int64))
    counts = np.bincount(np.load(folder / "train.npy", mmap_mode="r"), minlength=model.config.vocab_size)
    with torch.no_grad():
        rows = ids[:-1].view(-1, context)
        logits = torch.cat([model(part).logits.flatten(0, 1) for part in rows.split(16)])
        losses = F.cross_entropy(logits, ids[1:], reduction="none").numpy()
    order = np.argsort(-counts[ids[1:].numpy()], kind="stable")
    parts = np.array_split(losses[order], bands)
    return pd.DataFrame(
        {"band": number, "share": len(part) / len(losses), "loss": float(part.mean())}
        for number, part in enumerate(parts, 1)
    )


def changed(addresses: list[str], profile: str, tokens: int, bands: int) -> pd.DataFrame:
    """`by_frequency` at two checkpoints of one run: band, share, before, after, change (nats)."""
    before, after = (by_frequency(address, profile, tokens, bands) for address in addresses)
    table = before.rename(columns={"loss": "before"}).assign(after=after.loss)
    return table.assign(change=table.after - table.before)
