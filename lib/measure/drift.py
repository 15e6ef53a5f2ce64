"""How fast a mean row of the head and a mean state drive one another, once the gradient of the logits has lost its sum.

With a gradient g of the logits of a state h, the mean row of the head moves by -E[sum(g) h] / V and the bias b of the
final norm by -E[sum(g)] times the mean row, beside what the softmax sees. Exactly, sum(g) is 0; stored in fp16 it is
-delta (`book/a_proofs.md`, on the zero sum).
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp

ROWS = 128  # positions whose probabilities are held at once
BETAS = (0.9, 0.95)  # AdamW's, as Pythia's


@dataclass(frozen=True)
class Pushes:
    """What storing a gradient adds to it on average, and its noise, for a head and the bias of the norm before it."""

    rows: torch.Tensor  # (V, d), mean gradient of the head
    rows_square: torch.Tensor  # (V, d), mean square of one position's
    states_square: torch.Tensor  # (d,), mean square of a state
    bias_square: torch.Tensor  # (d,), mean square of one position's gradient by its state
    mean_state: torch.Tensor  # (d,)
    mean_row: torch.Tensor  # (d,)
    delta: float  # minus the mean sum of a position's gradient
    curvature: torch.Tensor  # (d, d), of the loss by a bias that all states share
    lost: torch.Tensor  # (V,), what storing adds to the mean gradient of each logit
    logit_square: torch.Tensor  # (V,), mean square of one position's gradient of each logit


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

    row: of the mean row, for a mean state of one noise; bias: of the bias, for a mean row of one; see `speeds`.
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


def spike_reach(betas: tuple[float, float] = BETAS) -> float:
    """How many learning rates AdamW moves for one spike among zeros: the sum of m / sqrt(v) after it, about 5.8."""
    first, second = betas
    return (1 - first) / (1 - second) ** 0.5 / (1 - first / second**0.5)


def pushes(states: torch.Tensor, head: torch.Tensor, kappa: float) -> Pushes:
    """Means and noise of a gradient of the logits stored in fp16 times kappa, where labels follow the model itself.

    states (n, d), head (V, d), float32. Labels are averaged over, each drawn with the probability that the model gives
    it, so that the exact mean gradient is zero and what is left is what storing adds.
    """
    count = len(states)
    rows, square, curvature = torch.zeros_like(head), torch.zeros_like(head), head.new_zeros(head.shape[1:] * 2)
    usage, lost, logit_square = head.new_zeros(3, len(head))
    bias_square = head.new_zeros(head.shape[1])
    for part in states.split(ROWS):
        p = (part @ head.T).softmax(1)
        other, label = _fp16(p, kappa), _fp16(p - 1, kappa)
        mean = other + p * (label - other)
        rows.addmm_(mean.T, part)
        squares = other.square() + p * (label.square() - other.square())
        square.addmm_(squares.T, part.square())
        lost += mean.sum(0)
        logit_square += squares.sum(0)
        pull = p @ head
        usage += p.sum(0)
        curvature -= pull.T @ pull
        bias_square += (p @ head.square() - pull.square()).sum(0)
    curvature += head.T @ (usage[:, None] * head)
    rows, square, bias_square, curvature, lost, logit_square = (
        part / count for part in (rows, square, bias_square, curvature, lost, logit_square)
    )
    means = states.square().mean(0), bias_square, states.mean(0), head.mean(0)
    return Pushes(rows, square, *means, -float(lost.double().sum()), curvature, lost, logit_square)


def speeds(push: Pushes, batch: float, betas: tuple[float, float] = BETAS) -> dict[str, float]:
    """How fast AdamW moves the two means at a batch of so many tokens, per unit of summed learning rate.

    row, bias: gain of the mean row for a mean state of one, and of the bias for a mean row of one, as `growth_adam`
    takes them; by_row, by_bias: what each adds to the mean logit; share: of the learning rate that the bias moves. A
    label that is rarer than a step moves its row by `spike_reach`, which is less than `step_share` says.
    """
    noise = push.rows_square / batch + push.states_square / (spike_reach(betas) * batch) ** 2
    row = -(push.rows / (push.rows.square() + noise).sqrt().clamp(min=1e-30)).mean(0)
    pull = push.delta * push.mean_row
    bias = pull / (pull.square() + push.bias_square / batch).sqrt().clamp(min=1e-30)
    by_row, by_bias = float(row @ push.mean_state), float(bias @ push.mean_row)
    lengths = (float(part.square().sum()) for part in (push.mean_state, push.mean_row))
    gains = [by / length for by, length in zip((by_row, by_bias), lengths, strict=True)]
    return {
        "row": gains[0],
        "bias": gains[1],
        "by_row": by_row,
        "by_bias": by_bias,
        "share": by_bias / float(push.mean_row.abs().sum()),
    }


def pinned(push: Pushes) -> float:
    """Mean logit that the bias adds before the softmax holds it, the rows staying as they are: delta w H^-1 w.

    w is the mean row, H the curvature of the loss by the bias. A bias that has to go farther takes rows along.
    """
    inverse = torch.linalg.pinv(push.curvature.double(), hermitian=True, rtol=1e-6)
    return float(push.delta * push.mean_row.double() @ inverse @ push.mean_row.double())


def free(push: Pushes, batch: float, width: int, times: np.ndarray, start: float, decay: float) -> np.ndarray:
    """Mean logit at summed learning rates `times` if nothing held the bias: AdamW's steps, drowning and saturating.

    All of the coordinates are alike: a mean row w and a bias b, with w' = S(b) - decay w and b' = `step_share` of
    delta w, S being the mean over rows of theirs for a mean state of b. start: mean logit at 0; width: of the
    model that is foretold, whose rows and states have entries as large as those that `push` was measured on.
    """
    lost, square = (part.double().numpy() for part in (push.lost, push.logit_square))
    spread = float((push.states_square - push.mean_state.square()).mean())
    noise = square / batch + 1 / (spike_reach() * batch) ** 2
    bias_noise = (float(push.bias_square.mean()) / batch) ** 0.5
    row = float(push.mean_row.square().mean()) ** 0.5

    def motion(_, means):
        w, b = means
        moved = -np.mean(lost * b / np.sqrt((lost * b) ** 2 + noise * (b * b + spread) + 1e-60))
        return moved - decay * w, step_share(push.delta * w, bias_noise)

    times = np.asarray(times, float)
    path = solve_ivp(motion, (0, times[-1]), (row, start / (width * row)), t_eval=times, rtol=1e-5)
    return width * path.y[0] * path.y[1]


def held(push: Pushes, batch: float, times: np.ndarray, start: float, decay: float) -> np.ndarray:
    """The same if the softmax holds the bias, but for what it lets go (`pinned`): only the mean row moves."""
    by_row, times = speeds(push, batch)["by_row"], np.asarray(times, float)
    fading = np.exp(-decay * times)
    moved = by_row * (1 - fading) / decay if decay else by_row * times
    return start * fading + moved + pinned(push) * (times > 0)


def growth_attention(delta: float, size: int) -> float:
    """Growth rate of a key bias and a query bias under gradient descent, for heads of a size: |delta| / sqrt(size).

    delta: minus the sum over keys of the stored gradient of a query's scores, summed over queries as the loss does.
    Neither has decay in Pythia, and either sign of delta grows.
    """
    return abs(delta) / size**0.5


def _larger(product, first, second):
    return (-(first + second) + np.sqrt((first - second) ** 2 + 4 * product)) / 2


def _fp16(x, kappa):
    return (x * kappa).half().float() / kappa
