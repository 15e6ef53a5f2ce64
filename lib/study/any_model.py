"""The diagnosis of any model: what its head costs, what it sees, how healthy its logits are, where it stands.

`shape`, `rank_costs` and `logits` are tasks of a sweep, by address and corpus; `diagnose` calls them with those of
chapters 4 and 5. Losses are the model's own: what it does to its logits after the head is done to those of cut heads.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import stats

from lib.data import architecture, checkpoints, corpora
from lib.measure import bounds, offsets, passing, spectra
from lib.study import anisotropy, rounding
from lib.train import precision

LONGEST = 256  # tokens of a document
BLOCK = 128  # positions whose logits are held at once
WITHIN = (0.02, 0.1, 0.5)  # nats
DELTAS = {"delta_1": 1.0, "delta_16": 1 / 16}  # kappa


@dataclass(frozen=True)
class Frozen:
    """A model's readout, and states and labels of documents: those that decide what to cut, and those held out."""

    readout: architecture.Readout
    kind: str
    parameters: int
    tied: bool
    calibration: torch.Tensor  # (N, d)
    states: torch.Tensor  # (M, d)
    labels: torch.Tensor  # (M,)
    document: np.ndarray  # (M,), of each position


def shape(address: str) -> dict:
    """Class, vocabulary, width, parameters, tied (head and embedding are one), scale, cap and whether it has a bias."""
    model, _ = checkpoints.load(address)
    if broken := [name for name, tensor in model.named_parameters() if not torch.isfinite(tensor).all()]:
        raise ValueError(
            f"{broken[0]} of {address} holds NaN or infinity: use a checkpoint from before training failed"
        )
    readout = architecture.readout(model)
    vocabulary, width = readout.weight.shape
    about = {"kind": type(model).__name__, "vocabulary": vocabulary, "width": width}
    about |= {"parameters": model.num_parameters(), "tied": _tied(model), "scale": readout.scale, "cap": readout.cap}
    return about | {"bias": readout.bias is not None}


def rank_costs(
    address: str, corpus: str, tokens: int = 8192, held_out: int = 4096, steps: int = 16, longest: int = LONGEST
) -> pd.DataFrame:
    """Loss of a model with its head cut to lower ranks, in closed form, on held-out documents: a row for each rank.

    The cut has the least squared error of the centred logits on `tokens` training states, each token counted by the
    probability that the model gives it on average: the arm "weighted" of Section 5.1. Nothing is trained, so that the
    cost bounds from above what a trained head of that rank would cost. Where a soft cap sees the mean row, it is kept
    as one of the ranks. Columns rank, loss, cost, low, high (95 %, over documents), w_error, w_error_centred.
    Raises ValueError where the corpus has too few documents.
    """
    seen = _frozen(address, corpus, tokens, held_out, longest)
    weight = seen.readout.weight.float()
    out, into = cut(seen)
    width = weight.shape[1]
    ranks = sorted({round(width * step / steps) for step in range(1, steps + 1)} - {0})
    extra = torch.zeros(len(seen.states), len(ranks), dtype=torch.float64)
    exact = torch.zeros(len(seen.states), dtype=torch.float64)
    for here, own, logits in _blocks(seen):
        exact[here] = F.cross_entropy(logits, own, reduction="none").double()
        features, products, done = seen.states[here] @ into.T, torch.zeros_like(logits), 0
        for column, rank in enumerate(ranks[:-1]):  # the last one is the head itself
            products.addmm_(features[:, done:rank], out[:, done:rank].T)
            done = rank
            cost = F.cross_entropy(_after(seen.readout, products), own, reduction="none").double() - exact[here]
            extra[here, column] = cost
    errors = {
        "w_error": spectra.w_error(spectra.singular_values(weight)),
        "w_error_centred": spectra.w_error(spectra.singular_values(spectra.centre(weight))),
    }
    rows = []
    for column, rank in enumerate(ranks):
        cost, low, high = over_documents(extra[:, column].numpy(), seen.document)
        found = {"rank": rank, "loss": float(exact.mean()) + cost, "cost": cost, "low": low, "high": high}
        rows.append(found | {name: float(error[rank]) for name, error in errors.items()})
    return pd.DataFrame(rows)


