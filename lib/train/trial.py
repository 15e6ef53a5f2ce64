"""A training run with anything changed that might decide whether it saturates; followed where a softmax can't see.

The model, the text and the optimiser are the nano suite's, which the defaults repeat at a smaller size. Arithmetic is
float32 throughout; what is stored in fewer bits is rounded where a trainer stores it (`lib.train.precision`).
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from lib.measure import offsets
from lib.train import loop, neox, precision
from lib.train.counted import Counted, counted
from lib.train.replay import rate_for, set_rate

ATTENTION = "stored"  # the name under which transformers finds ours
LARGEST = 65504.0  # of fp16
DECAYED = {  # which kinds of weights
    "matrices": {"matrix"},
    "gains": {"matrix", "gain"},
    "biases": {"matrix", "bias"},
    "all": {"matrix", "gain", "bias"},
}
CHOICES = {
    "schedule": ("cosine", "linear", "constant"),
    "decayed": tuple(DECAYED),
    "centred": ("never", "after", "inside"),
    "labels": ("drawn", "expected"),
}
RANGES = {  # names, what is asked of each of them, in words
    (
        "width",
        "layers",
        "heads",
        "vocabulary",
        "context",
        "tokens_per_step",
        "steps",
        "evaluations",
        "patience",
        "workers",
    ): (
        lambda value: value >= 1,
        "1 or more",
    ),
    ("seed", "order"): (lambda value: value is None or 0 <= value < 2**63, "0 or more, and below 2^63"),
    ("learning_rate", "epsilon", "sharpness"): (lambda value: 0 < value < math.inf, "more than 0, and finite"),
    ("clip",): (lambda value: value > 0, "more than 0; inf does not clip"),
    ("decay", "mu_loss", "z_loss"): (lambda value: 0 <= value < math.inf, "0 or more, and finite"),
    ("warmup", "floor"): (lambda value: 0 <= value <= 1, "0 to 1"),
    ("beta1", "beta2"): (lambda value: 0 <= value < 1, "0 or more, and less than 1"),
}


@dataclasses.dataclass(frozen=True)
class Trial:
    """Everything that a run is made from, but for its text. Raises ValueError for what can't be trained."""

    seed: int = 0  # of the initial weights and of stochastic rounding
    order: int | None = None  # seed of the order of the text; None: that of the weights
    width: int = 16
    layers: int = 3
    heads: int = 2
    vocabulary: int = 4096  # tokens
    context: int = 128  # tokens
    parallel: bool = True  # attention and MLP read the same state, as in Pythia; else one after the other
    tied: bool = False  # the head is the embedding
    output_bias: bool = False  # added to the logits, first the log frequency of each token
    key_bias: bool = True
    tokens_per_step: int = 2048
    steps: int = 4000
    learning_rate: float = 1e-2  # the highest
    schedule: str = "cosine"  # after the warm-up: cosine, linear or constant
    warmup: float = 0.01  # of the steps
    floor: float = 0.1  # last learning rate over the highest
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    decay: float = 0.1
    decayed: str = "matrices"  # which weights: matrices; with them norm gains, or biases; or all
    clip: float = 1.0  # the gradient's norm is at most this
    gradient: str = "float32"  # format of the gradient of the logits
    kappa: float = 1.0  # what gradients are multiplied by while they are stored; a power of two
    stochastic: bool = False  # the gradient of the logits is rounded to either neighbour
    balanced: bool = False  # the label's entry gives back what rounding took from the sum
    dynamic: bool = False  # kappa follows GPT-NeoX's rule for the loss scale, from `kappa` on
    patience: int = 1000  # clean steps after which the loss scale doubles
    workers: int = 32  # whose gradients are added before they are divided: a lower ceiling for the loss scale
    logits: str = "float32"  # format of the logits
    keys: str = "float32"  # format of the keys of attention
    outputs: str = "float32"  # of its outputs
    scores: str = "float32"  # of the gradients of its outputs and scores
    centred: str = "never"  # the head less its mean row: after each step, or inside the model (reparametrised)
    labels: str = "drawn"  # the text's tokens; expected: the distributions that `lib.train.counted` gives each position
    sharpness: float = 1.0  # power that the counts of expected labels are raised to
    mu_loss: float = 0.0  # times the squared length of the head's mean row
    z_loss: float = 0.0  # times the square of the log of the softmax's denominator
    evaluations: int = 40  # evenly spaced, besides the first
    validation_tokens: int = 8192

    def __post_init__(self):
        for name in ("gradient", "logits", "keys", "outputs", "scores"):
            object.__setattr__(self, name, precision.named(getattr(self, name)))
        precision.power_of_two(self.kappa)
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected one of {', '.join(known)}.")
        for names, (allowed, words) in RANGES.items():
            for name in names:
                if not allowed(getattr(self, name)):
                    raise ValueError(f"{name} is {getattr(self, name)}: expected {words}.")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divided by {self.heads} heads: choose a multiple.")
        if self.tokens_per_step % self.context or self.tokens_per_step & (self.tokens_per_step - 1):
            raise ValueError(
                f"tokens_per_step is {self.tokens_per_step}: expected a power of two and a multiple of {self.context}."
            )
        if self.labels == "expected" and (self.stochastic or self.z_loss):
            raise ValueError("labels are expected: stochastic rounding and z_loss need drawn ones; leave them out.")
        if self.validation_tokens < self.context:
            raise ValueError(f"validation_tokens is {self.validation_tokens}: expected at least {self.context}.")


