"""Benchmarks: the figures that the book promises, one module for each topic (`make bench`)."""


def row(name, measured, target, ok):
    """Print one line: what, measured, target, and whether it is met."""
    print(f"{name:64} {measured:>24}   target {target:24} {'ok' if ok else 'MISS'}", flush=True)
