"""What a training run is followed by: losses, logits, the head's spectrum, and what a softmax can't see."""

import numpy as np
import torch
import torch.nn.functional as F

from lib.measure import anisotropy, offsets, spectra
from lib.train import precision

LOSSES = {"loss": "float32", "loss_bf16": "bfloat16", "loss_fp16": "float16"}


@torch.no_grad()
def measured(training, rows: torch.Tensor, frequency: np.ndarray) -> dict[str, float]:
    """Where a `lib.train.trial.Training` stands on windows (n, context + 1); frequency (V,): log of each token's.

    step, skipped (steps), kappa; loss, and loss_bf16 and loss_fp16 with logits rounded so (nats); offset and spread
    (mean of the mean logit of a position, and its deviation over positions); largest (absolute logit); delta (of the
    last step's gradient); anisotropy; entropy, entropy_centred, entropy_deflated (singular entropy of the head, of it
    less its mean row, and less the log frequency too; nats); ratio (of its two largest singular values); ones (cosine
    of its first left singular vector with the all-ones vector); gain (mean size of the last norm's gains); key_bias
    (largest norm of a head's key bias); score_offset (largest, over heads, of the mean size of a query's mean score),
    and score_offset_L_H of head H in layer L; rounding_keys (what storing keys in fp16 costs, beside the run's own
    format, nats).
    """
    training.watch = []
    states = training.states(rows)
    by_head, training.watch = torch.stack(training.watch), None
    head, targets = training.head, training.labels(rows)
    if callable(targets):
        targets = targets(slice(None))
    found = {"step": training.step, "skipped": training.skipped, "kappa": training.kappa, "delta": training.delta}
    found |= _of_logits(states, head, targets)
    found |= _of_head(head.cpu(), frequency)
    biases = [layer.attention.query_key_value.bias for layer in training.network.gpt_neox.layers]
    keys = torch.stack([offsets.by_head(bias, training.trial.heads)[1] for bias in biases])
    found |= {
        "anisotropy": anisotropy.anisotropy(states),
        "gain": training.network.gpt_neox.final_layer_norm.weight.abs().mean().item(),
        "key_bias": keys.norm(dim=-1).max().item(),
        "score_offset": by_head.max().item(),
    }
    found |= {f"score_offset_{layer}_{h}": by_head[layer, h].item() for layer, h in np.ndindex(*by_head.shape)}
    training.keys = "float16"
    coarse = _of_logits(training.states(rows), head, targets, {"loss": "float32"})["loss"]
    training.keys = training.trial.keys
    return found | {"rounding_keys": coarse - found["loss"]}


def _of_logits(states, head, targets, formats=LOSSES):
    totals, means, largest = dict.fromkeys(formats, 0.0), [], 0.0
    for part, labels in zip(states.split(1024), targets.split(1024), strict=True):
        logits = part @ head.T
        for name, dtype in formats.items():
            totals[name] += F.cross_entropy(precision.rounded(logits, dtype), labels, reduction="sum").item()
        means.append(logits.mean(1))
        largest = max(largest, logits.abs().max().item())
    means = torch.cat(means)
    stands = {"offset": means.mean().item(), "spread": means.std().item(), "largest": largest}
    return {name: total / len(states) for name, total in totals.items()} | stands


def _of_head(head, frequency):
    centred = spectra.centre(head)
    sigma = spectra.singular_values(head)
    deflated = spectra.deflate(centred, frequency - frequency.mean())
    return {
        "entropy": spectra.singular_entropy(sigma),
        "entropy_centred": spectra.singular_entropy(spectra.singular_values(centred)),
        "entropy_deflated": spectra.singular_entropy(spectra.singular_values(deflated)),
        "ratio": float(sigma[0] / sigma[1]),
        "ones": offsets.first_on_ones(head),
    }
