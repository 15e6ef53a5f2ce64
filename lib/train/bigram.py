"""The smallest model that saturates: bigram counts, one vector a context, exact gradients, rounded at the logits.

A state is LayerNorm of a context's vector, the logits are the head times it, the labels are the counted distributions
of the next token. The gradient of the logits is the expectation over labels of what a trainer stores in half precision,
so that a step sees no noise: the limit of an infinite batch. Runs that share settings are trained together.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

from lib.measure import anisotropy, spectra
from lib.train import precision
from lib.train.replay import Replayed, rate_for, set_rate


@dataclass(frozen=True)
class Bigrams:
    """Next tokens of the most frequent contexts: their distributions, where they are positive, and their shares."""

    labels: torch.Tensor  # (N, V), float32
    places: torch.Tensor  # (K,), positions in the flattened labels that are positive
    shares: torch.Tensor  # (N,), float32, of sum 1
    entropy: float  # nats: the least loss that any model of the contexts can have

    def to(self, device: str) -> "Bigrams":
        """The same on a device."""
        return Bigrams(*(part.to(device) for part in (self.labels, self.places, self.shares)), self.entropy)


@dataclass(frozen=True)
class Run:
    """One run: how the gradient of its logits is stored, its seed, and a cure."""

    dtype: str  # format that the gradient of the logits is stored in
    kappa: float  # what it is multiplied by meanwhile, a power of two
    seed: int
    centred: bool = False  # the head loses its mean row after each step
    balanced: bool = False  # the label's entry gives back what rounding took from the sum
    logits: str = "float32"  # format that the logits are stored in


def bigrams(ids: np.ndarray, contexts: int, vocabulary: int) -> Bigrams:
    """Count what follows each of the most frequent tokens in a stream of ids.

    Raises ValueError where fewer than ``contexts`` tokens of the vocabulary have a successor.
    """
    counts = np.bincount(ids[:-1].astype(np.int64) * vocabulary + ids[1:], minlength=vocabulary**2)
    counts = counts.reshape(vocabulary, vocabulary).astype(np.float64)
    totals = counts.sum(1)
    top = np.argsort(-totals, kind="stable")[:contexts]
    if len(top) < contexts or totals[top[-1]] == 0:
        raise ValueError(f"the text has {int((totals > 0).sum())} contexts, not {contexts}: ask for fewer.")
    labels, shares = counts[top] / totals[top, None], totals[top] / totals[top].sum()
    logs = np.log(labels, where=labels > 0, out=np.zeros_like(labels))
    return Bigrams(
        torch.from_numpy(labels).float(),
        torch.from_numpy(np.flatnonzero(labels)),
        torch.from_numpy(shares).float(),
        float(-shares @ (labels * logs).sum(1)),
    )


def expected_gradient_(p: torch.Tensor, text: Bigrams, run: Run) -> torch.Tensor:
    """Replace probabilities p (..., N, V) by the gradient of each context's loss by its logits, rounded for each label.

    For a label y entry i is stored as fl(p_i - [i = y]), so with labels q its mean is
    fl(p_i) + q_i (fl(p_i - 1) - fl(p_i)); in float32 that is p - q. Where a run is balanced, entry y also gives back
    the sum of its row.
    """
    flat, labels = p.view(-1, text.labels.numel()), text.labels.view(-1)[text.places]
    label = precision.rounded_(flat[:, text.places] - 1, run.dtype, run.kappa)
    precision.rounded_(p, run.dtype, run.kappa)
    other = flat[:, text.places]
    more = label - other
    if run.balanced:
        label -= p.sum(-1).view(len(flat), -1)[:, text.places // p.shape[-1]] + more
    flat[:, text.places] = other + labels * (label - other)
    return p


class Models(torch.nn.Module):
    """The models of R runs, stacked: vectors (R, N, d), norm gains and biases (R, d), heads (R, V, d)."""

    def __init__(self, runs: list[Run], contexts: int, vocabulary: int, width: int):
        super().__init__()
        draws = []
        for run in runs:  # the same seed starts every arm from the same weights
            generator = torch.Generator().manual_seed(run.seed)
            draws.append(torch.randn(contexts + vocabulary, width, generator=generator) * math.sqrt(2 / (5 * width)))
        vectors, heads = torch.stack(draws).split([contexts, vocabulary], dim=1)
        self.vectors, self.heads = (torch.nn.Parameter(part.contiguous()) for part in (vectors, heads))
        self.gains = torch.nn.Parameter(torch.ones(len(runs), width))
        self.biases = torch.nn.Parameter(torch.zeros(len(runs), width))

    def states(self) -> torch.Tensor:
        """What the heads read, (R, N, d)."""
        normal = F.layer_norm(self.vectors, self.vectors.shape[-1:], eps=1e-5)
        return normal * self.gains[:, None] + self.biases[:, None]


def backward(models: Models, runs: list[Run], text: Bigrams) -> None:
    """Put the gradient of every run's loss into its parameters.

    On a CPU runs are taken one at a time, since the probabilities of one fit into the cache and those of all do not; on
    a GPU neighbours that store alike are taken together.
    """
    models.zero_grad()
    states = models.states()
    heads, flat = models.heads.detach(), states.detach()
    push, models.heads.grad = torch.empty_like(flat), torch.empty_like(heads)
    groups = _alike(runs) if flat.is_cuda else [slice(place, place + 1) for place in range(len(runs))]
    room = flat.new_empty(max(part.stop - part.start for part in groups), *text.labels.shape)
    for part in groups:
        p = torch.bmm(flat[part], heads[part].mT, out=room[: part.stop - part.start])
        precision.rounded_(p, runs[part.start].logits)
        gradient = expected_gradient_(torch.softmax(p, dim=-1, out=p), text, runs[part.start])
        torch.bmm(gradient.mT, flat[part] * text.shares[:, None], out=models.heads.grad[part])
        push[part] = text.shares[:, None] * (gradient @ heads[part])
    states.backward(push)


def _alike(runs):
    """Slices of neighbours whose gradients are stored in one way."""
    places = [place for place, _ in enumerate(runs) if place == 0 or _storing(runs[place]) != _storing(runs[place - 1])]
    return [slice(first, last) for first, last in pairwise([*places, len(runs)])]


def _storing(run):
    return run.dtype, run.kappa, run.balanced, run.logits


def clip(models: Models, norm: float) -> None:
    """Scale each run's gradient down to a norm, as one run's trainer would."""
    gradients = [parameter.grad for parameter in models.parameters()]
    squares = sum(gradient.flatten(1).square().sum(1) for gradient in gradients)
    scale = (norm / squares.sqrt().clamp(min=1e-12)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))


def train(
    runs: list[Run], text: Bigrams, width: int, updates: int, rate: float, evaluations: int, device: str = "cpu"
) -> list[dict[str, float]]:
    """Train all runs and measure each at evenly spaced steps, the first and the last included; a row for each.

    AdamW with betas 0.9 and 0.95, epsilon 1e-8 and decay 0.1 on matrices only; gradients of norm at most 1; the rate
    rises to ``rate`` over 1 % of the updates and falls to a tenth along a cosine. See `measured` for the columns.
    """
    models, text = Models(runs, *text.labels.shape, width).to(device), text.to(device)
    matrices = {"params": [models.vectors, models.heads], "weight_decay": 0.1}
    others = {"params": [models.gains, models.biases], "weight_decay": 0.0}
    optimiser = torch.optim.AdamW([matrices, others], betas=(0.9, 0.95), eps=1e-8, fused=True, **rate_for(device, rate))
    kept = set(np.linspace(0, updates, evaluations + 1).round().astype(int).tolist())
    centred = [place for place, run in enumerate(runs) if run.centred]

    def update():
        backward(models, runs, text)
        clip(models, 1.0)
        optimiser.step()
        with torch.no_grad():
            for head in (models.heads[place] for place in centred):
                head -= head.mean(0)

    rows, replayed = measured(models, runs, text, 0), Replayed(update, device)
    for step in range(updates):
        with replayed.queue():
            set_rate(optimiser, rate * factor(step, updates))
        replayed()
        if step + 1 in kept:
            replayed.wait()
            rows += measured(models, runs, text, step + 1)
    return rows


def factor(step: int, updates: int) -> float:
    """Share of the peak rate in an update, counted from 0: a warm-up of 1 %, then a cosine down to a tenth."""
    warm = max(1, updates // 100)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, updates - warm)))


@torch.no_grad()
def measured(models: Models, runs: list[Run], text: Bigrams, step: int) -> list[dict[str, float]]:
    """What each run has come to, a row each.

    Columns: run (its place), step, gap (loss less the entropy of the counts, nats, from float64 logits), gap_fp16 (the
    same, with logits stored in fp16), offset (mean
    logit), anisotropy (mean cosine of pairs of states), entropy and entropy_centred (singular entropy of the head, and
    of the head less its mean row, nats), ratio (of its two largest singular values), delta (minus the mean over
    contexts of the sum of the gradient of the logits: what rounding takes from it).
    """
    rows = []
    for place, (run, states, head) in enumerate(zip(runs, models.states(), models.heads, strict=True)):
        logits = states.double() @ head.double().T
        float32 = precision.rounded_(states @ head.T, run.logits)
        sums = expected_gradient_(float32.softmax(-1), text, run).double().sum(1)
        sigma = spectra.singular_values(head)
        rows.append(
            {
                "run": place,
                "step": step,
                "gap": _loss(logits, text) - text.entropy,
                "gap_fp16": _loss(logits.half().double(), text) - text.entropy,
                "offset": float(text.shares.double() @ logits.mean(1)),
                "anisotropy": anisotropy.anisotropy(states),
                "entropy": spectra.singular_entropy(sigma),
                "entropy_centred": spectra.singular_entropy(spectra.singular_values(spectra.centre(head))),
                "ratio": float(sigma[0] / sigma[1]),
                "delta": -float(text.shares.double() @ sums),
            }
        )
    return rows


def _loss(logits, text):
    cross = text.labels.view(-1)[text.places] * logits.log_softmax(-1).view(-1)[text.places]
    return -float(text.shares.double()[text.places // logits.shape[1]] @ cross)
