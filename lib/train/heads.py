"""Heads on frozen states: their exact cross-entropy without an N x V matrix, and rank-constrained ones trained on it.

A head of rank r is W = A B (Section 5.1), applied as A (B h): 2 V r operations for a token instead of 2 V d.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

CHUNK = 512  # tokens whose float32 logits exist at a time: 100 MB at V = 49,152, and still a fast product
SLAB = 2048  # rows of the head whose bf16 logits exist at a time: 8 MB for a batch of 2,048 tokens, which stay in cache


@dataclass(frozen=True)
class Head:
    """A head as A (V, r), and B (r, d) before it; without B, a full head."""

    out: torch.Tensor
    into: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        """Columns of A."""
        return self.out.shape[1]

    def cut(self, rank: int) -> "Head":
        """The first columns of A and rows of B. Raises ValueError where there are not so many, or no B."""
        if self.into is None or not 1 <= rank <= self.rank:
            raise ValueError(f"rank is {rank}: pass one between 1 and {self.rank}, of a head that has two factors.")
        return Head(self.out[:, :rank].contiguous(), self.into[:rank].contiguous())

    def features(self, states: torch.Tensor) -> torch.Tensor:
        """B h of states (N, d): (N, r)."""
        return states if self.into is None else states @ self.into.T.to(states)

    def tensors(self) -> list[torch.Tensor]:
        """What is trained."""
        return [self.out] if self.into is None else [self.out, self.into]


@dataclass(frozen=True)
class Recipe:
    """How heads are trained. The defaults are Pythia's, as Section 5.1 asks, with a batch of laptop size."""

    epochs: int = 4
    batch: int = 2048  # tokens
    warmup: float = 0.01  # share of the steps
    floor: float = 0.1  # last rate of the cosine, as a share of the peak
    betas: tuple[float, float] = (0.9, 0.95)
    decay: float = 0.1
    clip: float = 1.0
    patience: int = 2  # evaluations without progress before a run stops
    evaluations: int = 4  # of the validation loss, in an epoch
    dtype: torch.dtype = torch.float32  # of the products; parameters, moments and sums stay float32
    seed: int = 0


@dataclass(frozen=True)
class Run:
    """One trained head: its peak learning rate, the best head on the validation part, and the way there."""

    rate: float
    head: Head
    steps: list[int]  # at which the validation loss was measured, 0 first
    losses: list[float]
    best: int  # step of ``head``


