"""Trials trained step by step beside one another; on a GPU, each on a stream of its own, they run at the same time."""

import math

import numpy as np
import torch

from lib.train import followed, loop
from lib.train.counted import counted
from lib.train.mixture import windows
from lib.train.replay import Replayed, set_rate
from lib.train.trial import Training, Trial, rate


class Recorded:
    """A training on a GPU whose step is a graph; what it computes is `Training.update`'s, but the loss is summed there.

    Raises ValueError for what a graph can't hold: a loss scale that follows a rule, and stochastic rounding.
    """

    def __init__(self, training: Training):
        trial = training.trial
        if trial.dynamic or trial.stochastic:
            raise ValueError(
                "on a GPU steps are recorded: a dynamic loss scale and stochastic rounding need device=cpu."
            )
        self.training, self.replayed = training, Replayed(self._step, training.device)
        size = trial.tokens_per_step // trial.context, trial.context + 1
        self.rows = torch.zeros(size, dtype=torch.long, device=training.device)
        self.loss = torch.zeros((), dtype=torch.float64, device=training.device)
        self.delta = torch.zeros((), device=training.device)

    def update(self, rows: torch.Tensor) -> None:
        """Queue one step on windows (n, context + 1)."""
        training = self.training
        with self.replayed.queue():
            self.rows.copy_(rows)
            set_rate(training.optimiser, rate(training.trial, training.step + 1))
        self.replayed()
        training.step += 1

    def total(self) -> float:
        """The sum of the losses since it was last asked, once all steps are done. Raises FloatingPointError for NaN."""
        self.replayed.wait()
        value, self.training.delta = self.loss.item(), self.delta.item()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} by step {self.training.step}: expected finite; lower the rate."
            )
        self.loss.zero_()
        return value

    def _step(self):
        loss, delta = self.training.backward(self.rows)
        self.loss += loss
        self.delta.copy_(delta)
        self.training.advance()


class Eager:
    """The same of a training on a CPU."""

    def __init__(self, training: Training):
        self.training, self.recent = training, []

    def update(self, rows: torch.Tensor) -> None:
        """Take one step on windows (n, context + 1)."""
        self.recent.append(self.training.update(rows))

    def total(self) -> float:
        """The sum of the losses since it was last asked."""
        value = math.fsum(self.recent)
        self.recent.clear()
        return value


@loop.fast()
def train(
    trials: list[Trial], stream: np.ndarray, validation: np.ndarray, device: str = "cpu"
) -> list[list[dict[str, float]]]:
    """Train each on a stream of ids, by windows in a drawn order, anew in every epoch; a row for each evaluation.

    `lib.train.followed.measured` says what is followed; `train` is the mean loss since the row before, and where labels
    are expected `floor` is the entropy of those of the held-out windows. Raises ValueError where a stream is shorter
    than what is asked of it, or trials differ in what they share, FloatingPointError for a loss that is not finite.
    """
    first = trials[0]
    for name in ("vocabulary", "context", "steps", "evaluations", "validation_tokens", "sharpness"):
        if len({getattr(one, name) for one in trials}) > 1:
            raise ValueError(f"trials trained together differ in {name}: expected one value; train them apart.")
    expected = any(one.labels == "expected" for one in trials)
    source = counted(stream, first.vocabulary, first.sharpness, device) if expected else None
    kind = Eager if device == "cpu" else Recorded
    runs = [kind(Training(one, stream, device, source)) for one in trials]
    batches = [_batches(one, stream) for one in trials]
    held_out = windows(validation, first.context)[: first.validation_tokens // first.context]
    if len(held_out) < first.validation_tokens // first.context:
        raise ValueError(f"the validation text has {len(validation):,} tokens: expected {first.validation_tokens:,}.")
    held_out = torch.from_numpy(held_out.astype(np.int64)).to(device)
    frequency = loop.log_unigram(stream, first.vocabulary).numpy()
    kept = np.linspace(0, first.steps, first.evaluations + 1).round().astype(int).tolist()
    floor = {} if source is None else {"floor": _entropy(source.labels(held_out)(slice(None)))}
    found, before = [[] for _ in trials], 0
    for step in range(first.steps + 1):
        if step in kept:
            for rows, run in zip(found, runs, strict=True):
                mean = run.total() / (step - before) if step else float("nan")
                rows.append(followed.measured(run.training, held_out, frequency) | {"train": mean} | floor)
            before = step
        if step < first.steps:
            for run, batch in zip(runs, batches, strict=True):
                run.update(batch(step))
    return found


def _entropy(labels):
    return float(-torch.xlogy(labels, labels).sum(1).mean())


def _batches(trial, stream):
    rows, size = windows(stream, trial.context), trial.tokens_per_step // trial.context
    if len(rows) < size:
        raise ValueError(f"the text has {len(stream):,} tokens: expected {trial.tokens_per_step:,} for one step.")
    each, seed = len(rows) // size, trial.seed if trial.order is None else trial.order
    orders: dict[int, np.ndarray] = {}

    def batch(step):
        epoch, place = divmod(step, each)
        if epoch not in orders:
            orders.clear()
            orders[epoch] = np.random.default_rng([seed, epoch]).permutation(len(rows))
        return torch.from_numpy(rows[np.sort(orders[epoch][place * size : (place + 1) * size])].astype(np.int64))

    return batch
