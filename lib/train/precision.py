"""Storing numbers in few bits, exactly as a trainer's tensors would, and training through it.

Everything is computed in float32; what a trainer stores in a narrower format is rounded to it where it is stored. A
gradient is multiplied by kappa before it is stored and divided by it afterwards, as a loss scale does: what is smaller
than the format's smallest number over kappa is lost.
"""

from collections.abc import Callable

import torch
from torch.autograd.function import once_differentiable

SHORT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
FORMATS = {"float16": (10, -14), "bfloat16": (7, -126)}  # bits of mantissa, smallest exponent of a normal number
DIGITS = 23  # of float32's mantissa
CELLS = 2**18  # logits held at once: they stay in a core's second-level cache
CELLS_GPU = 2**25  # on a GPU: 128 MB
SAFE = 60.0  # exp(60) times a vocabulary is far from overflowing float32


def named(dtype: str) -> str:
    """The full name of a format: float32, float16, bfloat16, or mantissa1 to mantissa22, of float32's range.

    fp32, fp16 and bf16 are understood. Raises ValueError for any other.
    """
    full = SHORT.get(dtype, dtype)
    bits = full.removeprefix("mantissa")
    if full in ("float32", *FORMATS) or (bits != full and bits.isdecimal() and 1 <= int(bits) < DIGITS):
        return full
    raise ValueError(f"dtype is {dtype!r}: expected fp32, bf16, fp16, or mantissa7 for 7 bits of mantissa (1 to 22).")


def power_of_two(kappa: float) -> float:
    """Kappa, if it is a power of two, by which float32 products are exact. Raises ValueError otherwise."""
    if not (2.0**-64 <= kappa <= 2.0**64 and torch.frexp(torch.tensor(kappa, dtype=torch.float64))[0] == 0.5):
        raise ValueError(f"kappa is {kappa}: expected a power of two, such as 1, 0.0625 or 2^-12, from 2^-64 to 2^64.")
    return kappa


def rounded(
    x: torch.Tensor, dtype: str, kappa: float = 1.0, stochastic: bool = False, generator: torch.Generator | None = None
) -> torch.Tensor:
    """x (float32, any shape) times kappa, stored in a format, and divided again; x itself stays as it is.

    To the nearest number, ties to even, as torch stores; beyond the largest one it is infinite. stochastic: to one of
    the two neighbours, so that the mean is x. Raises ValueError for an unknown format or a kappa that is no power of 2.
    """
    return rounded_(x.clone(), dtype, kappa, stochastic, generator)


def rounded_(
    x: torch.Tensor, dtype: str, kappa: float = 1.0, stochastic: bool = False, generator: torch.Generator | None = None
) -> torch.Tensor:
    """As `rounded`, in the place of x."""
    dtype, kappa = named(dtype), power_of_two(kappa)
    if kappa == 1 or dtype == "float32":
        return _store_(x, dtype, stochastic, generator)
    return _store_(x.mul_(kappa), dtype, stochastic, generator).div_(kappa)


def _store_(x, dtype, stochastic, generator):
    if dtype == "float32":
        return x
    if stochastic:
        _to_a_neighbour_(x, *FORMATS.get(dtype) or (_bits(dtype), -126), generator)
    if dtype in FORMATS:
        x.copy_(x.to(getattr(torch, dtype)))
    elif not stochastic:
        _to_bits_(x, _bits(dtype))
    return x


def _bits(dtype):
    return int(dtype.removeprefix("mantissa"))


def _to_bits_(x, bits):
    """Nearest float32 with so many bits of mantissa, ties to even: what is cut off rounds up from a half on."""
    cut = DIGITS - bits
    whole = x.view(torch.int32)
    whole.add_(((whole >> cut) & 1) + ((1 << (cut - 1)) - 1)).bitwise_and_(-(1 << cut))


def _to_a_neighbour_(x, bits, least, generator):
    """One of the two numbers of a format around x, with the odds that make x their mean."""
    cut = DIGITS - bits
    draws = torch.randint(1 << cut, x.shape, dtype=torch.int32, generator=generator, device=x.device)
    small, step = x.abs() < 2.0**least, 2.0 ** (least - bits)
    fixed = (x / step + draws * 2.0**-cut).floor_().mul_(step) if least > -126 else x  # one spacing below 2^least
    x.view(torch.int32).add_(torch.where(small, 0, draws)).bitwise_and_(-(1 << cut))
    if least > -126:
        x.copy_(torch.where(small, fixed, x))


class _Stored(torch.autograd.Function):
    """Rounds on the way forward; the gradient passes as it is."""

    @staticmethod
    def forward(ctx, x, dtype):
        return rounded(x, dtype)

    @staticmethod
    def backward(ctx, upstream):
        return upstream, None


def stored(x: torch.Tensor, dtype: str) -> torch.Tensor:
    """x as a format holds it; its gradient passes as if nothing had been rounded."""
    return _Stored.apply(x, dtype)


