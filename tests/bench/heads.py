"""The chunked head loss against F.cross_entropy with autograd: speed and memory.

Speeds alternate in one process; memory is the growth of the resident set's peak in a child of its own. Run on a quiet
machine: python -m tests.bench.heads
"""

import ctypes
import subprocess
import sys
import time

import torch

from lib.train import heads
from tests.bench import forget_peak, resident, row

N, D, V = 2048, 576, 49152
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def problem(dtype):
    """States, head and labels with logits of the scale that a language model has."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(N, D, generator=generator)
    weight = torch.randn(V, D, generator=generator) * 2 / D**0.5
    return states.to(DTYPES[dtype]), weight.to(DTYPES[dtype]), torch.randint(V, (N,), generator=generator)


def reference(states, weight, labels):
    """Loss and gradients with the whole matrix of logits."""
    states.grad = weight.grad = None
    loss = torch.nn.functional.cross_entropy(states @ weight.T, labels)
    loss.backward()
    return loss.item(), states.grad, weight.grad


def ours(states, weight, labels):
    """The same, in chunks."""
    return heads.cross_entropy(states.detach(), weight.detach(), labels)


def product(states, weight):
    """Float32 matrix product of the same shapes into memory that is there: the throughput that a step is held to."""
    return torch.mm(states, weight.T, out=product.out)


def seconds(function, *arguments):
    """One call."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def extra(function, dtype):
    """Peak bytes that one call adds, in a fresh process."""
    child = [sys.executable, "-m", "tests.bench.heads", function, dtype]
    return int(subprocess.run(child, capture_output=True, text=True, check=True).stdout)


def measure_extra(function, dtype):
    """Growth of this process's peak resident set over what it holds before the call."""
    arguments = problem(dtype)
    if function == "reference":
        arguments = (arguments[0].requires_grad_(), arguments[1].requires_grad_(), arguments[2])
    warm = {"reference": reference, "ours": ours}[function]
    small = [part[:64].detach().clone() for part in arguments]
    warm(*(p.requires_grad_(p.is_floating_point()) for p in small[:2]), small[2] % 64)  # libraries load their buffers
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    forget_peak()
    before = resident("VmRSS")
    warm(*arguments)
    print(resident("VmHWM") - before)


def main():
    """Print one line for each target of the issue."""
    torch.set_flush_denormal(True)
    tried = {}
    plain = {dtype: problem(dtype) for dtype in DTYPES}
    leaves = {d: (s.clone().requires_grad_(), w.clone().requires_grad_(), y) for d, (s, w, y) in plain.items()}
    product.out = torch.empty(N, V)
    for _ in range(5):
        for dtype in DTYPES:
            for function, arguments in ((reference, leaves[dtype]), (ours, plain[dtype])):
                took, result = seconds(function, *arguments)
                tried.setdefault((function.__name__, dtype), []).append((took, result))
        tried.setdefault(("product", "float32"), []).append(seconds(product, *plain["float32"][:2]))
    best = {key: min(took for took, _ in runs) for key, runs in tried.items()}
    step, base = best["ours", "float32"], best["reference", "float32"]
    row("float32 tokens per second, against autograd", f"{N / step:,.0f} = {base / step:.2f} x", ">= 1 x", step <= base)
    share = 3 * best["product", "float32"] / step
    row("float32 share of the matrix throughput", f"{share:.0%}", ">= 75 %", share >= 0.75)
    fast = best["ours", "bf16"]
    row(
        "bf16 tokens per second, against float32 autograd",
        f"{N / fast:,.0f} = {base / fast:.2f} x",
        ">= 2.5 x",
        base / fast >= 2.5,
    )
    gap = abs(tried["ours", "bf16"][0][1][0] - tried["reference", "float32"][0][1][0])
    row("bf16 loss, difference from float32", f"{gap:.1e} nats", "<= 1e-3 (used where it agrees)", gap <= 1e-3)
    for dtype in DTYPES:
        mine, theirs = extra("ours", dtype), extra("reference", dtype)
        row(
            f"{dtype} peak extra memory of a step, gradients included",
            f"{mine / 1e6:.0f} MB = {mine / theirs:.2f} x",
            "<= 0.25 x",
            mine <= theirs / 4,
        )


if __name__ == "__main__":
    measure_extra(*sys.argv[1:]) if len(sys.argv) > 1 else main()