def logits(address: str, corpus: str, tokens: int = 8192, held_out: int = 4096, longest: int = LONGEST) -> dict:
    """Loss of a model on held-out documents, health of its logits, and what its head passes on of their gradient.

    loss, loss_low, loss_high (nats; 95 %, over documents), positions, documents; offset (mean logit), spread (its
    deviation over positions), largest (absolute), spacing_fp16, spacing_bf16 (between numbers at the largest),
    cost_FORMAT with _low and _high (nats, of rounding all logits); delta_1, delta_16 (sum that a gradient stored in
    fp16 at kappa 1 and 1/16 loses); passed with _low and _high (share of the gradient's length in the head's column
    space) and chance.
    """
    seen = _frozen(address, corpus, tokens, held_out, longest)
    weight, found = seen.readout.weight.float(), []
    inner = spectra.gram(weight)
    for _, own, exact in _blocks(seen):
        about = {"loss": F.cross_entropy(exact, own, reduction="none")}
        about |= {"offset": exact.mean(1), "largest": exact.abs().amax(1)}
        for name in rounding.FORMATS:
            rounded = precision.rounded(exact, name)
            about[f"cost_{name}"] = F.cross_entropy(rounded, own, reduction="none") - about["loss"]
        slope = rounding.gradient(exact, own)
        for name, kappa in DELTAS.items():
            about[name] = -precision.rounded(slope, "fp16", kappa).double().sum(1)
        if seen.readout.cap is not None:
            slope *= 1 - (exact / seen.readout.cap).square()
        about["passed"] = passing.share(slope, weight, inner)
        found.append(pd.DataFrame({name: part.double().numpy() for name, part in about.items()}))
    frame = pd.concat(found, ignore_index=True)
    result = {"positions": len(frame), "documents": int(seen.document.max()) + 1, "chance": passing.chance(weight)}
    result |= {name: float(frame[name].mean()) for name in ("offset", *DELTAS)}
    result |= {"spread": float(frame.offset.std()), "largest": float(frame.largest.max())}
    for name, digits in rounding.FORMATS.items():
        result[f"spacing_{name}"] = offsets.spacing(result["largest"], digits)
    for name in ("loss", "passed", *(f"cost_{name}" for name in rounding.FORMATS)):
        mean, low, high = over_documents(frame[name].to_numpy(), seen.document)
        result |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    return result


def layers(address: str, corpus: str, tokens: int = 4096, longest: int = LONGEST) -> pd.DataFrame:
    """`anisotropy.layers` on so many tokens, or what the corpus has: layer, final_norm, anisotropy, low, high."""
    tokenizer = checkpoints.tokenizer(address)
    available(corpus, tokenizer, "validation", tokens, longest)  # what the tasks after this one need
    asked = available(corpus, tokenizer, None, tokens, longest)
    try:
        frame = anisotropy.layers(address, corpus, asked, [], [], longest)
    except IndexError as error:
        raise ValueError(
            f"the tokenizer of {address} gives tokens that its embedding does not have: save it with the one that it "
            "was trained with"
        ) from error
    return frame[["layer", "final_norm", "documents", "tokens", "anisotropy", "low", "high"]]


def available(corpus: str, tokenizer, split: str | None, asked: int, longest: int) -> int:
    """So many tokens as are asked for, or those that the part of the corpus holds in documents cut so.

    Raises ValueError with fewer than three documents, over which there is no interval.
    """
    lengths = np.minimum(np.diff(corpora.token_documents(corpus, tokenizer, split)[1]) - 1, longest)
    if (count := int((lengths > 1).sum())) < 3:
        raise ValueError(
            f"{corpus} has {count} {'held-out ' if split == 'validation' else ''}documents: expected 3 or more; use a "
            "larger text, or cut it into documents, each a file or a line of .jsonl"
        )
    return int(min(asked, lengths[lengths > 1].sum()))


