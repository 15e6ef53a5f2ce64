"""Spectrum and anisotropy against NumPy and against the definition: time, error, memory.

    python -m tests.bench.spectra

Ratios are of medians of runs that alternate in one process. Peak memory is that of a process of its own.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from lib.measure.anisotropy import anisotropy
from lib.measure.spectra import singular_values
from tests.bench import row, seconds

HEAD = (50304, 512)
STATES = (50000, 576)

PEAK = """
import sys
import numpy as np
from lib.measure.spectra import singular_values
from tests.bench import forget_peak, resident
weight = np.load(sys.argv[1])
singular_values(weight[:4096] + 0)  # loads the libraries and starts their threads
forget_peak()
before = resident("VmRSS")
singular_values(weight)
print(resident("VmHWM") - before)
"""


def head(condition):
    """Float32 head of a given condition number, singular values in geometric progression."""
    rng = np.random.default_rng(0)
    left = np.linalg.qr(rng.standard_normal(HEAD))[0]
    right = np.linalg.qr(rng.standard_normal((HEAD[1], HEAD[1])))[0]
    return (left * np.geomspace(condition, 1, HEAD[1]) @ right).astype(np.float32)


def all_pairs(states, rows=4096):
    """The definition: every cosine, a block of pairs at a time, in float64."""
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    total = sum((unit[i : i + rows] @ unit.T).sum() for i in range(0, len(unit), rows))
    return (total - len(unit)) / (len(unit) * (len(unit) - 1))


def extra_memory(weight, folder):
    """Bytes that singular_values adds to the peak of its process."""
    np.save(f"{folder}/head.npy", weight)
    command = [sys.executable, "-c", PEAK, f"{folder}/head.npy"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


def main(folder="_build/bench"):
    """Print the table of the issue."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for condition, wanted in ((9e3, 4), (1e6, 0.5)):
        weight = head(condition)
        exact = torch.linalg.svdvals(torch.from_numpy(weight).double()).numpy()
        ways = (lambda w=weight: singular_values(w), lambda w=weight: np.linalg.svd(w, compute_uv=False))
        ours, theirs = seconds(*ways, repeats=5)
        error = np.abs(singular_values(weight) / exact - 1).max()
        share = extra_memory(weight, folder) / weight.nbytes
        name = f"singular_values, condition {condition:.0e}"
        row(f"{name}: numpy's time over ours", f"{theirs / ours:.1f}", f">= {wanted}", theirs / ours >= wanted)
        row(f"{name}: worst relative error", f"{error:.1e}", "<= 1e-6", error <= 1e-6)
        row(f"{name}: extra memory / head", f"{share:.3f}", "<= 0.25", share <= 0.25)
    states = np.random.default_rng(0).standard_normal(STATES) + 0.2
    (slow,) = seconds(lambda: all_pairs(states), repeats=1)
    (fast,) = seconds(lambda: anisotropy(states), repeats=9)
    error = abs(anisotropy(states) - all_pairs(states))
    row("anisotropy: time over all pairs / ours", f"{slow / fast:.0f}", ">= 1000", slow / fast >= 1000)
    row("anisotropy: difference", f"{error:.1e}", "<= 1e-9", error <= 1e-9)


if __name__ == "__main__":
    main()
