"""Heads that might loosen the softmax bottleneck, or keep a linear head in order (`lib.train.chunked`)."""

import math

import torch
import torch.nn.functional as F

from lib.train.chunked import Linear

COMPONENTS = 3  # of a mixture of softmaxes
PARTITIONS = 4  # of the vocabulary, in the first softmax of a multi-facet head
WIDER = 4  # times the width, of an up-projection
CAP = 30.0  # of soft-capped logits (Gemma Team 2024)
KNOTS = 5  # of a monotonic function, evenly spaced from -SPAN to SPAN
SPAN = 8.0
PENALTY = 1e-4  # of mu-loss (Stollenwerk and Stollenwerk 2026) and of z-loss (Chowdhery et al. 2022)


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
