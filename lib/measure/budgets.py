"""What a shape of Pythia's layout costs in parameters and operations, and the depth or length that a budget leaves.

Operations are those of matrix products, a multiplication and an addition each, a training step three times a forward
pass (Kaplan et al. 2020); attention counts all pairs of a window, as counters of operations do.
"""

from dataclasses import dataclass

BACKWARD = 3  # a training step over a forward pass
TOLERANCE = 0.06  # how far from a budget a matched shape may be
KINDS = ("body", "parameters")


@dataclass(frozen=True)
class Shape:
    """A width, a depth and a vocabulary; tied: the head is the embedding. Raises ValueError for sizes below 1."""

    width: int
    layers: int
    vocabulary: int
    context: int
    tied: bool
    rank: int | None = None  # of the output factorised in two: V r + r d in place of V d

    def __post_init__(self):
        for name in ("width", "layers", "vocabulary", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected 1 or more.")
        if self.rank is not None and not 1 <= self.rank <= self.width:
            raise ValueError(f"rank is {self.rank}: expected 1 to the width, {self.width}.")

    @property
    def output(self) -> int:
        """Weights that turn a state into logits."""
        if self.rank is None:
            return self.vocabulary * self.width
        return self.rank * (self.vocabulary + self.width)

    @property
    def ends(self) -> int:
        """Parameters of the embedding and the head."""
        return self.output if self.tied else self.vocabulary * self.width + self.output

    @property
    def body(self) -> int:
        """Parameters of the layers and of the last norm: all that is not an embedding."""
        return self.layers * (12 * self.width**2 + 13 * self.width) + 2 * self.width

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.ends + self.body

    @property
    def share(self) -> float:
        """Of the parameters, embedding and head."""
        return self.ends / self.parameters

    @property
    def head_flops(self) -> int:
        """Operations of training on a token, in the head."""
        return BACKWARD * 2 * self.output

    @property
    def flops(self) -> int:
        """Operations of training on a token."""
        products, pairs = 24 * self.layers * self.width**2, 4 * self.layers * self.context * self.width
        return BACKWARD * (products + pairs) + self.head_flops

    @property
    def flops_share(self) -> float:
        """Of the operations, the head's."""
        return self.head_flops / self.flops


def depth(budget: float, kind: str, width: int, vocabulary: int, context: int, tied: bool) -> Shape:
    """The shape of this width whose body, or all of whose parameters, come nearest to a budget.

    kind: one of `KINDS`. Raises ValueError where no whole depth comes within `TOLERANCE` of it.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}: expected one of {', '.join(KINDS)}.")
    one, two = (Shape(width, layers, vocabulary, context, tied) for layers in (1, 2))
    start, layer = getattr(one, kind), two.body - one.body
    found = Shape(width, max(1, 1 + round((budget - start) / layer)), vocabulary, context, tied)
    if abs(getattr(found, kind) / budget - 1) > TOLERANCE:
        raise ValueError(
            f"width {width} has {getattr(found, kind):,} {kind} at {found.layers} layers, not within {TOLERANCE:.0%} "
            f"of {budget:,.0f}: choose another width or budget."
        )
    return found


def steps(shape: Shape, flops: float, tokens_per_step: int) -> int:
    """Steps after which training has cost so many operations, rounded. Raises ValueError where that is none."""
    found = round(flops / (shape.flops * tokens_per_step))
    if found < 1:
        raise ValueError(
            f"{flops:.3g} operations are less than a step of width {shape.width}: give it a larger budget."
        )
    return found
