"""What this processor can do at best: square products in each dtype, and the traffic to and from memory, on all cores.

    python -m tests.bench.limits

Every other figure of a run stands against these, taken before it and after it.
"""

import time

import torch

from lib.run import machine
from tests.bench import row

SIDE, REPEATS, SECONDS = 2048, 3, 8.0  # bf16 may be emulated: after so many seconds it is enough
LENGTH = 1 << 26  # numbers of 4 bytes in each of three arrays, far beyond any cache
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def best(work, repeats=REPEATS):
    """Seconds of the fastest of some tries, after one that does not count."""
    times, begun = [], time.perf_counter()
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
        if time.perf_counter() - begun > SECONDS:
            break
    return min(times[1:] or times)


def product(dtype):
    """GFLOP/s of a square product."""
    left, right = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    return 2e-9 * SIDE**3 / best(lambda: left @ right)


def bandwidth():
    """GB/s of a sum of two arrays into a third, which reads two and writes one."""
    one, two, three = (torch.ones(LENGTH) for _ in range(3))
    return 3e-9 * 4 * LENGTH / best(lambda: torch.add(one, two, alpha=2.0, out=three), 5)


def main():
    """Print one line for each limit."""
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        row(f"limit: product of two {SIDE} x {SIDE} matrices in {name}", f"{product(dtype):,.0f} GFLOP/s")
    row(f"limit: memory, on {torch.get_num_threads()} threads", f"{bandwidth():.1f} GB/s")


if __name__ == "__main__":
    print(machine.processor())
    main()
