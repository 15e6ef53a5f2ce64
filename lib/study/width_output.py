"""What an output of rank r below d saves and costs when it is trained with its body (chapter 7b).

Held against linear models of several widths, narrower ones among them, by the rules of chapter 7.
"""

import itertools
from collections.abc import Iterable

import pandas as pd

from lib.run import kept
from lib.study import remedies

WIDTH, RANKS = 64, (8, 16, 32)  # of the bodies, and of their outputs
NARROWER = (16, 32)  # bodies of linear models; chapter 7 has the others
BESIDE = (*NARROWER, 64, 96, 128)
SEEDS, STEPS = range(3), 200  # of chapter 7's runs beside width 64


def grid(seeds: Iterable[int] = SEEDS, steps: int = STEPS) -> list[dict]:
    """Points of the runs that chapter 7 does not have, seed by seed."""
    points = []
    for seed in seeds:
        about = {"seed": seed, "steps": steps}
        points += [{"head": "factorised", "width": WIDTH, "rank": rank} | about for rank in RANKS]
        points += [{"head": "linear", "width": width} | about for width in NARROWER]
    return points


def everything(seeds: Iterable[int] = SEEDS, steps: int = STEPS) -> list[dict]:
    """Those and the points that chapter 7 has."""
    known = itertools.product(seeds, BESIDE[len(NARROWER) :])
    return grid(seeds, steps) + [{"head": "linear", "width": w, "seed": seed, "steps": steps} for seed, w in known]


def named(model: dict) -> str:
    """What a model's head is called: of a factorised one, its rank."""
    return f"rank {model['rank']}" if "rank" in model else model["head"]


def runs(seeds: Iterable[int], steps: int, **setting) -> pd.DataFrame:
    """All of them, as `lib.study.remedies.compared` takes them; setting: more of `lib.study.remedies.trained`."""
    groups = {}
    for point in everything(seeds, steps):
        groups.setdefault(named(point), []).append(point)
    frames = [kept.run(remedies.trained, points, **setting).assign(head=name) for name, points in groups.items()]
    return pd.concat(frames, ignore_index=True).assign(base=WIDTH)


def prices(frame: pd.DataFrame) -> pd.DataFrame:
    """Each rank less the linear head of the same body: head, saved (share of all parameters), faster (share of a step's
    time), cost, low, high (nats, over seeds). frame: `runs`.
    """
    ends = frame[(frame.step == frame.steps) & (frame.width == WIDTH)].set_index("seed")
    whole, rows = ends[ends["head"] == "linear"], []
    for kind, part in ends[ends["head"] != "linear"].groupby("head", sort=False):
        cost, low, high = remedies.interval(list(part.loss - whole.loss))
        saved, faster = (1 - part[name].mean() / whole[name].mean() for name in ("parameters", "seconds"))
        rows.append({"head": kind, "saved": saved, "faster": faster, "cost": cost, "low": low, "high": high})
    return pd.DataFrame(rows)
