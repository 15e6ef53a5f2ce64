"""What an output of rank r below d saves and costs when it is trained with its body (chapter 7b).

Held against linear models of several widths, narrower ones among them, by the rules of chapter 7.
"""

from collections.abc import Iterable

import pandas as pd

from lib.run import kept
from lib.study import remedies

WIDTH, RANKS = 64, (8, 16, 32)  # of the bodies, and of their outputs
NARROWER, WIDER = (16, 24, 32), (64, 96, 128)  # bodies of linear models; chapter 7 has the wider ones
SEEDS, STEPS = range(3), 200  # of chapter 7's runs beside width 64


def grid(seeds: Iterable[int] = SEEDS, steps: int = STEPS) -> list[dict]:
    """Points of the runs that chapter 7 does not have, seed by seed."""
    points = []
    for seed in seeds:
        about = {"seed": seed, "steps": steps}
        points += [{"head": "factorised", "width": WIDTH, "rank": rank} | about for rank in RANKS]
        points += [{"head": "linear", "width": width} | about for width in NARROWER]
    return points


def runs(seeds: Iterable[int], steps: int, text: str) -> pd.DataFrame:
    """Those runs with chapter 7's, as `lib.study.remedies.compared` takes them; the head of rank r is "rank r"."""
    own, frames = grid(seeds, steps), []
    own += [{"head": "linear", "width": width, "seed": seed, "steps": steps} for seed in seeds for width in WIDER]
    for rank in (None, *RANKS):
        frame = kept.run(remedies.trained, [point for point in own if point.get("rank") == rank], text=text)
        frames.append(frame.assign(head=f"rank {rank}") if rank else frame)
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
