"""Heads of any kind on states that don't change: a linear model's body, or a language model's, frozen."""

import math
import time

import torch

from lib.train import joint, loop, remedies


@loop.fast()
def train(
    head: remedies.Linear,
    train: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    held_out: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
) -> dict[str, float]:
    """Train a head on batches of states (N, d), targets (N,) and the tokens before them (N,), one epoch at most.

    Returns loss (held out, nats), rank (of the log-probabilities of `joint.CONTEXTS` held-out states), seconds (of
    processor time for a step) and head_parameters. Raises ValueError where there are too few states.
    """
    if steps * batch > len(train[0]):
        raise ValueError(f"{steps * batch:,} states are asked for and there are {len(train[0]):,}: lower the steps.")
    order = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(seed))
    optimiser, start = loop_optimiser(head), time.process_time()
    for step in range(steps):
        here = order[step * batch : (step + 1) * batch]
        optimiser.zero_grad()
        loss = head.loss(*(part[here] for part in train))
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss is {loss.item()}: expected a finite one; lower the learning rate.")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), loop.CLIP)
        for group in optimiser.param_groups:
            group["lr"] = loop.learning_rate(step + 1, steps, learning_rate)
        optimiser.step()
    seconds = (time.process_time() - start) / steps
    with torch.no_grad():
        final = head.loss(*held_out, penal=False).item()
    states, _, previous = (part[: joint.CONTEXTS] for part in held_out)
    return {
        "loss": final,
        "rank": joint.rank(head, states, previous),
        "seconds": seconds,
        "head_parameters": head.size(),
    }


def loop_optimiser(*modules: torch.nn.Module) -> torch.optim.AdamW:
    """AdamW as the suite has it: matrices decay and vectors don't."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": loop.DECAY},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=loop.BETAS, eps=loop.EPSILON, fused=True)