def rate(trial: Trial, step: int) -> float:
    """Learning rate of update `step`, 1 for the first: a linear warm-up, then the schedule down to its floor."""
    warm = max(1, round(trial.warmup * trial.steps))
    if step <= warm:
        return trial.learning_rate * step / warm
    share = (step - warm) / max(1, trial.steps - warm)
    shape = {"cosine": (1 + math.cos(math.pi * share)) / 2, "linear": 1 - share, "constant": 1.0}[trial.schedule]
    return trial.learning_rate * (trial.floor + (1 - trial.floor) * shape)


def _attend(module, query, key, value, mask, **_):
    """Attention of a layer, by transformers' protocol; notes the mean score of every query where it is asked to."""
    stored = module.stored
    if stored.watch is not None:
        lengths = torch.arange(1, key.shape[2] + 1, device=key.device)[:, None]
        means = (query * (key.cumsum(2) / lengths)).sum(-1) * module.scaling
        stored.watch.append(means.abs().mean((0, 2)))
    trial, keys = stored.trial, stored.keys
    formats = {"keys": keys, "outputs": trial.outputs, "gradient": trial.scores, "kappa": stored.scale}
    if {keys, trial.outputs, trial.scores} == {"float32"}:
        result = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    else:
        result = precision.attention(query, key, value, **formats)
    return result.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _attend)


