"""What decides each claim, as data: checks on its numbers, checks on its reading, and when they were written."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Criterion:
    """The checks of one claim by name, with the limits already in their sentences."""

    claim: str
    numbers: dict[str, str]
    reading: dict[str, str]
    limits: dict[str, float]
    control: str  # what the reading is held against
    written: str  # commit of the claim's first criterion
    changed: str  # commit of this text; empty until it has one
    look: str  # what had been seen by then; empty for nothing


def criterion(claim: str) -> Criterion:
    """The criterion of a claim, C1 to C10. Raises ValueError with the names that exist."""
    entries = _entries()
    if claim not in entries:
        raise ValueError(f"there is no criterion for {claim!r}: expected one of {', '.join(entries)}")
    return parse(claim, entries[claim])


def parse(claim: str, entry: dict) -> Criterion:
    """The criterion that an entry of the file holds."""
    limits = entry["limits"]
    checks = {part: {k: text.format(**limits) for k, text in entry[part].items()} for part in ("numbers", "reading")}
    about = {name: entry[name] for name in ("control", "written", "changed", "look")}
    return Criterion(claim, **checks, limits=limits, **about)


@cache
def _entries():
    return tomllib.loads(FILE.read_text(encoding="utf-8"))
