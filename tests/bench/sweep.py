"""Overhead of a sweep over Dask, and of taking up a finished one.

python -m tests.bench.sweep
"""

import os
import tempfile
import time

from lib.run import cluster, sweep
from tests import sweep_tasks as tasks
from tests.bench import row

TASKS, WORKERS, SECONDS = 1000, 2, 0.01


def timed(**place):
    """Seconds of the sweep."""
    start = time.perf_counter()
    table = sweep.run(tasks.nap, [{"n": n} for n in range(TASKS)], seconds=SECONDS, **place)
    assert table["n"].nunique() == TASKS
    return time.perf_counter() - start


def main():
    """Print a line for each target of issue 8."""
    with tempfile.TemporaryDirectory() as folder, cluster.local(WORKERS) as address:
        os.environ["BOOK_CACHE"] = folder
        sweep.run(tasks.nap, [{"n": n} for n in range(-10, 0)], scheduler=address)  # imports
        ratio = timed(scheduler=address) / (TASKS * SECONDS / WORKERS)
        row(f"sweep of {TASKS} tasks of 10 ms on {WORKERS} workers / ideal", f"{ratio:.2f}", "<= 1.3", ratio <= 1.3)
        again = timed()
        row(f"resume of a finished sweep of {TASKS} tasks", f"{again:.2f} s", "< 5 s", again < 5)


if __name__ == "__main__":
    main()