def cut(seen: Frozen) -> tuple[torch.Tensor, torch.Tensor]:
    """Two factors (V, d) and (d, d), float32, of which the first r columns and rows are the head cut to rank r.

    By way of a (d, d) matrix, so that no second head is held in float64; see `bounds.factors` for the same by a
    factorisation of the head.
    """
    weight = seen.readout.weight.float()
    total = torch.zeros(len(weight), dtype=torch.float64)
    for part in seen.calibration.split(BLOCK):
        total += seen.readout.logits(part).softmax(1).double().sum(0)
    frequency = total / total.sum()
    mean = (frequency @ weight.double()).float()
    half, inverse = bounds.root(spectra.gram(seen.calibration) / len(seen.calibration))
    left = weight - mean
    inner = spectra.gram(frequency.sqrt().float()[:, None] * left).numpy()
    vectors = np.linalg.eigh(half @ inner @ half)[1][:, ::-1]
    out = left @ torch.from_numpy((half @ vectors).astype(np.float32))
    into = torch.from_numpy(np.ascontiguousarray((vectors.T @ inverse).astype(np.float32)))
    if seen.readout.cap is None:
        return out, into
    return torch.cat([torch.ones(len(out), 1), out[:, :-1]], 1), torch.cat([mean[None], into[:-1]])


def smallest(costs: pd.DataFrame, within: float) -> dict:
    """The smallest rank whose cost is at most so many nats, and those by the ends of the cost's interval.

    rank, cost, low, high (of the cost), rank_low, rank_high and share (of the width).
    """
    width = int(costs["rank"].max())
    ranks = {end: int(costs["rank"][costs[end] <= within].min()) for end in ("low", "cost", "high")}
    row = costs[costs["rank"] == ranks["cost"]].iloc[0]
    return {"within": within, "rank": ranks["cost"], "rank_low": ranks["low"], "rank_high": ranks["high"]} | {
        "cost": float(row.cost), "low": float(row.low), "high": float(row.high), "share": ranks["cost"] / width
    }  # fmt: skip


def over_documents(values: np.ndarray, document: np.ndarray) -> tuple[float, float, float]:
    """Mean of a value of each position, with its 95 % interval over documents (a ratio of sums; Student's t)."""
    mean, count = values.mean(), int(document.max()) + 1
    rest = np.bincount(document, values - mean)
    half = stats.t.ppf(0.975, count - 1) * np.sqrt(count / (count - 1) * np.square(rest).sum()) / len(values)
    return float(mean), float(mean - half), float(mean + half)


def _after(readout, products):
    """What a model makes of the products of its head with states."""
    logits = products * readout.scale if readout.scale != 1 else products
    logits = logits if readout.bias is None else logits + readout.bias
    return logits if readout.cap is None else readout.cap * torch.tanh(logits / readout.cap)


def _blocks(seen):
    """Place, labels and logits of a few held-out positions at a time."""
    for start in range(0, len(seen.states), BLOCK):
        here = slice(start, start + BLOCK)
        yield here, seen.labels[here], seen.readout.logits(seen.states[here])


@lru_cache(maxsize=1)
@torch.no_grad()
def _frozen(address, corpus, tokens, held_out, longest):
    """The tasks of one model ask for the same, one after another."""
    torch.set_flush_denormal(True)
    model, tokenizer = checkpoints.load(address)
    readout = architecture.readout(model)
    longest = architecture.longest(model, longest + 1) - 1
    states, labels, document = [], [], []
    calibration = [part for _, part in _states(model, tokenizer, corpus, "train", tokens, longest)]
    for number, (ids, part) in enumerate(_states(model, tokenizer, corpus, "validation", held_out, longest)):
        states.append(part[:-1])
        labels.append(torch.from_numpy(ids[1:]))
        document += [number] * (len(ids) - 1)
    if document[-1] < 2:
        raise ValueError(
            f"{corpus} has {document[-1] + 1} held-out documents: expected 3 or more, and one document in "
            f"{1 / corpora.VALIDATION:.0f} is held out; use a larger text"
        )
    # The head outlives the model: a copy, where it is the embedding.
    return Frozen(
        readout, type(model).__name__, model.num_parameters(), _tied(model), torch.cat(calibration), torch.cat(states),
        torch.cat(labels), np.array(document),
    )  # fmt: skip


def _states(model, tokenizer, corpus, split, tokens, longest):
    """Ids of each document of a sample, and what enters the head at each of its tokens, in one order."""
    asked = available(corpus, tokenizer, split, tokens, longest)
    documents = anisotropy.sample(corpus, tokenizer, asked, longest, 0, split)
    found = [None] * len(documents)
    for place, stages in anisotropy.hidden(model, documents, tokenizer.eos_token_id):
        found[place] = stages[-1].float().clone()
    return zip(documents, found, strict=True)


def _tied(model):
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    return embedding.weight.data_ptr() == head.weight.data_ptr()
