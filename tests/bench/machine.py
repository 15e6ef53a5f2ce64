"""The dominant product of each chapter in each dtype, on this machine and on it held to AVX2, and what is chosen.

Held to AVX2, a machine with bf16 units is like most laptops: bf16 is emulated.
"""

import json
import os
import subprocess
import sys
from functools import partial

import torch

from lib.data import architecture, checkpoints
from lib.run import machine
from lib.train import heads
from tests.bench import row, seconds

SLOW = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}
WAYS = {"as it is": {}, "held to AVX2": SLOW}
SLOWER = 1.05  # than float32 the choice may be
V = 49_152
LOSSES = {  # (tokens, rank): fewer tokens of a wide head, for emulation takes a minute on as many
    "loss of a thin head and its gradients (5.1)": (512, 128),
    "loss of a wide head and its gradients (5.1)": (64, 512),
}
PASSES = {"a window of SmolLM2 (4.2, 5.1, 5.2)": (1, 512), "documents of SmolLM2 (4.1)": (4, 256)}


def measured() -> dict[str, dict[str, float]]:
    """Seconds of each kernel in each dtype, taken in turns, in this process."""
    torch.set_flush_denormal(True)
    found = {}
    for name, (count, rank) in LOSSES.items():
        states, weight, labels = torch.randn(count, rank), torch.randn(V, rank) / 8, torch.randint(V, (count,))
        each = [(states.to(dtype), weight.to(dtype)) for dtype in map(architecture.product_dtype, machine.DTYPES)]
        runs = [partial(heads.cross_entropy, *pair, labels) for pair in each]
        found[name] = dict(zip(machine.DTYPES, seconds(*runs), strict=True))
    models = [
        checkpoints.load("package:smollm2-135m", dtype=architecture.product_dtype(dtype))[0] for dtype in machine.DTYPES
    ]
    for name, shape in PASSES.items():
        ids = torch.randint(V, shape)
        runs = [partial(architecture.last_states, model, ids) for model in models]
        found[name] = dict(zip(machine.DTYPES, seconds(*runs), strict=True))
    return found


def child(settings):
    """The same in a process that may use so much of the processor: its choice, and its seconds."""
    command = [sys.executable, "-m", "tests.bench.machine", "child"]
    run = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def main():
    """Print one line for each kernel and way."""
    print(machine.processor())
    for way, settings in WAYS.items():
        found = child(settings)
        for name, by_dtype in found["seconds"].items():
            ratio = by_dtype[found["chosen"]] / by_dtype["float32"]
            times = ", ".join(f"{dtype} {1000 * took:.0f} ms" for dtype, took in by_dtype.items())
            row(f"{name}, {way}", times, f"{found['chosen']} <= {SLOWER} x float32", ratio <= SLOWER)


if __name__ == "__main__":
    if sys.argv[1:] == ["child"]:
        print(json.dumps({"chosen": machine.dtype(), "seconds": measured()}))
    else:
        main()
