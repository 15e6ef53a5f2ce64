"""How fast this machine multiplies in each dtype: measured once, kept in the cache; nothing else picks a dtype.

    python -m lib.run.machine          the rates of this machine, and the dtype that they lead to

A processor without bf16 units emulates them, ten to two hundred times slower than float32; one with matrix units is
several times faster in bf16. Which it is can't be read off its name, so a few small products are timed.
BOOK_DTYPE=float32 or bfloat16 overrides the choice.
"""

import argparse
import functools
import hashlib
import json
import os
import platform
import re
import sys
import time
from pathlib import Path

from lib.data.cache import cache, once

DTYPES = ("float32", "bfloat16")
SHAPES = {"body": (64, 576, 1536), "head": (64, 128, 4096)}  # of a small model's layer, of a thin head: N, d, V
GPU_SHAPES = {"body": (4096, 1024, 4096), "head": (4096, 1024, 8192)}
GAIN = 1.5  # bf16 must be so much faster: its loss of a head makes every logit twice
TIMED = 0.04  # seconds that a product is repeated for
REFERENCE = 0.0071  # seconds of `_pace` on the machine of costs.toml
ISA = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")  # let a process use less than there is


def dtype(asked: str = "auto", device: str = "cpu") -> str:
    """The dtype that products are made in: what is asked for, else $BOOK_DTYPE, else the fastest here.

    "float32" or "bfloat16". Raises ValueError for another name.
    """
    name = os.environ.get("BOOK_DTYPE", "auto") if asked == "auto" else asked
    if name == "auto":
        return fastest(rates(device)["products"])
    if name not in DTYPES:
        raise ValueError(f"dtype is {name!r}: expected auto, {' or '.join(DTYPES)}, as a parameter or in BOOK_DTYPE")
    return name


def fastest(measured: dict[str, dict[str, float]]) -> str:
    """bfloat16 where it beats float32 by GAIN at every shape, else float32."""
    gains = [rate["bfloat16"] / rate["float32"] for rate in measured.values()]
    return "bfloat16" if min(gains) >= GAIN else "float32"


def rates(device: str = "cpu") -> dict:
    """The speeds of this machine, measured on first use and kept for this processor and torch.

    "products": GFLOP/s by shape and dtype, of one core; "pace": seconds that a fixed mixture of other work takes, over
    those that it took where the costs of costs.toml were measured.
    """
    import torch  # not at the top: who asks for the processor's name alone need not wait for it

    about = [processor(device), torch.__version__, *(os.environ.get(name) for name in ISA)]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    path = once(cache() / "machine" / f"{key}.json", lambda file: file.write_text(json.dumps(_measure(device))))
    return json.loads(path.read_text())


@functools.cache
def processor(device: str = "cpu") -> str:
    """Name of the processor and its number of cores, or of the GPU; and what this process may use of it, where less."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)", info.read_text(), re.MULTILINE) if info.exists() else []
    limit = os.environ.get(ISA[0])
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores" + (f", held to {limit}" if limit else "")


def _measure(device):
    shapes = GPU_SHAPES if device.startswith("cuda") else SHAPES
    products = {name: {dtype: _rate(*shape, dtype, device) for dtype in DTYPES} for name, shape in shapes.items()}
    return {"products": products, "pace": round(_pace() / REFERENCE, 3)}


def _rate(count, width, columns, dtype, device):
    """GFLOP/s of the best of some products, on one thread: two wait for one another where other work goes on."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    left, right = (torch.randn(rows, width, device=device).to(getattr(torch, dtype)) for rows in (count, columns))
    best, start = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - start < TIMED:
        begun = time.perf_counter()
        product = left @ right.T
        if product.is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    torch.set_num_threads(threads)
    return round(2e-9 * count * width * columns / best, 2)


def _pace():
    """Seconds of a sort, of exponentials, of what the interpreter does: the best of some tries."""
    import numpy as np

    values, taken = np.random.default_rng(0).random(200_000), []
    for _ in range(5):
        begun = time.perf_counter()
        np.exp(np.sort(values)).sum()
        sum(number * number for number in range(100_000))
        taken.append(time.perf_counter() - begun)
    return min(taken)


def main():
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m lib.run.machine", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    try:
        measured, chosen = rates(device), dtype(device=device)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(processor(device))
    for name, by_dtype in measured["products"].items():
        print(f"  {name:6}", ", ".join(f"{dtype} {rate:,.0f} GFLOP/s" for dtype, rate in by_dtype.items()))
    print(f"  other work takes {measured['pace']:.2f} times as long as where the costs of chapters were measured")
    print(f"products are made in {chosen}")


if __name__ == "__main__":
    main()
