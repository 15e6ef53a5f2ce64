"""A training step with the gradient of the logits stored in half precision against the suite's own, in float32.

Run on a quiet machine: python -m tests.bench.precision
"""

import numpy as np
import torch

from lib.train import loop, mixture, trial
from tests.bench import row, seconds

TARGET = 1.5
SHAPE = {"heads": 2, "layers": 3, "vocabulary": 16384, "context": 128, "tokens_per_step": 1024, "steps": 4000}


def steps(width):
    """One training step of the suite, and of a trial with fp16 and with bf16, as functions of nothing."""
    suite = loop.Run(
        name="bench",
        width=width,
        learning_rate=1e-2,
        save_every=4096,
        evaluations=1,
        validation_tokens=128,
        seed=0,
        **SHAPE,
    )
    ids = np.random.default_rng(0).zipf(1.3, 10000) % suite.vocabulary
    halves = [trial.Trial(width=width, gradient=dtype, kappa=2.0**-4, **SHAPE) for dtype in ("fp16", "bf16")]
    trained = [loop.Training(suite, ids), *(trial.Training(half, ids) for half in halves)]
    rows = torch.from_numpy(mixture.windows(ids, suite.context)[: 1024 // suite.context].copy())
    return [lambda one=one: one.update(rows) for one in trained]


@loop.fast()
def main():
    """Print a line for each width."""
    for width in (16, 64, 128):
        plain, fp16, bf16 = seconds(*steps(width), repeats=15)
        what = f"training step, V = 16,384, d = {width}: fp16, bf16 over float32"
        row(what, f"{fp16 / plain:.2f}, {bf16 / plain:.2f} times", f"at most {TARGET}", fp16 <= TARGET * plain)


if __name__ == "__main__":
    main()
