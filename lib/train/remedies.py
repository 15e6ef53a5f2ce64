"""Heads that might loosen the softmax bottleneck, or keep a linear head in order: states in, log-probabilities out.

Each is a mixture of softmaxes: log weights (N, K) and logits (N, K, V), where K = 1 but for mixtures. The log-
probabilities come chunk by chunk, and the loss takes its gradients with each chunk, so that nobody holds (N, V).
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

CELLS = 2**18  # logits held at once, over all softmaxes of a mixture: 1 MB
COMPONENTS = 3  # of a mixture of softmaxes
PARTITIONS = 4  # of the vocabulary, in the first softmax of a multi-facet head
WIDER = 4  # times the width, of an up-projection
CAP = 30.0  # of soft-capped logits (Gemma Team 2024)
KNOTS = 5  # of a monotonic function, evenly spaced from -SPAN to SPAN
SPAN = 8.0
PENALTY = 1e-4  # of mu-loss (Stollenwerk and Stollenwerk 2026) and of z-loss (Chowdhery et al. 2022)


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


class Biased(Linear):
    """Logits W h + b, b first the log frequency of each token (V,)."""

    def __init__(self, vocabulary: int, width: int, seed: int = 0, frequency: torch.Tensor | None = None):
        super().__init__(vocabulary, width, seed)
        if frequency is not None and frequency.shape != (vocabulary,):
            raise ValueError(f"frequencies have shape {tuple(frequency.shape)}: expected ({vocabulary},), one a token.")
        self.bias = torch.nn.Parameter(torch.zeros(vocabulary) if frequency is None else frequency.clone())

    def logits(self, states, previous):
        """Logits (n, V)."""
        return states @ self.weight.T + self.bias


class Factorised(Linear):
    """Logits A B h with A (V, r) and B (r, d): rank r at the price of a head of width r."""

    def __init__(self, vocabulary: int, width: int, seed: int = 0, rank: int | None = None):
        """Rank is half of the width where none is given. The product starts with the variance of a linear head."""
        rank = max(1, width // 2) if rank is None else rank
        if not 1 <= rank <= width:
            raise ValueError(f"rank is {rank}: expected 1 to the width, {width}.")
        super().__init__(vocabulary, width, seed, columns=rank)
        self.into = torch.nn.Parameter(torch.empty(rank, width).normal_(0.0, width**-0.5, generator=self.generator))

    def matrix(self):
        """What turns a state into logits, one row for each token."""
        return self.weight @ self.into

    def logits(self, states, previous):
        """Logits (n, V)."""
        return (states @ self.into.T) @ self.weight.T


class Mixture(Linear):
    """Mixture of K softmaxes on tanh(P_k h), all with the same W (Yang et al. 2018)."""

    def __init__(self, vocabulary: int, width: int, seed: int = 0, components: int = COMPONENTS):
        super().__init__(vocabulary, width, seed)
        if components < 1:
            raise ValueError(f"there are {components} components: expected 1 or more.")
        self.facets, self.prior = self._drawn(components, width, width), self._drawn(components, width)

    @property
    def softmaxes(self):
        """How many are mixed."""
        return len(self.prior)

    def components(self, states, previous):
        """Log weights (n, K) and logits (n, K, V)."""
        latent = torch.einsum("nd,ked->nke", states, self.facets).tanh()
        return (states @ self.prior.T).log_softmax(1), latent @ self.weight.T


class MultiFacet(Linear):
    """Two softmaxes on facets of gelu(Q h), the first with a facet for each part of the vocabulary.

    Token v is of part v mod J. The multi-facet softmax of Chang and McCallum (2022) with one state as its input.
    """

    def __init__(self, vocabulary: int, width: int, seed: int = 0, partitions: int = PARTITIONS):
        super().__init__(vocabulary, width, seed)
        if partitions < 1 or vocabulary % partitions:
            raise ValueError(f"{partitions} parts of {vocabulary} tokens: expected a number that divides them.")
        self.shared, self.facets = self._drawn(width, width), self._drawn(partitions + 1, width, width)
        self.prior = self._drawn(2, width)

    @property
    def softmaxes(self):
        """How many are mixed."""
        return 2

    def components(self, states, previous):
        """Log weights (n, 2) and logits (n, 2, V)."""
        hidden, parts = F.gelu(states @ self.shared.T), len(self.facets) - 1
        whole, *partial = (hidden @ facet.T for facet in self.facets)
        first = torch.stack([partial[j] @ self.weight[j::parts].T for j in range(parts)], -1).flatten(1)
        return (hidden @ self.prior.T).log_softmax(1), torch.stack([first, whole @ self.weight.T], 1)


class Sigsoftmax(Linear):
    """Logits z + log sigmoid(z), z = W h (Kanai et al. 2018)."""

    def logits(self, states, previous):
        """Logits (n, V)."""
        plain = states @ self.weight.T
        return plain + F.logsigmoid(plain)


class Monotonic(Linear):
    """Logits f(W h) with f increasing and linear between knots, first the identity (after Ganea et al. 2019)."""

    def __init__(self, vocabulary: int, width: int, seed: int = 0, knots: int = KNOTS):
        super().__init__(vocabulary, width, seed)
        if knots < 1:
            raise ValueError(f"there are {knots} knots: expected 1 or more.")
        self.register_buffer("knots", torch.linspace(-SPAN, SPAN, knots))
        self.slopes = torch.nn.Parameter(torch.full((knots + 1,), math.log(math.e - 1)))  # softplus of it is 1

    def logits(self, states, previous):
        """Logits (n, V)."""
        plain, slopes = states @ self.weight.T, F.softplus(self.slopes)
        ends = [None, *self.knots.tolist(), None]
        bent = slopes[0] * plain.clamp(max=ends[1])
        for place in range(1, len(slopes)):
            bent = bent + slopes[place] * plain.clamp(ends[place], ends[place + 1])
        return bent


class Wide(Linear):
    """Logits W gelu(U h) with U (m, d), m a few times d: rank m at the price of a head that much larger."""

    def __init__(self, vocabulary: int, width: int, seed: int = 0, wider: int = WIDER):
        if wider < 1:
            raise ValueError(f"an up-projection to {wider} times the width: expected 1 or more.")
        super().__init__(vocabulary, width, seed, columns=wider * width)
        self.up = self._drawn(wider * width, width)

    def logits(self, states, previous):
        """Logits (n, V)."""
        return F.gelu(states @ self.up.T) @ self.weight.T


class Centred(Linear):
    """Logits (W - its mean row) h: the same softmaxes, without the direction that none of them sees."""

    def logits(self, states, previous):
        """Logits (n, V)."""
        return states @ (self.weight - self.weight.mean(0)).T


class MuLoss(Linear):
    """A linear head whose training loss has the squared length of its mean row added."""

    def penalty(self, logits, targets, costs):
        """Summed over tokens."""
        return PENALTY * len(targets) * self.weight.mean(0).square().sum()


class ZLoss(Linear):
    """A linear head whose training loss has the square of the log of the softmax's denominator added."""

    def penalty(self, logits, targets, costs):
        """Summed over tokens."""
        normaliser = costs + logits[:, 0].gather(1, targets[:, None])
        return PENALTY * normaliser.square().sum()