class Training:
    """A trial under way: its weights, its optimiser, its loss scale."""

    def __init__(self, trial: Trial, stream: np.ndarray, device: str = "cpu", source: Counted | None = None):
        self.trial, self.step, self.skipped, self.clean = trial, 0, 0, 0
        self.kappa, self.keys, self.watch, self.delta, self.device = trial.kappa, trial.keys, None, 0.0, device
        if trial.labels == "expected":
            source = source or counted(stream, trial.vocabulary, trial.sharpness, device)
        self.source = source if trial.labels == "expected" else None
        shape = trial.width, trial.layers, trial.heads, trial.vocabulary, trial.context
        self.network = neox.model(*shape, trial.seed).to(device)
        self.network.config._attn_implementation = ATTENTION
        for layer in self.network.gpt_neox.layers:
            layer.use_parallel_residual, layer.attention.stored = trial.parallel, self
            if not trial.key_bias:
                layer.attention.query_key_value.bias.register_hook(self._without_keys)
        if trial.tied:
            self.network.lm_head.weight = self.network.gpt_neox.embed_in.weight
        log_unigram = loop.log_unigram(stream, trial.vocabulary).to(device)
        self.bias = torch.nn.Parameter(log_unigram) if trial.output_bias else None
        self.optimiser = self._optimiser()
        self.noise = torch.Generator().manual_seed(trial.seed)

    @property
    def scale(self) -> float:
        """The loss scale: gradients of the mean loss are multiplied by it while they are stored."""
        return self.kappa * self.trial.tokens_per_step

    @property
    def head(self) -> torch.Tensor:
        """The head as the logits see it, (V, d), or (V, d + 1) with an output bias."""
        weight = self.network.lm_head.weight
        weight = weight if self.bias is None else torch.cat([weight, self.bias[:, None]], 1)
        return weight - weight.mean(0) if self.trial.centred == "inside" else weight

    def states(self, rows: torch.Tensor) -> torch.Tensor:
        """What the head reads on windows (n, context + 1): (n context, d), or d + 1 with an output bias."""
        states = self.network.gpt_neox(rows[:, :-1], use_cache=False).last_hidden_state.flatten(0, 1)
        return states if self.bias is None else torch.cat([states, states.new_ones(len(states), 1)], 1)

    def labels(self, rows: torch.Tensor) -> torch.Tensor | Callable[[slice], torch.Tensor]:
        """What follows each position of windows: tokens, or a function that gives distributions of a slice of them."""
        return rows[:, 1:].flatten() if self.source is None else self.source.labels(rows)

    def update(self, rows: torch.Tensor) -> float:
        """One step on windows (n, context + 1); returns the loss before it.

        A step whose gradients overflow is skipped where the loss scale is dynamic. Raises FloatingPointError for a loss
        that is not finite.
        """
        loss, delta = self.backward(rows)
        value, self.delta = loss.item(), delta.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} at step {self.step}: expected a finite one; lower the rate.")
        self.step += 1
        if self.trial.dynamic and self._overflown():
            return value
        set_rate(self.optimiser, rate(self.trial, self.step))
        self.advance()
        return value

    def backward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the gradient of the loss on windows into the parameters; the loss, and delta."""
        trial, head = self.trial, self.head
        self.optimiser.zero_grad()
        loss, delta = precision.head_loss(
            self.states(rows),
            head,
            self.labels(rows),
            gradient=trial.gradient,
            kappa=self.kappa,
            stochastic=trial.stochastic,
            logits=trial.logits,
            balanced=trial.balanced,
            z_loss=trial.z_loss,
            generator=self.noise,
        )
        (loss + trial.mu_loss * head.mean(0).square().sum()).backward()
        return loss.detach(), delta

    def advance(self) -> None:
        """Clip the gradient, step, centre."""
        torch.nn.utils.clip_grad_norm_(self.parameters(), self.trial.clip)
        self.optimiser.step()
        if self.trial.centred == "after":
            with torch.no_grad():
                for part in (self.network.lm_head.weight, *([] if self.bias is None else [self.bias])):
                    part -= part.mean(0)

    def parameters(self) -> list[torch.Tensor]:
        """All that is trained."""
        return [*self.network.parameters(), *([] if self.bias is None else [self.bias])]

    def _overflown(self):
        """GPT-NeoX's rule: halve and skip where a sum over workers leaves fp16; double after clean steps."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        largest = torch.stack([g.abs().max() for g in gradients]).max().item()
        if not largest * self.scale * self.trial.workers <= LARGEST:
            self.kappa, self.clean, self.skipped = self.kappa / 2, 0, self.skipped + 1
            return True
        self.clean += 1
        if self.clean % self.trial.patience == 0:
            self.kappa *= 2
        return False

    def _without_keys(self, gradient):
        """The gradient of a fused bias (3 d,) without its keys."""
        parts = offsets.by_head(gradient, self.trial.heads).clone()
        parts[1] = 0
        return parts.transpose(0, 1).flatten()

    def _optimiser(self):
        trial, groups = self.trial, {True: [], False: []}
        own = [] if self.bias is None else [("output_bias", self.bias)]
        for name, parameter in [*self.network.named_parameters(), *own]:
            kind = "matrix" if parameter.ndim > 1 else "bias" if name.endswith("bias") else "gain"
            groups[kind in DECAYED[trial.decayed]].append(parameter)
        return torch.optim.AdamW(
            [{"params": group, "weight_decay": trial.decay * decays} for decays, group in groups.items()],
            **rate_for(self.device, trial.learning_rate),
            betas=(trial.beta1, trial.beta2),
            eps=trial.epsilon,
            fused=True,
        )
