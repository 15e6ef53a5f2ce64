"""From the rows of a log to the points of a loss curve, with a sentence for everything that was left out or moved."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

NAMED = 5  # stretches of rows of one fault that are named; the rest are counted
NAN = ("nan", "null", "none", "n/a", "na")


def points(steps: pd.Series, losses: pd.Series, word: str = "line") -> tuple[pd.Series, list[str]]:
    """Losses (float) by increasing step (the index), and sentences that say what was done with which rows.

    steps, losses: cells of a log, as text, by the number of their row; word: what a row is called. A row without a
    loss is no fault: logs hold other quantities too. Points that a resumed run wrote again replace those from there on,
    and of a repeated step the last counts.
    """
    rows = pd.DataFrame({"step": steps.str.strip(), "loss": losses.str.strip()})
    empty = rows.loss == ""
    said = [f"{_count(empty.sum(), word)} without a value of this loss: passed over."] if empty.any() else []
    rows = rows[~empty]
    for column in ("step", "loss"):
        text, number = rows[column], pd.to_numeric(rows[column], errors="coerce").astype(float)
        missing = text.str.lower().isin(NAN)
        faults = {
            f"no {column}": text == "",
            f"NaN as {column}": missing,
            f"text as {column}": number.isna() & ~missing & (text != ""),
            f"an infinite {column}": np.isinf(number),
            "a negative step": (number < 0) & (column == "step") & np.isfinite(number),
            "a loss of zero or less": (number <= 0) & (column == "loss") & np.isfinite(number),
        }
        for fault, where in faults.items():
            if where.any():
                example = f" ({text[where].iloc[0][:20]!r})" if fault.startswith("text") else ""
                verb = "holds" if where.sum() == 1 else "hold"
                said.append(f"{lines(rows.index[where], word)} {verb} {fault}{example}: left out.")
        rows = rows.assign(**{column: number})[~np.logical_or.reduce(list(faults.values()))]
    rows, replaced = _resumed(rows, word)
    rows, moved = _sorted(rows, word)
    return rows.set_index("step").loss.astype(float), said + replaced + moved


def failure(steps: pd.Series, losses: pd.Series) -> float | None:
    """The step from which on a log has no finite loss to its end; None where it ends with one, or where losses that
    are no numbers come and go: there NaN means that none was measured.

    steps, losses: cells of a log, as text.
    """
    losses = losses.str.strip().str.lower()
    numbers = pd.to_numeric(losses, errors="coerce").astype(float)
    known = losses != ""
    finite = np.isfinite(numbers[known].to_numpy())
    if not finite.any() or finite[-1]:
        return None
    places = np.flatnonzero(finite)
    longest = np.diff(places, prepend=-1).max() - 1
    if len(finite) - 1 - places[-1] <= longest:
        return None
    step = pd.to_numeric(steps[known], errors="coerce").iloc[places[-1] + 1]
    return float(step) if np.isfinite(step) else None


def lines(numbers: Sequence[int], word: str = "line") -> str:
    """The numbers of rows in words: `Line 3`, `Lines 3, 4 and 9`, `Lines 3 to 12, 20, 31, 45, 60 and 9 more`."""
    numbers = np.asarray(numbers)
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    parts = [(f"{run[0]:,} to {run[-1]:,}",) if len(run) > 2 else tuple(f"{one:,}" for one in run) for run in runs]
    shown = [part for some in parts[:NAMED] for part in some]
    if len(numbers) == 1:
        return f"{word.capitalize()} {shown[0]}"
    rest = sum(map(len, runs[NAMED:]))
    last = f"{rest:,} more" if rest else shown.pop()
    return f"{_several(word).capitalize()} {' and '.join(filter(None, (', '.join(shown), last)))}"


def _resumed(rows, word):
    """Rows without those that a resumed run wrote again: where steps go back and repeat, the later ones count."""
    steps = rows.step.to_numpy(float)
    back = np.flatnonzero(np.diff(steps) < 0) + 1
    if len(back) == 0 or len(back) > len(rows) / 10 or len(np.unique(steps)) == len(steps):
        return rows, []
    keep, said = np.ones(len(rows), bool), []
    for place in back:
        again = np.flatnonzero(keep[:place] & (steps[:place] >= steps[place]))
        over = lines(rows.index[again], word).lower()
        keep[again] = False
        how = "resumed" if keep[:place].any() else "started over"
        said.append(
            f"At {word} {rows.index[place]:,} the run was {how} from step {steps[place]:,.0f}: "
            f"{_count(len(again), 'point')} of before ({over}) replaced."
        )
    return rows[keep], said


def _sorted(rows, word):
    """Rows by increasing step, of which each comes once."""
    said, back = [], np.flatnonzero(np.diff(rows.step.to_numpy(float)) < 0) + 1
    if len(back):
        said.append(f"{lines(rows.index[back], word)} {_verb('go', back)} back in steps: rows sorted by step.")
        rows = rows.sort_values("step", kind="stable")
    if rows.step.duplicated().any():
        repeats = rows.index[rows.step.duplicated()]
        said.append(f"{lines(repeats, word)} {_verb('repeat', repeats)} a step: of each step the last row counts.")
    return rows[~rows.step.duplicated(keep="last")], said


def _count(number, word):
    return f"{number:,} {word if number == 1 else _several(word)}"


def _several(word):
    return "entries" if word == "entry" else f"{word}s"


def _verb(verb, numbers):
    """A verb in the number of its subject."""
    return verb if len(numbers) != 1 else "goes" if verb == "go" else f"{verb}s"
