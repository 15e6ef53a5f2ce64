"""Heads of any kind on states that don't change: those of a language model, kept on disk."""

import time
from typing import NamedTuple

import torch

from lib.measure import anisotropy, spectra
from lib.train import joint, loop, remedies


class Part(NamedTuple):
    """A text as a head sees it."""

    states: torch.Tensor  # (N, d)
    targets: torch.Tensor  # (N,), the tokens that follow
    previous: torch.Tensor  # (N,), the tokens that the states were made of


@loop.fast()
def train(head: remedies.Linear, part: Part, updates: int, batch: int, learning_rate: float, seed: int) -> float:
    """Train a head on a text in a drawn order, each state once at most; the processor's seconds for an update.

    The optimiser and its schedule are the suite's. Raises ValueError where there are too few states,
    FloatingPointError for a loss that is not finite.
    """
    if not 1 <= updates * batch <= len(part.states):
        raise ValueError(
            f"{updates} updates of {batch} states are asked for and there are {len(part.states):,}: lower the updates."
        )
    order = torch.randperm(len(part.states), generator=torch.Generator().manual_seed(seed))
    optimiser, start = joint.optimiser(list(head.parameters())), time.process_time()
    for step in range(updates):
        here = order[step * batch : (step + 1) * batch]
        rate = loop.learning_rate(step + 1, updates, learning_rate)
        update(head, optimiser, Part(*(rows[here] for rows in part)), rate)
    return (time.process_time() - start) / updates


def update(head: remedies.Linear, optimiser: torch.optim.AdamW, part: Part, rate: float) -> None:
    """One step on a batch. Raises FloatingPointError for a loss that is not finite."""
    joint.advance(optimiser, head.loss(*part), head.parameters(), rate)


@torch.no_grad()
def measured(head: remedies.Linear, part: Part) -> dict[str, float]:
    """Where a head stands on a text.

    loss (nats, without penalties), rank (of the log-probabilities of `joint.CONTEXTS` states), anisotropy, entropy and
    entropy_centred (of the rows of its output matrix, and singular, nats), bytes (see `joint.footprint`).
    """
    first, few = (Part(*(rows[:count] for rows in part)) for count in (joint.CONTEXTS, joint.TOGETHER))
    matrix = head.matrix()
    return {
        "loss": head.loss(*part, penal=False).item(),
        "rank": joint.rank(head, first.states, first.previous),
        "anisotropy": anisotropy.anisotropy(matrix),
        "entropy": spectra.singular_entropy(spectra.singular_values(matrix)),
        "entropy_centred": spectra.singular_entropy(spectra.singular_values(spectra.centre(matrix))),
        "bytes": joint.footprint(head, *few),
    }


def classes(counted: torch.Tensor, known: int, vocabulary: int) -> torch.Tensor:
    """The class of each of so many known tokens, (known,): the commonest of a text one each, all others the last.

    There are ``vocabulary`` classes. Raises ValueError where there are fewer tokens.
    """
    if not 2 <= vocabulary <= known:
        raise ValueError(f"vocabulary is {vocabulary}: expected 2 to {known}, the tokens that there are.")
    order = torch.bincount(counted, minlength=known).argsort(descending=True, stable=True)
    found = torch.full((known,), vocabulary - 1)
    found[order[: vocabulary - 1]] = torch.arange(vocabulary - 1)
    return found


def directions(states: torch.Tensor, width: int) -> torch.Tensor:
    """(d, width): what takes states (N, d) to so many of their principal directions, each with a mean square of 1.

    Raises ValueError for a width below 1 or above d.
    """
    if not 1 <= width <= states.shape[1]:
        raise ValueError(f"width is {width}: expected 1 to {states.shape[1]}, that of the states.")
    squares, vectors = torch.linalg.eigh(spectra.gram(states) / len(states))
    kept = slice(len(squares) - width, None)
    return (vectors[:, kept] / squares[kept].sqrt()).flip(1).float()