class Capped(Linear):
    """Logits c tanh(W h / c)."""

    def logits(self, states, previous):
        """Logits (n, V)."""
        return CAP * (states @ self.weight.T / CAP).tanh()


class Bigram(Linear):
    """Logits W h + s log p(v | previous token), p from counts (V, V) of another text and s trained, first 1.

    p is Witten and Bell's: as many counts as a token has different followers go to the frequency of all.
    """

    def __init__(self, vocabulary: int, width: int, seed: int = 0, counts: torch.Tensor | None = None):
        super().__init__(vocabulary, width, seed)
        if counts is None or counts.shape != (vocabulary, vocabulary):
            raise ValueError(f"the bigram head was given no counts of {vocabulary} tokens: expected (V, V) of them.")
        self.stored = int(counts.count_nonzero())
        frequency = (counts.sum(0) + 1) / (counts.sum() + vocabulary)
        followers = counts.count_nonzero(1)[:, None].clamp(min=1)
        smooth = (counts + followers * frequency) / (counts.sum(1, keepdim=True) + followers)
        self.register_buffer("table", smooth.log())
        self.scale = torch.nn.Parameter(torch.ones(1))

    def size(self):
        """Numbers that the head has to store, every count above zero among them."""
        return super().size() + self.stored

    def logits(self, states, previous):
        """Logits (n, V). Raises ValueError without the previous tokens."""
        if previous is None:
            raise ValueError("the bigram head was given no previous tokens: expected one for each state.")
        return states @ self.weight.T + self.scale * self.table[previous]


HEADS = {
    "linear": Linear,
    "factorised": Factorised,
    "bias": Biased,
    "mixture": Mixture,
    "multi-facet": MultiFacet,
    "sigsoftmax": Sigsoftmax,
    "monotonic": Monotonic,
    "wide": Wide,
    "centred": Centred,
    "mu-loss": MuLoss,
    "z-loss": ZLoss,
    "soft cap": Capped,
    "bigram": Bigram,
}


def head(kind: str, vocabulary: int, width: int, seed: int = 0, **sizes) -> Linear:
    """A head by name, with what else its kind takes. Raises ValueError for a name that there is not."""
    if kind not in HEADS:
        raise ValueError(f"there is no head {kind!r}: expected one of {', '.join(HEADS)}.")
    return HEADS[kind](vocabulary, width, seed, **sizes)


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
