"""How long the book takes on this machine: by an earlier run here, or by operation counts and the machine's speed.

costs.toml says for each stage of a profile how many products there are and how long the rest took where it was
measured; `lib.run.machine` says how fast this machine makes the former, and how it compares in the latter.
"""

import json
import os
import tomllib
from pathlib import Path

from lib.data.cache import cache
from lib.run import machine

COSTS = Path(__file__).with_name("costs.toml")


def expected(profile: str, stage: str) -> float | None:
    """Seconds that a stage (suite, a chapter or site) takes when nothing of it is cached; None where nothing is known.

    The longest of the earlier runs on this machine: the others may have read records.
    """
    known = earlier(profile, stage)
    return known["seconds"] if known else predicted(profile, stage)


def predicted(profile: str, stage: str) -> float | None:
    """The same from operation counts and the machine's speed alone."""
    cost = tomllib.loads(COSTS.read_text()).get(profile, {}).get(stage)
    if cost is None:
        return None
    measured = machine.rates()
    rate = min(by_dtype[cost.get("dtype") or machine.dtype()] for by_dtype in measured["products"].values())
    return cost["gflop"] / rate / (os.cpu_count() or 1) + cost["rest"] * measured["pace"]


def earlier(profile: str, stage: str) -> dict | None:
    """Seconds, and seconds of each cell, of the longest earlier run of a stage on this machine."""
    return _read().get(_name(profile, stage))


def remember(profile: str, stage: str, seconds: float, cells: list[float] = ()) -> None:
    """Keep what a run took, if it is the longest so far."""
    known, name = _read(), _name(profile, stage)
    if seconds > known.get(name, {"seconds": 0})["seconds"]:
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(known | {name: {"seconds": seconds, "cells": list(cells)}}, indent=1))
        scratch.replace(path)


def _name(profile, stage):
    return f"{profile} {stage}, {machine.processor()}, {machine.dtype()}"


def _path():
    return cache() / "machine" / "times.json"


def _read():
    path = _path()
    return json.loads(path.read_text()) if path.exists() else {}
