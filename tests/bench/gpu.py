"""Share of a GPU's own matrix speed that the heads and the suite reach; one line that says so where there is none.

python -m tests.bench.gpu
"""

import time

import numpy as np
import torch

from lib.train import heads, loop
from lib.train.loop import Run
from tests.bench import row

V, D, N = 50_304, 1024, 16_384


def speed(work, operations, repeats=10):
    """Operations a second, after a first time that does not count."""
    work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return repeats * operations / (time.perf_counter() - start)


def main():
    """Print the shares, on the card and at the shapes of Pythia-410M."""
    if not torch.cuda.is_available():
        row("share of a GPU's speed", "no GPU here", "not stated", True)
        return
    options = {"device": "cuda", "dtype": torch.bfloat16}
    square = torch.randn(8192, 8192, **options)
    peak = speed(lambda: square @ square, 2 * 8192**3)
    states, weight = torch.randn(N, D, **options), torch.randn(V, D, **options) / 32
    labels = torch.randint(V, (N,), device="cuda")
    head = speed(lambda: heads.cross_entropy(states, weight, labels), 6 * N * V * D)
    run = Run(
        name="gpu", width=D, heads=16, layers=24, vocabulary=V, context=2048, tokens_per_step=N, steps=1000,
        learning_rate=3e-4, save_every=1000, evaluations=1, validation_tokens=N, seed=0, dtype="bfloat16",
    )  # fmt: skip
    stream = np.random.default_rng(0).integers(V, size=N + N // 2048)
    training, rows = loop.Training(run, stream, "cuda"), torch.from_numpy(stream).view(-1, 2049)
    parameters = sum(p.numel() for name, p in training.network.named_parameters() if "embed_in" not in name)
    suite = speed(lambda: training.update(rows), 6 * parameters * N)
    name = torch.cuda.get_device_name()
    for what, measured in (("loss and gradients of a head", head), ("training step of the suite", suite)):
        row(f"{what} / square product, {name}", f"{measured / peak:.0%}", "reported", True)


if __name__ == "__main__":
    main()
