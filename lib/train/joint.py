"""A small model trained together with any head: the nano suite's body, text and optimiser, and whatever reads it."""

import copy
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch

from lib.measure import anisotropy, spectra
from lib.train import loop, neox, remedies
from lib.train.mixture import windows

LAYERS, CONTEXT = 3, 128
CONTEXTS, TOGETHER = 256, 64  # states whose log-probabilities make a matrix; whose losses are taken at once


@dataclasses.dataclass(frozen=True)
class Joint:
    """A body and a head, and how they are trained."""

    head: str
    width: int
    heads: int  # of attention
    vocabulary: int
    steps: int
    tokens_per_step: int
    learning_rate: float
    evaluations: int
    validation_tokens: int
    seed: int
    sizes: dict = dataclasses.field(default_factory=dict)  # of the head, where they are not the usual ones

    def __post_init__(self):
        if self.tokens_per_step % CONTEXT or self.tokens_per_step < CONTEXT:
            raise ValueError(f"tokens_per_step is {self.tokens_per_step}: expected a multiple of {CONTEXT}.")
        if min(self.steps, self.evaluations) < 1:
            raise ValueError(
                f"there are {self.steps} steps, {self.evaluations} evaluations: expected 1 or more of each."
            )


@loop.fast()
def train(joint: Joint, stream: np.ndarray, validation: np.ndarray) -> list[dict[str, float]]:
    """Train on every second window of a stream of ids, in a drawn order; a row for each evaluation.

    The windows between are what the counts of a bigram head, and the frequencies of a bias, are from. Columns: step,
    tokens, loss and train (nats: held out, and the mean since the row before with penalties), seconds (of processor
    time for a step so far, evaluations apart), parameters, head_parameters and bytes (of the head, for a token whose
    loss is being taken), and what `measured` gives. Raises ValueError where the text is too short, FloatingPointError
    for a loss that is not finite.
    """
    apart = windows(stream, CONTEXT)
    body, head = _model(joint, apart[::2])
    batches, held_out = _batches(joint, apart[1::2]), _held_out(joint, validation)
    optimised = optimiser([*body.parameters(), *head.parameters()])
    parameters_of = {
        "parameters": sum(p.numel() for p in body.parameters()) + head.size(),
        "head_parameters": head.size(),
    }
    kept = set(np.linspace(0, joint.steps, joint.evaluations + 1).round().astype(int).tolist())
    rows, recent, seconds = [], [], 0.0
    for step in range(joint.steps + 1):
        if step in kept:
            about = {"step": step, "tokens": step * joint.tokens_per_step, "seconds": seconds / max(1, step)}
            about["train"] = math.fsum(recent) / len(recent) if recent else math.nan
            rows.append(about | parameters_of | measured(body, head, held_out))
            recent.clear()
        if step < joint.steps:
            rows_now, start = batches(step), time.process_time()
            recent.append(
                _update(body, head, optimised, rows_now, loop.learning_rate(step + 1, joint.steps, joint.learning_rate))
            )
            seconds += time.process_time() - start
    return rows


@loop.fast()
def paces(joints: list[Joint], stream: np.ndarray, rounds: int) -> list[float]:
    """Processor's seconds for a step of each run: the least of so many rounds, in each of which all take one in turn.

    So that what else the machine does falls on all alike. Raises ValueError for less than a round.
    """
    if rounds < 1:
        raise ValueError(f"there are {rounds} rounds: expected 1 or more.")
    apart, ready = windows(stream, CONTEXT), []
    for joint in joints:
        body, head = _model(joint, apart[::2])
        rows = _batches(joint, apart[1::2])(0)
        ready.append((body, head, optimiser([*body.parameters(), *head.parameters()]), rows, joint.learning_rate))
    return least([functools.partial(_update, *one) for one in ready], rounds)


def least(updates: list[Callable[[], object]], rounds: int) -> list[float]:
    """Processor's seconds of each update, the least of so many rounds in turn."""
    found = [math.inf] * len(updates)
    for _ in range(rounds):
        for place, update in enumerate(updates):
            start = time.process_time()
            update()
            found[place] = min(found[place], time.process_time() - start)
    return found


@torch.no_grad()
def measured(body: torch.nn.Module, head: remedies.Linear, rows: torch.Tensor) -> dict[str, float]:
    """Where a model stands on windows (n, context + 1).

    loss (nats, without penalties), rank (of the log-probabilities of the first CONTEXTS contexts), anisotropy (of the
    states), entropy and entropy_centred (singular entropy of the head, nats), bytes (see `footprint`).
    """
    states, targets, previous = _seen(body, rows)
    sigma, centred = (spectra.singular_values(weight) for weight in (head.matrix(), spectra.centre(head.matrix())))
    return {
        "loss": head.loss(states, targets, previous, penal=False).item(),
        "rank": rank(head, states[:CONTEXTS], previous[:CONTEXTS]),
        "anisotropy": anisotropy.anisotropy(states),
        "entropy": spectra.singular_entropy(sigma),
        "entropy_centred": spectra.singular_entropy(centred),
        "bytes": footprint(head, states[:TOGETHER], targets[:TOGETHER], previous[:TOGETHER]),
    }


