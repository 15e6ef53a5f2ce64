"""How large an offset that a softmax can't see may be, from a head and a norm alone; and what its rounding costs.

A final LayerNorm hands the head gain x + bias, where x (d,) has mean zero and length at most sqrt(d), whatever the body
does. The mean logit is the mean row of the head times that: it lies in an interval that needs no body. The same holds
for what a key bias adds to every score of a query.
"""

import numpy as np
import torch


def spread_of(direction: torch.Tensor, gain: torch.Tensor, bias: torch.Tensor) -> tuple[float, float]:
    """Least and largest direction . (gain x + bias) over x (d,) with mean zero and length sqrt(d); all (d,)."""
    direction, gain, bias = (part.double() for part in (direction, gain, bias))
    pull = gain * direction
    reach = len(gain) ** 0.5 * torch.linalg.vector_norm(pull - pull.mean())
    centre = direction @ bias
    return float(centre - reach), float(centre + reach)


def head_offset(head: torch.Tensor, gain: torch.Tensor, bias: torch.Tensor) -> tuple[float, float]:
    """Interval in which the mean logit of every position lies; head (V, d), of the final norm gain and bias (d,)."""
    return spread_of(head.double().mean(0), gain, bias)


def mean_share(head: torch.Tensor) -> float:
    """Share of the head's squared length (V, d) that lies along the all-ones vector: its mean row V times over."""
    head = head.double()
    return float(len(head) * head.mean(0).square().sum() / head.square().sum())


def first_on_ones(head: torch.Tensor) -> float:
    """Cosine, without sign, of the first left singular vector of a head (V, d) with the all-ones vector (V,)."""
    head = head.double()
    values, vectors = torch.linalg.eigh(head.T @ head)
    return float((head @ vectors[:, -1]).sum().abs() / (values[-1].clamp(min=0).sqrt() * len(head) ** 0.5))


def by_head(fused: torch.Tensor, heads: int) -> torch.Tensor:
    """GPT-NeoX's fused weight (3 d, ...) or bias (3 d,) as (3, heads, d / heads, ...): queries, keys, values."""
    size = len(fused) // (3 * heads)
    return fused.reshape(heads, 3, size, *fused.shape[1:]).transpose(0, 1)


def score_offsets(
    weight: torch.Tensor, bias: torch.Tensor, gain: torch.Tensor, shift: torch.Tensor, heads: int, rotated: int
) -> np.ndarray:
    """Interval (heads, 2) of what the key bias adds to all scores of a query, in the dimensions that are not rotated.

    weight (3 d, d) and bias (3 d,): GPT-NeoX's query_key_value; gain and shift (d,): of the LayerNorm before it;
    rotated: dimensions of a head, the first ones, that rotary embeddings turn, where no offset is common.
    """
    weights, biases = by_head(weight.double(), heads), by_head(bias.double(), heads)
    found = []
    for queries, query_bias, key_bias in zip(weights[0], biases[0], biases[1], strict=True):
        kept = key_bias[rotated:] / len(key_bias) ** 0.5
        low, high = spread_of(kept @ queries[rotated:], gain, shift)
        found.append((low + float(kept @ query_bias[rotated:]), high + float(kept @ query_bias[rotated:])))
    return np.array(found)


def spacing(offset: float, digits: int) -> float:
    """Distance of the numbers of a float with so many bits of mantissa (fp16 10, bf16 7) at an offset; 0 at 0."""
    return float(2.0 ** (np.floor(np.log2(abs(offset))) - digits)) if offset else 0.0


def rounding_cost(offset: float, c: float, digits: int) -> float:
    """About c s^2 / 24 nats, s the spacing at that offset of a float with so many bits of mantissa (fp16 10, bf16 7).

    c = E[1 - sum p^2]; good while s is below one, where the cost is small beside the logits' own differences.
    """
    return c * spacing(offset, digits) ** 2 / 24
