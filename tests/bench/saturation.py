"""How often the detector of saturation and the intervals of the law are right: python -m tests.bench.saturation."""

import numpy as np

from lib.measure import scaling
from lib.measure.saturation import saturation
from tests.bench import row

TRUTH = scaling.Law(406.4, 0.34, 410.7, 0.28, 1.69)
CONSTANTS = ("A", "alpha", "B", "beta", "E")


def curve(rng, points, rise, size, correlation=0.0, flat=False):
    """A power law, or a flat line, with a straight rise from somewhere between 40 and 70 % to the end, and noise."""
    share = np.linspace(1 / points, 1, points)
    losses = np.full(points, 3.0) if flat else 2.5 + (share * points) ** -0.3
    if rise:
        turn = rng.uniform(0.4, 0.7)
        climb = np.interp(turn, share, losses) * (1 + rise * (share - turn) / (1 - turn))
        losses = np.where(share < turn, losses, climb)
    noise = rng.normal(size=points)
    for i in range(1, points):
        noise[i] = correlation * noise[i - 1] + np.sqrt(1 - correlation**2) * noise[i]
    return 1000 * share, losses * np.exp(size * noise)


def found(rng, curves, points, size, **about):
    """Share of curves called saturated; points and size of the noise are drawn from between two values each."""
    hits = 0
    for _ in range(curves):
        count = int(np.exp(rng.uniform(*np.log(points))))
        hits += saturation(*curve(rng, count, size=rng.uniform(*size), **about)).saturated
    return hits / curves


def detector(rng, curves=300):
    """False alarms and finds; noise is relative, curves have 20 to 1,000 points, drawn evenly in the logarithm."""
    every, noise = (20, 1000), (0.001, 0.008)
    for name, about in {"falling": {}, "flat": {"flat": True}}.items():
        share = found(rng, curves, every, rise=0, size=noise, **about)
        row(f"detector: false alarms, {name}, noise 0.1-0.8 %", f"{share:.1%}", "<= 1 %", share <= 0.01)
    for points in (every, (20, 40), (40, 1000)):
        share = found(rng, curves, points, rise=0.02, size=(0.004, 0.004))
        row(
            f"detector: found at a rise of 2 %, noise 0.4 %, {points[0]}-{points[1]} points",
            f"{share:.1%}",
            ">= 95 %",
            share >= 0.95,
        )
    for correlation in (0.3, 0.6):
        share = found(rng, curves, every, rise=0, size=noise, correlation=correlation, flat=True)
        row(f"detector: false alarms, flat, autocorrelation {correlation}", f"{share:.1%}", "<= 1 %", share <= 0.01)


def coverage(draws=100, resamplings=300):
    """How many of the 95 % intervals hold each true constant: 8 sizes by 8 lengths, noise 0.5 %."""
    params, tokens = np.repeat(np.geomspace(1e7, 1e10, 8), 8), np.tile(np.geomspace(1e9, 3e11, 8), 8)
    hits = dict.fromkeys(CONSTANTS, 0)
    for seed in range(draws):
        noise = np.random.default_rng(seed).normal(0, 0.005, size=64)
        laws = scaling.bootstrap(
            params, tokens, TRUTH.predict(params, tokens) * np.exp(noise), full=True, draws=resamplings, seed=seed
        )
        for name in CONSTANTS:
            low, high = scaling.interval(getattr(laws, name)[:, 0])
            hits[name] += low <= getattr(TRUTH, name) <= high
    for name, count in hits.items():
        row(f"law: 95 % intervals that hold the true {name}", f"{count} of {draws}", "90 to 99", 90 <= count <= 99)


def main():
    """Print the table."""
    detector(np.random.default_rng(0))
    coverage()


if __name__ == "__main__":
    main()
