"""Benchmarks: the figures that the book promises, one module for each topic (`make bench` runs them all)."""

import json
import os
import statistics
import time
from pathlib import Path

ROWS = "BENCH_ROWS"  # names the file in which a topic leaves its lines for the table of all


def row(name, measured, target="", ok=True):
    """Print one line: what, measured, target where there is one, and whether it is met."""
    met = f"   target {target:24} {'ok' if ok else 'MISS'}" if target else ""
    print(f"{name:64} {measured:>24}{met}", flush=True)
    if path := os.environ.get(ROWS):
        line = {"what": name, "measured": measured, "target": target, "ok": bool(ok)}
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


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
