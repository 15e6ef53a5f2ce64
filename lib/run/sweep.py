"""One function over a grid of parameters, each point a record of its own: here, on local processes or on a cluster.

    python -m lib.run.sweep lib.run.tasks.spectra:entropy grid.yml --workers 2
    python -m lib.run.sweep lib.run.tasks.spectra:entropy grid.yml --scheduler tcp://head:8786 --yes --out entropy.csv
    python -m lib.run.sweep 04b_spectra --profile paper --scheduler tcp://head:8786 --yes

The first two take a function and a file that says `grid:` (values for each parameter: every combination; or a list of
points) and perhaps `fixed:`. The last executes a chapter whose sweeps then run there. Whatever has a record is not
computed again, so an interrupted sweep goes on where it was.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pandas as pd
import yaml
from tqdm import tqdm

from lib.run import records
from lib.run.calls import Call, call, reason
from lib.run.cost import Cost, Meter, downloads


class SweepError(RuntimeError):
    """Tasks of a sweep that failed, by name; the others are recorded."""


def product(**axes: list) -> list[dict]:
    """Grid of every combination of the values given for each parameter, the last varying fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def run(
    function: Callable,
    grid: list[dict],
    /,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    resources: dict | None = None,
    retries: int = 3,
    yes: bool | None = None,
    announce: Callable[[Cost], None] | None = None,
    **fixed,
) -> pd.DataFrame:
    """Results of function(**point, **fixed) for each point of the grid, the grid's parameters as first columns.

    The function returns a data frame, or a dictionary of JSON values as one row. In this process one after another,
    unless there are `workers` (local processes, default $WORKERS) or a `scheduler` (default $SCHEDULER). A task whose
    device is a GPU occupies one, by Dask's `resources`. `announce` is told the cost as soon as it is known. Raises
    ValueError on a wrong call, or where the cost is high and neither `yes` nor $YES says so; SweepError at the end
    where tasks failed.
    """
    fingerprints: dict = {}
    calls = [call(function, {**point, **fixed}, fingerprints) for point in grid]
    if not calls:
        raise ValueError("the grid of the sweep is empty: give it at least one point")
    blobs = {wanted.key: records.read(wanted) for wanted in calls}
    pending = list({wanted.key: wanted for wanted in calls if blobs[wanted.key] is None}.values())
    if pending:
        on_gpu = any(str(wanted.parameters.get("device")).startswith("cuda") for wanted in pending)
        place = {
            "scheduler": scheduler or os.environ.get("SCHEDULER") or None,
            "workers": workers or int(os.environ.get("WORKERS") or 0) or None,
            "resources": resources or ({"GPU": 1} if on_gpu else None),
            "retries": retries,
        }
        agreed = os.environ.get("YES", "0") not in ("", "0") if yes is None else yes
        meter = Meter(downloads(pending), "GPU" if "GPU" in (place["resources"] or {}) else "CPU")
        _fill(blobs, pending, place, meter, agreed, announce)
    for wanted in calls:
        records.use(blobs[wanted.key])
    return _table(grid, [records.unpack(blobs[wanted.key]) for wanted in calls])


def _fill(blobs, pending, place, meter, agreed, announce):
    """Carry out what is pending, writing each record as it comes."""
    meter.cost().check(agreed)
    failures, told = [], False
    name = str(pending[0]).partition("(")[0]

    def done(wanted: Call, outcome: bytes | str) -> None:
        nonlocal told
        bar.update()
        if isinstance(outcome, str):
            failures.append(f"{wanted}: {outcome}")
            return
        blobs[wanted.key] = outcome
        meter.measured(wanted.key, records.manifest(outcome)["seconds"])
        if not told:
            told = True
            if announce:
                announce(meter.cost())
            meter.cost().check(agreed)

    with tqdm(total=len(blobs), initial=len(blobs) - len(pending), desc=name, disable=None) as bar:
        if place["scheduler"] or place["workers"]:
            from lib.run import cluster  # Dask takes a second to import

            def store(wanted: Call, outcome: bytes | str) -> None:
                if isinstance(outcome, bytes) and records.read(wanted) is None:
                    records.write(wanted, outcome)
                done(wanted, outcome)

            cluster.carry_out(pending, store, **place)
        else:
            for wanted in pending:
                done(wanted, _here(wanted))
    if failures:
        count = f"{len(failures)} of {len(pending)} tasks failed, the other results are recorded"
        raise SweepError("\n".join([f"{count}:", *failures]))


