"""Pythia's architecture at any width: configuration, initial weights, and the loss of its head without the logits.

On a CPU all is true float32: torch may be told to let oneDNN round products to bf16, but only where a CPU has matrix
units, so that a run would depend on the machine; and at these widths that is no faster.
"""

import math

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

CELLS = 2**18  # logits held at once: 1 MB, half of a core's second-level cache
SAFE = 60.0  # exp(60) times a vocabulary is far from overflowing float32


def model(width: int, layers: int, heads: int, vocabulary: int, context: int, seed: int) -> GPTNeoXForCausalLM:
    """GPT-NeoX model with Pythia's layout and initial weights, drawn from `seed` alone.

    Normal weights of variance 2 / (5 width), and of deviation 2 / (layers sqrt(width)) where a block writes
    into the residual stream; biases zero (Biderman et al. 2023). Raises ValueError for a width that heads don't divide.
    """
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=context,
        rotary_pct=0.25,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
        use_parallel_residual=True,
    )
    with torch.random.fork_rng():  # the constructor draws weights of its own
        network = GPTNeoXForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 2:
                writes = name.endswith(("attention.dense.weight", "mlp.dense_4h_to_h.weight"))
                deviation = 2 / (layers * math.sqrt(width)) if writes else math.sqrt(2 / (5 * width))
                parameter.normal_(0.0, deviation, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
    return network


def head_loss(
    states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean cross-entropy in nats of softmax(states weight^T + bias); states (N, d), weight (V, d), targets (N,).

    Equal to cross_entropy of the logits, which are never all held at once. Differentiable once.
    """
    if states.is_cuda:
        options = torch.nn.LinearCrossEntropyOptions()
        return F.linear_cross_entropy(states, weight, targets, linear_bias=bias, options=options)
    if bias is not None:  # one more coordinate, always 1
        states = torch.cat([states, states.new_ones(len(states), 1)], 1)
        weight = torch.cat([weight, bias[:, None]], 1)
    return _HeadLoss.apply(states, weight, targets, torch.is_grad_enabled())


class _HeadLoss(torch.autograd.Function):
    """With E = exp(logits) and s its row sums, the gradients, targets apart, are E W / s and E^T (states / s).

    So a block costs three matrix products, one exponential and one sum: nothing is normalised entry by entry.
    """

    @staticmethod
    def forward(ctx, states, weight, targets, differentiate):
        rows = max(1, CELLS // len(weight))
        block = states.new_empty(rows, len(weight))
        sums, shift = states.new_empty(len(states), 1), states.new_zeros(len(states), 1)
        by_states, by_weight = torch.empty_like(states), torch.zeros_like(weight)
        steep = states.norm(dim=1).max() * weight.norm(dim=1).max() > SAFE
        for first in range(0, len(states), rows):
            part = slice(first, first + rows)
            cells = torch.mm(states[part], weight.T, out=block[: len(states[part])])
            if steep:
                shift[part] = cells.amax(1, keepdim=True)
                cells -= shift[part]
            torch.sum(cells.exp_(), 1, keepdim=True, out=sums[part])
            if differentiate:
                torch.mm(cells, weight, out=by_states[part])
                by_weight.addmm_(cells.T, states[part] / sums[part])
        own = weight[targets]
        if differentiate:
            by_weight.index_add_(0, targets, states, alpha=-1)
            ctx.save_for_backward(by_states.div_(sums).sub_(own), by_weight)
        return (sums.log() + shift).sub_((states * own).sum(1, keepdim=True)).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        by_states, by_weight = ctx.saved_tensors
        scale = upstream / len(by_states)
        return by_states * scale, by_weight * scale, None, None
