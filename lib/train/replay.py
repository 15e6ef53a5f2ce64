"""A training step recorded once on a GPU and replayed, so that it is launched at once.

A small model's step is hundreds of short kernels, whose launches take longer than their arithmetic.
"""

import contextlib
from collections.abc import Callable

import torch

WARM = 3  # steps before one is recorded: what a GPU allocates and chooses in the first ones must not be


class Replayed:
    """A step without arguments or results; on a GPU a graph from the fourth call on, queued on a stream of its own."""

    def __init__(self, step: Callable[[], None], device: str):
        self.step, self.calls = step, 0
        self.stream = None if device == "cpu" else torch.cuda.Stream(device)
        self.graph = None if device == "cpu" else torch.cuda.CUDAGraph()

    def queue(self) -> contextlib.AbstractContextManager:
        """Inside the block what a GPU is told comes before the next step and after the last."""
        return contextlib.nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def wait(self) -> None:
        """Until every step is done."""
        if self.stream is not None:
            self.stream.synchronize()

    def __call__(self) -> None:
        """Take the step, or queue it."""
        if self.stream is None:
            self.step()
            return
        with self.queue():
            if self.calls < WARM:
                self.step()
            else:
                if self.calls == WARM:
                    torch.cuda.synchronize()
                    with torch.cuda.graph(self.graph, stream=self.stream):
                        self.step()
                self.graph.replay()
        self.calls += 1


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups; in place where it is a tensor, as a recorded step needs it."""
    for group in optimiser.param_groups:
        if torch.is_tensor(group["lr"]):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def rate_for(device: str, rate: float) -> dict:
    """An optimiser's settings for a rate that a recorded step can read."""
    if device == "cpu":
        return {"lr": rate}
    return {"lr": torch.tensor(rate, device=device), "capturable": True}