def _here(wanted):
    try:
        return records.obtain(wanted)
    except records.Unwritable:
        raise  # the next one would be lost as well
    except Exception as error:  # reported by name at the end, when the others are done
        return reason(error)


def _table(grid, results):
    """One frame of all results; a parameter that they hold themselves is not repeated."""
    if not isinstance(results[0], (dict, pd.DataFrame)):
        raise ValueError("a sweep makes a table: its function must return a data frame, or a dictionary as one row")
    if isinstance(results[0], pd.DataFrame):
        table, lengths = pd.concat(results, ignore_index=True), [len(result) for result in results]
    else:
        table, lengths = pd.DataFrame(results), [1] * len(results)
    names = list(dict.fromkeys(name for point in grid for name in point))
    for name in reversed(names):
        values = [point.get(name) for point, length in zip(grid, lengths, strict=True) for _ in range(length)]
        table.insert(0, name, table.pop(name) if name in table else values)
    return table


def _points(path):
    """Grid and fixed parameters from a YAML file."""
    plan = yaml.safe_load(path.read_text()) if path else None
    if not isinstance(plan, dict) or "grid" not in plan or set(plan) - {"grid", "fixed"}:
        raise ValueError("a function needs a YAML file of grid: (values by parameter, or a list of points) and fixed:")
    grid = plan["grid"]
    return (product(**grid) if isinstance(grid, dict) else grid), plan.get("fixed") or {}


def _plan(function, grid, fixed):
    """What there is to do, in a sentence."""
    fingerprints: dict = {}
    calls = {wanted.key: wanted for wanted in (call(function, point | fixed, fingerprints) for point in grid)}
    pending = [wanted for wanted in calls.values() if records.read(wanted) is None]
    rest = Meter(downloads(pending), "CPU").cost()
    return f"{len(calls) - len(pending)} of {len(calls)} are recorded; the rest: {rest}"


def _chapter(name, profile):
    """Execute a chapter whose sweeps find their place in the environment; what went wrong, or None."""
    from lib.run import chapter

    try:
        out = Path("_build") if profile == "laptop" else Path("_build") / profile
        errors = chapter.run([chapter.find(name)], profile, {}, out, False)
    except chapter.ChapterError as error:
        errors = [error]
    return "\n".join(f"error: {error}" for error in errors) or None


def main():
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m lib.run.sweep", description=__doc__.split("\n")[0])
    parser.add_argument("what", help="module:function, or a chapter")
    parser.add_argument("grid", nargs="?", type=Path, help="YAML file with the function's grid")
    parser.add_argument("--profile", default="paper", help="of the chapter")
    parser.add_argument("--scheduler", help="address of a Dask scheduler")
    parser.add_argument("--workers", type=int, help="local processes instead")
    parser.add_argument("--yes", action="store_true", help="spend whatever it costs")
    parser.add_argument("--dry-run", action="store_true", help="count and weigh the tasks, and stop")
    parser.add_argument("--out", type=Path, help="CSV file for the function's results")
    args = parser.parse_args()
    chosen = {"SCHEDULER": args.scheduler, "WORKERS": args.workers, "YES": "1" if args.yes else None}
    os.environ.update({name: str(value) for name, value in chosen.items() if value})
    if ":" not in args.what:
        sys.exit(_chapter(args.what, args.profile))
    try:
        module, _, name = args.what.partition(":")
        function, (grid, fixed) = getattr(import_module(module), name), _points(args.grid)
        if args.dry_run:
            print(_plan(function, grid, fixed))
            return
        table = run(function, grid, announce=lambda cost: tqdm.write(f"cost: {cost}"), **fixed)
    except (AttributeError, ImportError, OSError, SweepError, ValueError) as error:
        sys.exit(f"error: {error}")
    if args.out:
        table.to_csv(args.out, index=False)
    print(f"{len(grid)} points, {len(table)} rows" + (f" in {args.out}" if args.out else ""))


if __name__ == "__main__":
    main()