def cross_entropy(
    features: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor
) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Mean cross-entropy of softmax(features @ weight.T) with its gradients by both: (loss, (N, k), (V, k)), float32.

    ``features`` (N, k) and ``weight`` (V, k) share a dtype, float32 or bf16, in which the products are made; sums are
    float32. Every logit of every token takes part. Float32 products are dear: logits are made once, for a chunk of
    tokens at a time. Bf16 products are four times as fast, and what counts is that logits stay in cache: they are made
    twice, for a slab of the vocabulary at a time, and no sum over tokens is ever rounded.
    Bf16 serves logits of up to 10^4. Raises ValueError on shapes that don't fit or on no states.
    """
    check(features, weight, labels)
    by_parts = _by_tokens if features.dtype == torch.float32 else _by_vocabulary
    loss, by_features, by_weight = by_parts(features, weight, labels[:, None])
    return loss.item() / len(features), by_features, by_weight


def _by_tokens(features, weight, labels):
    count = len(features)
    logits = features.new_empty(min(CHUNK, count), len(weight))
    by_features, by_weight = torch.empty_like(features), torch.zeros_like(weight)
    loss = torch.zeros((), dtype=torch.float64, device=features.device)
    for start in range(0, count, CHUNK):
        rows, target = features[start : start + CHUNK], labels[start : start + CHUNK]
        z = torch.mm(rows, weight.T, out=logits[: len(rows)])
        right, peak = z.gather(1, target), z.amax(1, keepdim=True)
        total = z.sub_(peak).exp_().sum(1, keepdim=True)
        loss += (peak + total.log() - right).sum(dtype=torch.float64)
        # Softmax minus one-hot is z / total: the division goes to the narrow matrices, not to the N x V one.
        z.scatter_add_(1, target, -total)
        scale = 1 / (count * total)
        torch.mul(z @ weight, scale, out=by_features[start : start + CHUNK])
        by_weight.addmm_(z.T, rows * scale)
    return loss, by_features, by_weight


def _by_vocabulary(features, weight, labels):
    count, slabs = len(features), range(0, len(weight), SLAB)
    by_features = torch.zeros(features.shape, dtype=torch.float32, device=features.device)
    by_weight = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
    logits = features.new_empty(count, min(SLAB, len(weight)))
    right = (features.float() * weight[labels[:, 0]]).sum(1, keepdim=True)
    normaliser = torch.full_like(right, -torch.inf)
    for start in slabs:
        part = weight[start : start + SLAB]
        # The product takes off what is known of the normaliser before it rounds: logits that matter round least.
        rounded = torch.maximum(normaliser, right).to(features)
        z = torch.addmm(rounded, features, part.T, beta=-1, out=logits[:, : len(part)])
        peak = z.amax(1, keepdim=True)
        total = z.sub_(peak).exp_().sum(1, keepdim=True, dtype=torch.float32)
        normaliser = torch.logaddexp(normaliser, rounded.float() + peak + total.log())
    rounded = normaliser.to(features)
    share = (rounded - normaliser).exp()  # what rounding it changes; the narrow matrices put it right
    rows, miss = (features * (share / count)).to(features), (torch.expm1(right - normaliser) / share).to(features)
    for start in slabs:
        part = weight[start : start + SLAB]
        z = torch.addmm(rounded, features, part.T, beta=-1, out=logits[:, : len(part)]).exp_()
        here = ((labels >= start) & (labels < start + len(part))).nonzero()[:, 0]
        z[here, labels[here, 0] - start] = miss[here, 0]
        by_features += z @ part
        by_weight[start : start + SLAB] = z.T @ rows
    return (normaliser - right).sum(dtype=torch.float64), by_features.mul_(share / count), by_weight


def losses(
    head: Head, states: torch.Tensor, labels: torch.Tensor, ranks: Sequence[int] | None = None, chunk: int = CHUNK // 2
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy (N, R) and whether the likeliest token is right (N, R), for the first r columns of A for each rank.

    Float32 throughout. The ranks, in ascending order (by default all of A's), share one pass: each adds its own columns
    to the logits, so that all of them together cost what the largest costs. Raises ValueError on ranks that A lacks.
    """
    ranks = [head.rank] if ranks is None else list(ranks)
    if not ranks or ranks != sorted(set(ranks)) or ranks[0] < 1 or ranks[-1] > head.rank:
        raise ValueError(f"ranks are {ranks}: pass ascending ranks between 1 and {head.rank}, the width of this head.")
    check(states, head.out if head.into is None else head.into, labels, vocabulary=len(head.out))
    count, vocabulary = len(states), len(head.out)
    loss = torch.empty(count, len(ranks), device=head.out.device)
    right = torch.empty(count, len(ranks), dtype=torch.bool, device=head.out.device)
    logits = torch.empty(2, min(chunk, count), vocabulary, device=head.out.device)
    for start in range(0, count, chunk):
        here = slice(start, min(start + chunk, count))
        features = head.features(states[here].to(head.out))
        target = labels[here, None].to(features.device)
        z, spare = logits[:, : len(features)].unbind()
        z.zero_()
        for column, (low, high) in enumerate(pairwise([0, *ranks])):
            z.addmm_(features[:, low:high], head.out[:, low:high].T)
            mine = torch.log_softmax(z, 1, out=spare).gather(1, target)
            loss[here, column] = -mine.squeeze(1)
            right[here, column] = (mine == spare.amax(1, keepdim=True)).squeeze(1)
    return loss, right


