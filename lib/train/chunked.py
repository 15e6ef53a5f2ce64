"""A linear head, from which all others are made: states in, log-probabilities out, a chunk at a time.

A head is a mixture of softmaxes: log weights (N, K) and logits (N, K, V), where K = 1 but for mixtures. The log-
probabilities come chunk by chunk, and the loss takes its gradients with each chunk, so that nobody holds (N, V).
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

CELLS = 2**18  # logits held at once, over all softmaxes of a mixture: 1 MB


class Linear(torch.nn.Module):
    """Logits W h, with W (V, d): the head that the paper is about."""

    def __init__(self, vocabulary: int, width: int, seed: int = 0, columns: int | None = None):
        """Weights are normal, of variance 2 / (5 columns), drawn from `seed` alone."""
        super().__init__()
        if vocabulary < 2 or width < 1:
            raise ValueError(f"a head of {vocabulary} tokens and width {width}: expected at least 2 and 1.")
        self.width, self.generator = width, torch.Generator().manual_seed(seed)
        self.weight = self._drawn(vocabulary, columns or width)

    def log_probabilities(self, states: torch.Tensor, previous: torch.Tensor | None = None) -> Iterator[torch.Tensor]:
        """Log-probabilities (n, V) of the next token, chunk after chunk of states (N, d).

        previous (N,): the token that each state was made of, for heads that look at it. Raises ValueError on shapes
        that don't fit.
        """
        self._check(states, previous)
        for part, before in self._chunks(states, previous):
            shares, logits = self.components(part, before)
            yield (shares[..., None] + logits.log_softmax(-1)).logsumexp(1)

    def loss(
        self, states: torch.Tensor, targets: torch.Tensor, previous: torch.Tensor | None = None, penal: bool = True
    ) -> torch.Tensor:
        """Mean cross-entropy in nats of targets (N,), and with `penal` what is added to it in training.

        Differentiable once. Raises ValueError on shapes that don't fit.
        """
        self._check(states, previous)
        if targets.shape != states.shape[:1] or int(targets.min()) < 0 or int(targets.max()) >= len(self.weight):
            raise ValueError(f"targets fit no {len(states)} states: expected as many tokens, below {len(self.weight)}.")
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        differentiate = torch.is_grad_enabled()
        return _Chunked.apply(self, penal, differentiate, states, targets, previous, *parameters)

    def components(self, states: torch.Tensor, previous: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Log weights (n, K) and logits (n, K, V) of the softmaxes that are mixed; here one."""
        return states.new_zeros(len(states), 1), self.logits(states, previous)[:, None]

    def logits(self, states: torch.Tensor, previous: torch.Tensor | None) -> torch.Tensor:
        """Logits (n, V) of a head that is one softmax."""
        return states @ self.weight.T

    def penalty(self, logits: torch.Tensor, targets: torch.Tensor, costs: torch.Tensor) -> torch.Tensor | float:
        """What training adds, summed over tokens, for logits (n, K, V), targets (n,) and cross-entropies (n, K)."""
        return 0.0

    def matrix(self) -> torch.Tensor:
        """What turns a vector into logits, one row for each token."""
        return self.weight

    def size(self) -> int:
        """Numbers that the head has to store."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def softmaxes(self) -> int:
        """How many are mixed."""
        return 1

    def _drawn(self, *shape):
        deviation = math.sqrt(2 / (5 * shape[-1]))
        return torch.nn.Parameter(torch.empty(shape).normal_(0.0, deviation, generator=self.generator))

    def _chunks(self, *rows):
        count = max(1, CELLS // (len(self.weight) * self.softmaxes))
        for first in range(0, len(rows[0]), count):
            yield tuple(None if row is None else row[first : first + count] for row in rows)

    def terms(
        self, states: torch.Tensor, targets: torch.Tensor, previous: torch.Tensor | None, penal: bool
    ) -> torch.Tensor:
        """Cross-entropy of a chunk in nats, summed over its tokens, with `penal` what training adds."""
        shares, logits = self.components(states, previous)
        kinds = logits.shape[1]
        costs = F.cross_entropy(logits.flatten(0, 1), targets.repeat_interleave(kinds), reduction="none")
        costs = costs.view(-1, kinds)
        total = -(shares - costs).logsumexp(1).sum()
        return total + self.penalty(logits, targets, costs) if penal else total

    def _check(self, states, previous):
        if states.ndim != 2 or not len(states) or states.shape[1] != self.width:
            raise ValueError(f"states have shape {tuple(states.shape)}: expected (N, {self.width}), N at least 1.")
        if previous is not None and previous.shape != states.shape[:1]:
            raise ValueError(f"there are {len(previous)} tokens before {len(states)} states: expected one for each.")


class _Chunked(torch.autograd.Function):
    """The loss of a head with its gradients taken chunk by chunk, as soon as the chunk's loss is there."""

    @staticmethod
    def forward(ctx, head, penal, differentiate, states, targets, previous, *parameters):
        total, by_states = states.new_zeros(()), torch.empty_like(states) if differentiate else None
        by_parameters = [torch.zeros_like(parameter) for parameter in parameters] if differentiate else []
        first = 0
        for part, labels, before in head._chunks(states, targets, previous):
            with torch.set_grad_enabled(differentiate):
                part = part.detach().requires_grad_(differentiate)
                value = head.terms(part, labels, before, penal)
            total += value.detach()
            if differentiate:
                found = torch.autograd.grad(value, [part, *parameters], allow_unused=True)
                by_states[first : first + len(part)] = found[0]
                for whole, new in zip(by_parameters, found[1:], strict=True):
                    if new is not None:
                        whole += new
            first += len(part)
        ctx.save_for_backward(by_states, *by_parameters)
        return total / len(states)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        by_states, *by_parameters = ctx.saved_tensors
        scale = upstream / len(by_states)
        return None, None, None, by_states * scale, None, None, *(whole * scale for whole in by_parameters)
