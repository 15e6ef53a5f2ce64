"""A language of known rank, and heads of free states that learn it: exact gradients, float32, several seeds at once.

A free state is a vector of its own for each context, without a norm: what a model with an all-powerful body could hand
to its head. What such a head can't learn, its width alone forbids.
"""

from dataclasses import dataclass

import numpy as np
import torch

from lib.train import loop
from lib.train.bigram import factor


@dataclass(frozen=True)
class Language:
    """Next-token distributions of equally frequent contexts."""

    log_p: torch.Tensor  # (N, V), float64
    entropy: float  # nats: the least loss that any model can have


def language(rank: int, contexts: int, vocabulary: int, spread: float, zipf: float, seed: int = 0) -> Language:
    """Draw a language whose matrix of log-probabilities has a rank.

    Logits are normal coordinates of contexts times those of tokens, of deviation ``spread`` (the larger, the lower the
    entropy), less ``zipf`` times the log of a token's place; together they have rank - 1 dimensions, and the normaliser
    adds the all-ones direction. Raises ValueError where the sizes or the parts leave no such rank.
    """
    inner = rank - 1 - (zipf > 0)
    if not (inner >= 1 and rank <= min(contexts, vocabulary)):
        least, most = 2 + (zipf > 0), min(contexts, vocabulary)
        raise ValueError(f"rank is {rank}: expected {least} to {most}, for so many contexts and tokens.")
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((contexts, inner)) @ rng.standard_normal((inner, vocabulary))
    logits = spread * logits / inner**0.5 - zipf * np.log(np.arange(1, vocabulary + 1))
    log_p = torch.from_numpy(logits).log_softmax(1)
    return Language(log_p, float(-(log_p.exp() * log_p).sum(1).mean()))


@loop.fast()
def train(learned: Language, width: int, updates: int, seeds: int, rate: float, evaluations: int = 40) -> list[dict]:
    """Train heads of a width from several seeds, and measure each at evenly spaced updates, first and last included.

    AdamW without decay, betas 0.9 and 0.95, epsilon 1e-8, the schedule of `lib.train.bigram`. A row for each seed and
    evaluation: seed, step, loss and gap (nats over the entropy), both from float64 logits.
    """
    count, vocabulary = learned.log_p.shape
    p = learned.log_p.exp().float()
    drawn = []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        drawn.append(torch.randn(count + vocabulary, width, generator=generator))
    states, heads = torch.stack(drawn).split([count, vocabulary], dim=1)
    states, heads = (torch.nn.Parameter(part.contiguous()) for part in (states, 0.3 * heads))
    optimiser = torch.optim.AdamW([states, heads], lr=rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: factor(step, updates))
    kept = set(np.linspace(0, updates, evaluations + 1).round().astype(int).tolist())
    rows = []
    for step in range(updates + 1):
        flat, weight = states.detach(), heads.detach()
        if step in kept:
            rows += _measured(learned, flat, weight, step)
        gradient = ((flat @ weight.mT).softmax(-1) - p) / count
        states.grad, heads.grad = gradient @ weight, gradient.mT @ flat
        optimiser.step()
        schedule.step()
    return rows


def _measured(learned, states, heads, step):
    log_q = (states.double() @ heads.double().mT).log_softmax(-1)
    losses = (learned.log_p.exp() * -log_q).sum(-1).mean(1).tolist()
    return [
        {"seed": seed, "step": step, "loss": loss, "gap": loss - learned.entropy} for seed, loss in enumerate(losses)
    ]
