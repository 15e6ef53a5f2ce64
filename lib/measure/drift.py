"""How fast a mean row of the head and a mean state drive one another, once the gradient of the logits has lost its sum.

With a gradient g of the logits of a state h, the mean row of the head moves by -E[sum(g) h] / V and the bias b of the
final norm by -E[sum(g)] times the mean row, beside what the softmax sees. Exactly, sum(g) is 0; stored in fp16 it is
-delta (`book/a_proofs.md`, on the zero sum).
"""

import numpy as np


def flushed(p: np.ndarray, kappa: float) -> np.ndarray:
    """Which entries of a gradient fp16 drops when it is stored times kappa: those of size 2^-25 / kappa or less."""
    return np.abs(p) * kappa <= 2.0**-25


def growth_sgd(delta: float, vocabulary: int, decay_row: float = 0.0, decay_bias: float = 0.0) -> float:
    """Growth rate of mean row and bias per unit of summed learning rate, under gradient descent.

    The larger eigenvalue of [[-decay_row, delta / V], [delta, -decay_bias]]: delta / sqrt(V) without decay. It is
    positive unless decay_row decay_bias >= delta^2 / V: decay on one of the two alone never wins.
    """
    return _larger(delta**2 / vocabulary, decay_row, decay_bias)


def growth_adam(row: float, bias: float, decay_row: float = 0.0, decay_bias: float = 0.0) -> float:
    """The same under AdamW, where a coordinate moves by `step_share` of the learning rate.

    row: of the mean row, for a mean state of one noise; bias: of the bias, for a mean row of one. See `slopes`.
    """
    return _larger(row * bias, decay_row, decay_bias)


def step_share(mean, noise):
    """Share of the learning rate that AdamW moves a coordinate whose gradient has that mean and that noise.

    mean / sqrt(mean^2 + noise^2): the bias of a gradient drowns in its noise, which falls as one over the root of the
    batch. Good for a slow second moment.
    """
    return mean / np.sqrt(np.square(mean) + np.square(noise))


def label_share(frequency, tokens_per_step: int):
    """The same for a row whose gradient is zero but where its token is the label: sqrt(q), q the share of such steps.

    A step of B tokens has q = 1 - (1 - f)^B; spikes of one size have mean q and second moment q.
    """
    return np.sqrt(-np.expm1(tokens_per_step * np.log1p(-np.asarray(frequency, float))))


def largest_offset(width: int, moved: float, decay: float) -> float:
    """Bound on a mean logit under AdamW: width coordinates, of a decayed row and of a bias that never decays.

    A row stays below 1 / decay, or the summed learning rate `moved` if that is less; the bias stays below `moved`.
    """
    return width * min(1 / decay if decay else np.inf, moved) * moved


def _larger(product, first, second):
    return (-(first + second) + np.sqrt((first - second) ** 2 + 4 * product)) / 2
