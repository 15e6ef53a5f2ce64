"""Records that travel with the book: what takes longer than a build, made once by a named command.

    python -m lib.run.kept heads_updates

A plan, `book/records/NAME.yml`, names a function, a grid or the function that lists it, and what is fixed. The command
carries out what the folder NAME beside it does not answer yet, and puts it there; `--fresh` makes all of it anew.
A chapter reads them there whatever the machine and its fastest dtype; its last table says how each was made.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from lib.data.cache import ROOT
from lib.run import records, sweep
from lib.run.calls import call
from lib.run.parameters import load

FOLDER = ROOT / "book" / "records"
PLACE = ("device", "dtype")  # where a record was made, rather than what it answers


def run(function: Callable, grid: list[dict], /, **fixed) -> pd.DataFrame:
    """As `sweep.run`, but a point that a kept record answers, by parameters and inputs, is read from that.

    The device, the dtype and the code of a kept record may be others; its last table names them. Lists among a point's
    parameters are left out of the first columns.
    """
    known = _answers(FOLDER.glob("*/*.record"))
    wanted = [call(function, point | fixed) for point in grid]
    found = [known.get(_question(vars(one))) for one in wanted]
    if missing := [point for point, path in zip(grid, found, strict=True) if path is None]:
        sweep.run(function, missing, **fixed)
    frames = []
    for point, one, path in zip(grid, wanted, found, strict=True):
        blob = path.read_bytes() if path else records.obtain(one)
        records.use(blob, kept=path is not None)
        frame = records.unpack(blob)
        told = {name: value for name, value in point.items() if not isinstance(value, list) and name not in frame}
        frames.append(frame.assign(**told)[[*told, *frame.columns]])
    return pd.concat(frames, ignore_index=True)


def make(name: str, fresh: bool = False, device: str | None = None) -> list[Path]:
    """Carry out what a plan's folder does not answer yet, put it there, and remove what the plan no longer asks.

    Returns the folder's records, in the plan's order. fresh: what the folder answers is carried out again too.
    device: where it is carried out, which changes no question. Raises ValueError where there is no such plan, or it is
    none.
    """
    function, grid, fixed = _plan(FOLDER / f"{name}.yml")
    fixed |= {"device": device} if device else {}
    folder = FOLDER / name
    known = {} if fresh else _answers(folder.glob("*.record"))
    wanted = [call(function, point | fixed) for point in grid]
    missing = [point for point, one in zip(grid, wanted, strict=True) if _question(vars(one)) not in known]
    if missing:
        sweep.run(function, missing, announce=lambda cost: tqdm.write(f"cost: {cost}"), **fixed)
    made = [known.get(_question(vars(one)), records.place(one)) for one in wanted]
    with tempfile.TemporaryDirectory(dir=FOLDER) as new:  # a full disk leaves the records that are there
        for path in made:
            shutil.copy(path, new)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(new, folder)
    return [folder / path.name for path in made]


def _answers(paths):
    """Question -> the path of the record that answers it. Raises ValueError where a record is damaged."""
    known = {}
    for path in sorted(paths):
        if (blob := records.checked(path)) is None:
            raise ValueError(f"{path} is damaged: take it from the repository again, or remove it and make it again.")
        known[_question(records.manifest(blob))] = path
    return known


def _question(about):
    """What a record answers: function (by the last part of its module, which may have moved), parameters and inputs."""
    parameters = {name: value for name, value in about["parameters"].items() if name not in PLACE}
    return json.dumps([about["function"].rpartition(".")[2], parameters, about["inputs"]], sort_keys=True)


def _plan(path):
    if not path.exists():
        known = ", ".join(sorted(plan.stem for plan in path.parent.glob("*.yml")))
        raise ValueError(f"there is no plan {path.stem!r} in {path.parent}: expected one of {known}.")
    plan = load(path.read_text())
    if not isinstance(plan, dict) or set(plan) != {"function", "grid", "fixed"}:
        raise ValueError(
            f"{path.name} must hold function: (module:name), grid: (points, values, or module:name), fixed:."
        )
    grid = plan["grid"]
    if isinstance(grid, dict):
        grid = sweep.product(**grid)
    return _named(plan["function"]), _named(grid)() if isinstance(grid, str) else grid, plan["fixed"]


def _named(written):
    """What MODULE:NAME means."""
    module, _, name = written.partition(":")
    return getattr(import_module(module), name)


def main():
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m lib.run.kept", description=__doc__.split("\n")[0])
    parser.add_argument("name", help="of a plan in book/records")
    parser.add_argument("--fresh", action="store_true", help="carry out again what the plan's folder answers already")
    parser.add_argument("--device", help="cuda: on a GPU, where the plan's function can; other than the plan's own")
    asked = parser.parse_args()
    try:
        for path in make(asked.name, asked.fresh, asked.device):
            print(path.relative_to(ROOT))
    except (AttributeError, ImportError, OSError, sweep.SweepError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
