"""Benchmarks: the figures that the book promises, one module for each topic (`make bench`)."""

import statistics
import time
from pathlib import Path


def row(name, measured, target, ok):
    """Print one line: what, measured, target, and whether it is met."""
    print(f"{name:64} {measured:>24}   target {target:24} {'ok' if ok else 'MISS'}", flush=True)


def seconds(*functions, repeats=3):
    """Median seconds of each function, taken in turns."""
    times = [[] for _ in functions]
    for _ in range(repeats):
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def resident(field):
    """Bytes of this process now (VmRSS) or at most since the last `forget_peak` (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def forget_peak():
    """Let the peak of this process's memory start again from what it holds now."""
    Path("/proc/self/clear_refs").write_text("5")
