"""One function over a grid of parameters, each point a record of its own."""

from collections.abc import Callable

import pandas as pd

from lib.run import records


def run(function: Callable, grid: list[dict], /, **fixed) -> pd.DataFrame:
    """Results of function(**point, **fixed) for each point of the grid, the grid's columns in front."""
    return pd.concat([_labelled(point, records.recall(function, **point, **fixed)) for point in grid], ignore_index=True)


def _labelled(point, result):
    """Result as a frame, the point's parameters as its first columns."""
    frame = result if isinstance(result, pd.DataFrame) else pd.DataFrame([result])
    front = pd.DataFrame({name: [value] * len(frame) for name, value in point.items()}, index=frame.index)
    return pd.concat([front, frame.drop(columns=[name for name in point if name in frame])], axis=1)
