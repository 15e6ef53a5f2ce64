"""The paper's own numbers and claims (arXiv 2404.07647), as data: drawn as the paper's, never as ours."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd


@dataclass(frozen=True)
class Number:
    """One constant of the paper."""

    value: float
    unit: str
    error: float | None  # of reading or rounding; None where it is recomputed
    where: str
    source: str  # printed, read off the figure, or how it was recomputed


@dataclass(frozen=True)
class Claim:
    """What the paper asserts, in our words."""

    title: str
    sentence: str
    where: str  # figure, table or theorem
    section: str


def figure(name: str) -> pd.DataFrame:
    """Numbers of a figure or table as a tidy frame: 1a, 1b, 1b-gaps, 2 to 9, table1, lambada.

    frame.attrs holds `where`, `about`, `source` and, for each column, `units` and `errors` of reading
    (absolute, or in words).
    Raises ValueError for another name.
    """
    entry = _entry("figures", name)
    frame = pd.DataFrame(entry["rows"], columns=list(entry["columns"]))
    frame.attrs = {key: entry[key] for key in ("where", "about", "source")} | {
        "units": {column: about["unit"] for column, about in entry["columns"].items()},
        "errors": {column: about["error"] for column, about in entry["columns"].items()},
    }
    return frame


def constant(name: str) -> float:
    """The value of a constant. Raises ValueError with the names that exist."""
    return number(name).value


def number(name: str) -> Number:
    """A constant with its unit, error and origin. Raises ValueError with the names that exist."""
    return Number(**_entry("constants", name))


def claims() -> dict[str, Claim]:
    """C1 to C10, in order."""
    return {name: Claim(**entry) for name, entry in _paper()["claims"].items()}


@cache
def _paper() -> dict:
    return json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def _entry(kind: str, name: str) -> dict:
    known = _paper()[kind]
    if name not in known:
        raise ValueError(f"the paper has no {kind[:-1]} {name!r}: expected one of {', '.join(known)}")
    return known[name]