def train(
    starts: Sequence[tuple[Head, float]],
    states: torch.Tensor,
    labels: torch.Tensor,
    validation: tuple[torch.Tensor, torch.Tensor],
    recipe: Recipe | None = None,
) -> list[Run]:
    """Train each (head, peak learning rate), all in one pass over the states: AdamW, cosine, early stopping.

    ``states`` (N, d) and ``labels`` (N,) may be memory-mapped and in bf16; batches go to the device of the heads.
    The validation part decides which step is kept, so report losses on a third part, or expect a slight optimism.
    """
    recipe = recipe or Recipe()
    if not starts:
        raise ValueError("there is no head to train: pass at least one (head, learning rate).")
    for head, _ in starts:
        check(states, head.out if head.into is None else head.into, labels, vocabulary=len(head.out))
    per_epoch = math.ceil(len(states) / recipe.batch)
    total, every = recipe.epochs * per_epoch, max(1, per_epoch // recipe.evaluations)
    runs = [_Run(head, rate, recipe, total) for head, rate in starts]
    for run in runs:
        run.evaluate(0, *validation)
    order, step = np.random.default_rng(recipe.seed), 0
    for _ in range(recipe.epochs):
        for batch in np.array_split(order.permutation(len(states)), per_epoch):
            active = [run for run in runs if not run.stopped]
            if not active:
                break
            chosen = torch.from_numpy(np.sort(batch))  # ascending, for the memory map
            part, target = states[chosen].to(active[0].head.out), labels[chosen].to(active[0].head.out.device)
            step += 1
            for run in active:
                run.step(part, target)
                if step % every == 0 or step == total:
                    run.evaluate(step, *validation)
    return [Run(run.rate, run.best, run.steps, run.losses, run.best_step) for run in runs]


class _Run:
    """A head in training, with its optimiser and its best state so far."""

    def __init__(self, start: Head, rate: float, recipe: Recipe, total: int):
        self.rate, self.recipe, self.total = rate, recipe, total
        self.head = copy.deepcopy(start)
        parameters, decay = self.head.tensors(), recipe.decay
        self.optimizer = torch.optim.AdamW(parameters, rate, recipe.betas, weight_decay=decay, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._share)
        self.steps, self.losses = [], []
        self.best, self.best_step, self.stopped = self.head, 0, False

    def _share(self, step: int) -> float:
        warmup = max(1, round(self.recipe.warmup * self.total))
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, self.total - warmup)
        return self.recipe.floor + (1 - self.recipe.floor) * (1 + math.cos(math.pi * done)) / 2

    def step(self, states: torch.Tensor, labels: torch.Tensor) -> None:
        """One step of AdamW on a batch."""
        head, dtype = self.head, self.recipe.dtype
        _, by_features, by_out = cross_entropy(head.features(states).to(dtype), head.out.to(dtype), labels)
        head.out.grad = by_out
        if head.into is not None:
            head.into.grad = by_features.T @ states
        torch.nn.utils.clip_grad_norm_(head.tensors(), self.recipe.clip)
        self.optimizer.step()
        self.schedule.step()

    def evaluate(self, step: int, states: torch.Tensor, labels: torch.Tensor) -> None:
        """Measure the validation loss; keep the head if it is the best, stop if it has not been for a while."""
        loss = losses(self.head, states, labels)[0].mean(dtype=torch.float64).item()
        if not self.losses or loss < min(self.losses):
            self.best, self.best_step = copy.deepcopy(self.head), step
        self.steps.append(step)
        self.losses.append(loss)
        waited = len(self.losses) - 1 - int(np.argmin(self.losses))
        self.stopped = not math.isfinite(loss) or waited >= self.recipe.patience


def search(
    start: Head,
    rates: Sequence[float],
    states: torch.Tensor,
    labels: torch.Tensor,
    validation: tuple[torch.Tensor, torch.Tensor],
    recipe: Recipe | None = None,
) -> list[Run]:
    """One epoch from the same start at each learning rate, in one pass; the best first."""
    runs = train([(start, rate) for rate in rates], states, labels, validation, replace(recipe or Recipe(), epochs=1))
    return sorted(runs, key=lambda run: min(run.losses))


def check(states: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, vocabulary: int | None = None) -> None:
    """Raise ValueError unless states (N, k) and labels (N,) fit a head that takes what ``weight`` (_, k) takes."""
    vocabulary = len(weight) if vocabulary is None else vocabulary
    if states.ndim != 2 or not len(states):
        raise ValueError(f"states have shape {tuple(states.shape)}: pass at least one state, as an (N, d) matrix.")
    if states.shape[1] != weight.shape[1]:
        raise ValueError(
            f"states have width {states.shape[1]} and the head takes {weight.shape[1]}: use states of the same model."
        )
    if labels.shape != states.shape[:1]:
        raise ValueError(f"labels have shape {tuple(labels.shape)}: pass a token for each of the {len(states)} states.")
    if int(labels.min()) < 0 or int(labels.max()) >= vocabulary:
        raise ValueError(f"labels go up to {int(labels.max())}: pass tokens between 0 and {vocabulary - 1}.")
