"""Chapter 5.2 at its laptop values, computed and not read from records: under two and a half minutes."""

import ast
import time

import numpy as np

from lib.run import machine
from lib.study import setup, theory
from tests.bench import row


def main():
    """Print one line."""
    cells = setup.parameters().query("chapter == '05c_theory'")
    p = dict(zip(cells.parameter, map(ast.literal_eval, cells.laptop), strict=True))
    drawn = dict(temperatures=p["temperatures"], skews=p["skews"], seed=p["seed"])
    epsilons = [float(10**e) for e in np.arange(-4, -0.9, 0.5)]
    start = time.perf_counter()
    theory.perturbations(**drawn, ranks=p["ranks"][::3], epsilons=epsilons)
    theory.searches(p["skews"], p["ranks"], p["starts"], p["seed"])
    theory.gaps(**drawn, ranks=p["ranks"], starts=p["starts"])
    named = {name: p[name] for name in ("address", "corpus", "contexts", "context", "held_out", "every", "device")}
    theory.real_head(**named, ranks=p["real_ranks"], dtype=machine.dtype(p["dtype"], p["device"]))
    seconds = time.perf_counter() - start
    row("theory: what chapter 5.2 computes at laptop values", f"{seconds:.0f} s", "< 150 s", seconds < 150)


if __name__ == "__main__":
    main()
