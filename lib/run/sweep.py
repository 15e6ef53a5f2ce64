"""One function over a grid of parameters, each point a record of its own: here, on local processes or on a cluster.

    python -m lib.run.sweep lib.study.spectra:entropy grid.yml --workers 2
    python -m lib.run.sweep lib.study.spectra:entropy grid.yml --scheduler tcp://head:8786 --yes --out entropy.csv
    python -m lib.run.sweep 04b_spectra --profile paper --scheduler tcp://head:8786 --yes

The first two take a function and a file that says `grid:` (values for each parameter: every combination; or a list of
points) and perhaps `fixed:`, values as `lib.run.parameters` reads them. The last executes a chapter whose sweeps then
run there. Whatever has a record is not computed again, so an interrupted sweep goes on where it was.
"""

import argparse
import itertools
import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from lib.run import progress, records
from lib.run.calls import Call, call, reason
from lib.run.cost import Cost, Meter, downloads
from lib.run.parameters import load, plain


class SweepError(RuntimeError):
    """Tasks of a sweep that failed, by name; the others are recorded."""


def product(**axes: list) -> list[dict]:
    """Grid of every combination of the values given for each parameter, the last varying fastest.

    The values are a list, tuple, range or array. Raises ValueError where they are one value, or text.
    """
    lists = {name: plain(name, values) for name, values in axes.items()}
    for name, values in lists.items():
        if not isinstance(values, list):
            raise ValueError(
                f"the grid has {values!r} for {name}: expected a list of values, for one value [{values!r}]"
            )
    return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]


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
    unless there are `workers` (local processes) or a `scheduler`; where neither is given, $SCHEDULER or $WORKERS. A
    task whose device is a GPU occupies one, by Dask's `resources`. `announce` is told the cost as soon as it is known.
    Raises ValueError on a wrong call, or where the cost is high and neither `yes` nor $YES says so; SweepError at the
    end where tasks failed.
    """
    grid = list(grid)
    calls = _calls(function, grid, fixed)
    blobs = {wanted.key: records.read(wanted) for wanted in calls}
    pending = list({wanted.key: wanted for wanted in calls if blobs[wanted.key] is None}.values())
    if pending:
        on_gpu = any(str(wanted.parameters.get("device")).startswith("cuda") for wanted in pending)
        resources = resources or ({"GPU": 1} if on_gpu else None)
        place = {**_place(scheduler, workers), "resources": resources, "retries": retries}
        agreed = _agreed() if yes is None else yes
        meter = Meter(downloads(pending), "GPU" if "GPU" in (resources or {}) else "CPU")
        _fill(blobs, pending, place, meter, agreed, announce)
    for wanted in calls:
        records.use(blobs[wanted.key])
    names = list(dict.fromkeys(name for point in grid for name in point))
    return _table(names, calls, [records.unpack(blobs[wanted.key]) for wanted in calls])


def _calls(function, grid, fixed):
    """A call for each point of the grid."""
    for point in grid:
        if not isinstance(point, dict):
            raise ValueError(f"the grid holds {point!r}: expected points, each a dictionary of parameters by name")
        if twice := sorted(fixed.keys() & point.keys()):
            raise ValueError(f"{', '.join(twice)} is in the grid and fixed as well: leave it in one of them")
    if not grid:
        raise ValueError("the grid of the sweep is empty: give it at least one point")
    fingerprints: dict = {}
    return [call(function, point | fixed, fingerprints) for point in grid]


def _place(scheduler, workers):
    """Where the tasks go: what the call says, or else what the environment says."""
    if not scheduler and workers is None:
        scheduler, workers = os.environ.get("SCHEDULER"), os.environ.get("WORKERS")
    if not re.fullmatch("[0-9]*", str(workers or "")):
        raise ValueError(f"the number of workers (in the environment, WORKERS) is {workers!r}: expected 0, 1, 2 ...")
    workers = int(workers or 0)
    if scheduler and workers:
        raise ValueError(f"a scheduler ({scheduler}) and {workers} local workers are asked for: choose one of them")
    return {"scheduler": scheduler or None, "workers": workers or None}


def _agreed():
    """Whether the environment says yes to any cost."""
    said = os.environ.get("YES", "")
    if said not in ("", "0", "1"):
        raise ValueError(f"YES is {said!r} in the environment: expected 1 or 0")
    return said == "1"


def _fill(blobs, pending, place, meter, agreed, announce):
    """Carry out what is pending, writing each record as it comes."""
    meter.cost().check(agreed)
    failures, ended, told = [], 0, False
    name = pending[0].name
    progress.tell(name, 0, len(pending))

    def done(wanted: Call, outcome: bytes | str) -> None:
        nonlocal ended, told
        bar.update()
        ended += 1
        progress.tell(name, ended, len(pending))
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
    except (Exception, SystemExit) as error:  # reported by name at the end, when the others are done
        return reason(error)


def _table(names, calls, results):
    """One frame of all results behind the named parameters; one that they hold themselves is not repeated."""
    if not isinstance(results[0], (dict, pd.DataFrame)):
        raise ValueError("a sweep makes a table: its function must return a data frame, or a dictionary as one row")
    if isinstance(results[0], pd.DataFrame):
        table, lengths = pd.concat(results, ignore_index=True), [len(result) for result in results]
    else:
        table, lengths = pd.DataFrame(results), [1] * len(results)
    for name in reversed(names):
        given = [wanted.parameters.get(name) for wanted in calls]  # a point that leaves it out has its default
        values = [value for value, length in zip(given, lengths, strict=True) for _ in range(length)]
        table.insert(0, name, table.pop(name) if name in table else values)
    return table


def _points(path):
    """Grid and fixed parameters from a YAML file."""
    plan = load(path.read_text()) if path else None
    if not isinstance(plan, dict) or "grid" not in plan or set(plan) - {"grid", "fixed"}:
        raise ValueError("a function needs a YAML file of grid: (values by parameter, or a list of points) and fixed:")
    grid, fixed = plan["grid"], plan.get("fixed") or {}
    if not isinstance(grid, dict | list) or not isinstance(fixed, dict):
        raise ValueError(
            f"{path.name}: grid holds values by parameter, or a list of points; fixed a value by parameter"
        )
    if options := sorted(fixed.keys() & run.__kwdefaults__.keys()):
        raise ValueError(f"{path.name} fixes {', '.join(options)}, which is the sweep's own: say it as an option")
    return (product(**grid) if isinstance(grid, dict) else grid), fixed


def _plan(function, grid, fixed):
    """What there is to do, in a sentence."""
    calls = {wanted.key: wanted for wanted in _calls(function, grid, fixed)}
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
    if args.scheduler or args.workers is not None:  # rather than what the environment says
        os.environ |= {"SCHEDULER": args.scheduler or "", "WORKERS": str(args.workers or "")}
    if args.yes:
        os.environ["YES"] = "1"
    if ":" not in args.what:
        sys.exit(_chapter(args.what, args.profile))
    try:
        module, _, name = args.what.partition(":")
        function, (grid, fixed) = getattr(import_module(module), name), _points(args.grid)
        if args.dry_run:
            print(_plan(function, grid, fixed))
            return
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)  # before hours are spent
        table = run(function, grid, announce=lambda cost: tqdm.write(f"cost: {cost}"), **fixed)
        if args.out:
            table.to_csv(args.out, index=False)
    except (AttributeError, ImportError, OSError, SweepError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{len(grid)} points, {len(table)} rows" + (f" in {args.out}" if args.out else ""))


if __name__ == "__main__":
    main()
