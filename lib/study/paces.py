"""How long a step takes: each of several models in turn, in one sitting (chapters 7 and 7b).

Runs tell their own times, but they are made at different hours, beside whatever else the machine does then.
"""

import functools

import numpy as np
import pandas as pd
import torch

from lib.study import frozen as on_states
from lib.study import remedies as study
from lib.study import width_output
from lib.train import frozen, joint, loop, remedies, suite

ABOUT = ["head", "width"]


def together(
    text: str, models: list[dict], rounds: int, vocabulary: int = 4096, tokens_per_step: int = 256
) -> pd.DataFrame:
    """Seconds of processor time for a step of small models, the least of so many rounds: head, width, seconds.

    models: head and width of each, and what its head takes; text: a profile of the suite.
    """
    once = {"steps": 1, "tokens_per_step": tokens_per_step, "evaluations": 1, "validation_tokens": joint.CONTEXT}
    runs = []
    for model in models:
        sizes = {name: value for name, value in model.items() if name not in ABOUT}
        runs.append(study.planned(model["head"], model["width"], 0, vocabulary, sizes, **once))
    stream = np.load(suite.text(text, vocabulary) / "train.npy")
    named = [{"head": width_output.named(model), "width": model["width"]} for model in models]
    return pd.DataFrame(named).assign(seconds=joint.paces(runs, stream, rounds))


@loop.fast()
def alone(directions: list[list[int]], rounds: int, vocabulary: int = 4096, batch: int = 128) -> pd.DataFrame:
    """The same of heads on drawn states, those of `lib.study.frozen.grid`: head, width, seconds."""
    points, updates = on_states.grid([0], directions, 1), []
    generator = torch.Generator().manual_seed(0)
    for point in points:
        more = {"counts": torch.ones(vocabulary, vocabulary)} if point["head"] == "bigram" else {}
        head = remedies.head(point["head"], vocabulary, point["width"], **more)
        states = torch.randn(batch, point["width"], generator=generator)
        part = frozen.Part(states, *torch.randint(0, vocabulary, (2, batch), generator=generator))
        optimiser = joint.optimiser(list(head.parameters()))
        updates.append(functools.partial(frozen.update, head, optimiser, part, 1e-3))
    return pd.DataFrame(points)[ABOUT].assign(seconds=joint.least(updates, rounds))


def timed(frame: pd.DataFrame, paces: pd.DataFrame) -> pd.DataFrame:
    """Runs with the seconds of `together` or `alone` in place of their own. Raises ValueError where one has none."""
    found = frame.drop(columns="seconds").merge(paces[[*ABOUT, "seconds"]], on=ABOUT, how="left")
    if found.seconds.isna().any():
        raise ValueError(
            f"no pace is known of {found[found.seconds.isna()][ABOUT].iloc[0].to_dict()}: time it as well."
        )
    return found


def models(grid: list[dict]) -> list[dict]:
    """The different models among points of a grid: head, width and what the head takes."""
    bare = [{name: value for name, value in point.items() if name not in ("seed", "steps")} for point in grid]
    return list({str(one): one for one in bare}.values())


def grid() -> list[dict]:
    """Points of `together`: the models of chapter 7, and those of 7b."""
    return [{"models": models(study.grid())}, {"models": models(width_output.everything(range(1)))}]