@torch.no_grad()
def rank(head: remedies.Linear, states: torch.Tensor, previous: torch.Tensor) -> int:
    """Rank of the log-probabilities (N, V) of states (N, d) after tokens (N,), in float64."""
    exact = copy.deepcopy(head).double()
    return int(torch.linalg.matrix_rank(torch.cat(list(exact.log_probabilities(states.double(), previous)))))


def footprint(head: remedies.Linear, states: torch.Tensor, targets: torch.Tensor, previous: torch.Tensor) -> float:
    """Bytes that the loss of one token keeps for its gradient, parameters apart; a linear head's logits are 4 V."""
    held, own = {}, {parameter.untyped_storage().data_ptr() for parameter in [*head.parameters(), *head.buffers()]}

    def keep(tensor):
        place = tensor.untyped_storage()
        if place.data_ptr() not in own:
            held[place.data_ptr()] = (place.nbytes(), tensor)  # the tensor, so that its place isn't given again
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = head.terms(states.detach().clone().requires_grad_(), targets, previous, True)
    return sum(size for size, _ in held.values()) / len(states) if value.requires_grad else 0.0


def optimiser(parameters: list[torch.nn.Parameter]) -> torch.optim.AdamW:
    """AdamW as the suite has it: matrices decay and vectors don't."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": loop.DECAY},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=loop.BETAS, eps=loop.EPSILON, fused=True)


def advance(
    optimiser: torch.optim.AdamW, loss: torch.Tensor, parameters: Iterable[torch.nn.Parameter], rate: float
) -> float:
    """One step down the gradient of a loss, clipped, at a rate; the loss.

    Raises FloatingPointError for a loss that is not finite.
    """
    if not math.isfinite(value := loss.item()):
        raise FloatingPointError(f"the loss is {value}: expected a finite one; lower the learning rate.")
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, loop.CLIP)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    return value


def counts(rows: np.ndarray, vocabulary: int) -> torch.Tensor:
    """How often each token (column) follows each token (row) in windows (n, context + 1): (V, V) float32."""
    pairs = (rows[:, :-1].astype(np.int64) * vocabulary + rows[:, 1:]).ravel()
    return torch.from_numpy(np.bincount(pairs, minlength=vocabulary**2).astype(np.float32)).view(vocabulary, -1)


def known(kind: str, rows: np.ndarray, tokens: np.ndarray, vocabulary: int) -> dict[str, torch.Tensor]:
    """What a head of a kind takes of a text: counts of pairs in windows (n, context + 1), or frequencies of tokens."""
    if kind == "bigram":
        return {"counts": counts(rows, vocabulary)}
    return {"frequency": loop.log_unigram(tokens, vocabulary)} if kind == "bias" else {}


def _model(joint, counted):
    """Body and head of a run."""
    body = neox.model(joint.width, LAYERS, joint.heads, joint.vocabulary, CONTEXT, joint.seed).gpt_neox
    more = known(joint.head, counted, counted[:, 1:].ravel(), joint.vocabulary)
    return body, remedies.head(joint.head, joint.vocabulary, joint.width, joint.seed, **more, **joint.sizes)


def _seen(body, rows):
    """States (N, d), targets (N,) and tokens before them (N,), of windows (n, context + 1)."""
    states = body(rows[:, :-1], use_cache=False).last_hidden_state.flatten(0, 1)
    return states, rows[:, 1:].flatten(), rows[:, :-1].flatten()


def _update(body, head, optimiser, rows, rate):
    """One step on windows; returns the loss before it."""
    return advance(optimiser, head.loss(*_seen(body, rows)), [*body.parameters(), *head.parameters()], rate)


def _batches(joint, rows):
    size = joint.tokens_per_step // CONTEXT
    if len(rows) < size * joint.steps:
        raise ValueError(
            f"half of the text has {len(rows) * CONTEXT:,} tokens and {joint.steps * joint.tokens_per_step:,} are "
            "asked for: lower the steps."
        )
    order = np.random.default_rng(joint.seed).permutation(len(rows))
    return lambda step: torch.from_numpy(rows[np.sort(order[step * size : (step + 1) * size])].astype(np.int64))


def _held_out(joint, validation):
    rows = windows(validation, CONTEXT)
    count = joint.validation_tokens // CONTEXT
    if not 2 <= count <= len(rows):
        raise ValueError(
            f"{joint.validation_tokens:,} held-out tokens are asked for: expected up to {len(validation):,}."
        )
    chosen = np.random.default_rng(0).permutation(len(rows))[:count]
    return torch.from_numpy(rows[np.sort(chosen)].astype(np.int64))
