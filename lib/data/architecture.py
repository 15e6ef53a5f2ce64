"""What enters a model's head, and what the model does to its logits after it: by structure, not by names.

Most models take logits W h of a state h. Some scale them (Cohere, Granite), cap them (Gemma 2), or add a bias (Phi). A
loss taken from W h is then not the model's; what happens after the head is found by feeding the head chosen states.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

SIZES = (0.01, 1.0, 10.0, 100.0)  # of the logits on which a readout is checked
HUGE = 1e7, 1e9  # of those that show a cap
TOLERANCE = 1e-4  # nats, relative to a logit above one
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}  # that products may be made in


@dataclass(frozen=True)
class Readout:
    """A model's logits of the states that enter its head: cap tanh((scale W h + bias) / cap), float32."""

    weight: torch.Tensor  # (V, d)
    scale: float = 1.0
    bias: torch.Tensor | None = None  # (V,)
    cap: float | None = None

    def logits(self, states: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (N, V) of states (N, d); with another matrix in the head's place, where one is given."""
        weight = self.weight if weight is None else weight
        logits = states.float() @ weight.float().T
        if self.scale != 1:
            logits *= self.scale
        if self.bias is not None:
            logits += self.bias
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def matrix(self) -> torch.Tensor:
        """The head as one matrix (V, d), its scale included. Raises ValueError where the logits are more than W h."""
        if self.bias is not None or self.cap is not None:
            what = "a bias" if self.cap is None else f"a soft cap at {self.cap:g}"
            raise ValueError(f"the model puts {what} on its logits: expected a head that is one matrix; use another")
        return self.weight.float() * self.scale if self.scale != 1 else self.weight.float()


def product_dtype(name: str) -> torch.dtype:
    """The dtype of a name that a call or a record can hold. Raises ValueError for one that no product is made in."""
    if name not in DTYPES:
        raise ValueError(f"dtype is {name!r}: expected {' or '.join(DTYPES)}")
    return DTYPES[name]


def longest(model: torch.nn.Module, asked: int) -> int:
    """So many tokens as are asked for, or fewer where the configuration of the model says that it reads fewer."""
    settings = model.config.get_text_config()
    known = [getattr(settings, name, None) for name in ("max_position_embeddings", "max_seq_len", "seq_length")]
    return min([asked, *(length for length in known if isinstance(length, int) and length > 0)])


def readout(model: torch.nn.Module) -> Readout:
    """How a float32 model turns the states that enter its head into logits, found by a forward pass of a few tokens.

    Raises ValueError where it has no head that is a matrix, or does to its logits what a Readout can't express.
    """
    weight = _head(model).weight.detach()
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(4, weight.shape[1], generator=generator).to(weight)
    states /= (states @ weight.T).abs().amax(1, keepdim=True).clamp(min=1e-30)  # the largest product is 1
    scales = torch.tensor([0.0, *SIZES, *HUGE]).to(weight)
    seen = _logits_of(model, (scales[:, None, None] * states).flatten(0, 1)).double()
    zero, *checked, large, larger = seen.view(len(scales), len(states), -1).unbind()
    if seen.shape[-1] != len(weight):
        raise ValueError(f"the model has {seen.shape[-1]} logits and {len(weight)} rows in its head: use another model")
    cap = float(larger.abs().amax()) if larger.abs().amax() < 2 * large.abs().amax() else None
    size = SIZES[1] if cap is None or cap > 2 * SIZES[1] else SIZES[0]  # below the cap, where it still bends little
    middle = checked[SIZES.index(size)]
    bias, middle = (part if cap is None else cap * torch.atanh(part / cap) for part in (zero[0], middle))
    products = size * (states @ weight.T).double()
    scale = float(((middle - bias) * products).sum() / products.square().sum())
    if not math.isfinite(scale):
        raise ValueError(f"the logits of {type(model).__name__} are not finite, or its head is zero: check its weights")
    found = Readout(
        weight,
        _round(scale),
        bias.float() if bias.abs().amax() > TOLERANCE else None,
        None if cap is None else _round(cap),
    )
    for size, right in zip(SIZES, checked, strict=True):
        if not ((found.logits(size * states) - right).abs() <= TOLERANCE * right.abs().clamp(min=1)).all():
            raise ValueError(
                f"{type(model).__name__} does more to its logits than a scale, a bias and a soft cap: "
                "its loss can't be taken from its states; use another model"
            )
    return found


def cast(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """The model with its parameters in another dtype; buffers, such as the frequencies of positions, stay exact."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


@contextlib.contextmanager
def entering(model: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Inside the block forward passes skip the head: what would have entered it is appended to the list."""
    head, seen = _head(model), []

    def skip(states: torch.Tensor) -> torch.Tensor:
        seen.append(states)
        return states.new_zeros(*states.shape[:-1], 1)

    head.forward = skip  # of this module alone: its class keeps its own
    try:
        yield seen
    finally:
        del head.forward


@contextlib.contextmanager
def before_last_norm(model: torch.nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Inside the block "states" holds what entered the last normalisation that ran before the head did.

    Raises ValueError in a forward pass where that is not one state (B, T, width) for each that enters the head.
    """
    seen = {}

    def note(_, inputs: tuple) -> None:
        seen["states"] = inputs[0]

    def compare(_, inputs: tuple) -> None:
        if "states" not in seen or seen["states"].shape[:-1] != inputs[0].shape[:-1]:
            raise ValueError(
                f"{type(model).__name__} normalises other states than those that enter its head: expected one before "
                "the last norm for each of them; use another model"
            )

    hooks = [norm.register_forward_pre_hook(note) for norm in model.modules() if _normalises(norm)]
    hooks.append(_head(model).register_forward_pre_hook(compare))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def last_states(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """States (B, T, d) that enter the head for token ids (B, T)."""
    with entering(model) as seen:
        model(ids, use_cache=False)
    return seen[0]


@torch.inference_mode()
def _logits_of(model, states):
    """What the model makes of given states (N, d) in place of those that would enter its head: (N, V)."""
    hook = _head(model).register_forward_pre_hook(lambda *_: (states[None],))
    try:
        ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
        logits = model(ids, use_cache=False).logits
    finally:
        hook.remove()
    if logits.shape[:-1] != ids.shape:
        raise ValueError(f"{type(model).__name__} has other logits than one row for each token: use another model")
    return logits[0]


def _head(model):
    head = model.get_output_embeddings()
    if getattr(getattr(head, "weight", None), "ndim", 0) != 2:
        raise ValueError(f"{type(model).__name__} has no head that is a matrix: expected a causal language model")
    return head


def _normalises(module):
    """Whether a module is a normalisation, and no part of a model that is named after one."""
    parts = [type(part).__name__.lower() for part in module.modules()]
    return "norm" in parts[0] and not any("norm" in part or part == "linear" for part in parts[1:])


def _round(value):
    """Without the rounding error of a fit: configurations give such numbers with few digits, or as powers of 2."""
    return value if value == 0 else round(value, 6 - math.floor(math.log10(abs(value))))