def head_loss(
    states: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor | Callable[[slice], torch.Tensor],
    *,
    gradient: str = "float32",
    kappa: float = 1.0,
    stochastic: bool = False,
    logits: str = "float32",
    balanced: bool = False,
    z_loss: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss in nats of a head whose logits are stored in one format and their gradient in another; and delta.

    states (N, d), weight (V, d), targets (N,). The gradient of the loss of a position by its logits, p - y, is rounded
    as `rounded` does before it meets either factor. delta is minus the mean over positions of its sum: what rounding
    takes from it; balanced: the label's entry gives it back. z_loss times log(sum exp(logits))^2 is added to the loss's
    gradient, not to the loss. Differentiable once.

    Where targets is a function it gives the distributions (n, V) of the labels of a slice of positions; loss and
    gradient are then their expectations, of what is stored for each label. Raises ValueError where z_loss or
    stochastic rounding is asked for too.
    """
    if callable(targets) and (z_loss or stochastic):
        raise ValueError("labels are expected: stochastic rounding and z_loss need drawn ones; leave them out.")
    formats = (named(gradient), power_of_two(kappa), stochastic, named(logits), balanced, z_loss, generator)
    return _HeadLoss.apply(states, weight, targets, formats)


class _HeadLoss(torch.autograd.Function):
    """Block by block: logits, probabilities in their place, their gradient stored in their place, two products."""

    @staticmethod
    def forward(ctx, states, weight, targets, formats):
        count, rows = len(states), max(1, (CELLS_GPU if states.is_cuda else CELLS) // len(weight))
        by_states, by_weight = torch.empty_like(states), torch.zeros_like(weight)
        room = states.new_empty(min(rows, count), len(weight))
        steep = states.is_cuda or bool(states.norm(dim=1).max() * weight.norm(dim=1).max() > SAFE)
        loss, delta = states.new_zeros(()), states.new_zeros(())
        for first in range(0, count, rows):
            part = slice(first, first + rows)
            cells = torch.mm(states[part], weight.T, out=room[: len(states[part])])
            if callable(targets):
                loss += _expected_gradient_(cells, targets(part), formats)
            else:
                loss += _gradient_(cells, targets[part, None], steep, formats)
            delta -= cells.sum()
            torch.mm(cells, weight, out=by_states[part])
            by_weight.addmm_(cells.T, states[part])
        kappa = formats[1]  # a power of two, so that nothing is rounded by dividing at the end
        ctx.save_for_backward(by_states.div_(kappa), by_weight.div_(kappa))
        delta /= count * kappa
        ctx.mark_non_differentiable(delta)
        return loss / count, delta

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, _):
        by_states, by_weight = ctx.saved_tensors
        scale = upstream / len(by_states)
        return by_states * scale, by_weight * scale, None, None


def _gradient_(cells, targets, steep, formats):
    """Put kappa times the stored gradient of each position's loss in place of its logits (n, V); sum of the losses."""
    gradient, kappa, stochastic, logits, balanced, z_loss, generator = formats
    rounded_(cells, logits)
    own = cells.gather(1, targets)
    shift = cells.amax(1, keepdim=True) if steep else 0.0
    sums = (cells.sub_(shift) if steep else cells).exp_().sum(1, keepdim=True)
    normaliser = sums.log() + shift
    cells.mul_(kappa * (1 + 2 * z_loss * normaliser) / sums)
    cells.scatter_add_(1, targets, torch.full_like(own, -kappa))
    _store_(cells, gradient, stochastic, generator)
    if balanced:
        cells.scatter_add_(1, targets, -cells.sum(1, keepdim=True))
    return (normaliser - own).sum()


def _expected_gradient_(cells, labels, formats):
    """As `_gradient_`, in the mean over labels (n, V): where i is the label, entry i is stored of p_i - 1, else of p_i.

    So its mean is fl(p_i) + q_i (fl(p_i - 1) - fl(p_i)); balanced, it is fl(p_i) - q_i sum fl(p).
    """
    gradient, kappa, _, logits, balanced, _, _ = formats
    rounded_(cells, logits)
    own = (labels * cells).sum(1)
    normaliser = cells.logsumexp(1, keepdim=True)
    label = _store_(cells.sub_(normaliser).exp_().mul_(kappa) - kappa, gradient, False, None)
    _store_(cells, gradient, False, None)
    cells.addcmul_(labels, -cells.sum(1, keepdim=True) if balanced else label.sub_(cells))
    return (normaliser[:, 0] - own).sum()


class _Attention(torch.autograd.Function):
    """Causal attention as a flash kernel computes it: scores and their softmax in float32, what it writes rounded."""

    @staticmethod
    def forward(ctx, query, key, value, scaling, outputs, gradient, kappa):
        scores = (query @ key.transpose(-1, -2)).mul_(scaling)
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu_(1)
        shares = scores.masked_fill_(hidden, -torch.inf).softmax(-1)
        result = rounded_(shares @ value, outputs)
        ctx.save_for_backward(query, key, value, shares, result)
        ctx.formats = (scaling, gradient, kappa)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        query, key, value, shares, result = ctx.saved_tensors
        scaling, gradient, kappa = ctx.formats
        upstream = rounded(upstream, gradient, kappa)
        mean = (upstream * result).sum(-1, keepdim=True)
        by_scores = (upstream @ value.transpose(-1, -2)).sub_(mean).mul_(shares)
        by_scores = rounded_(by_scores, gradient, kappa).mul_(scaling)
        by_key = by_scores.transpose(-1, -2) @ query
        return by_scores @ key, by_key, shares.transpose(-1, -2) @ upstream, None, None, None, None


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    keys: str = "float32",
    outputs: str = "float32",
    gradient: str = "float32",
    kappa: float = 1.0,
) -> torch.Tensor:
    """Causal attention (B, heads, T, size) with keys, outputs and gradients in formats of their own.

    Stored are the keys, the outputs O, and, times kappa, the gradients dO and dS of outputs and scores, as a flash
    kernel stores them; scores and their softmax are float32. kappa is for the gradient of the loss as it arrives.
    """
    formats = named(outputs), named(gradient), power_of_two(kappa)
    return _Attention.apply(query, stored(key, keys), value, key.shape[-1] ** -0.5, *formats)
