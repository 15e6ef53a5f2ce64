"""What decides whether a head is worth it (chapter 7), as data written before its runs."""

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

WORTH, NOT, OPEN = "worth it", "not worth it", "can't tell"


@dataclass(frozen=True)
class Criterion:
    """The rules and answers in sentences, the gain in nats that is worth it, and what had been seen before each set."""

    worth: float
    rules: dict[str, str]
    answers: dict[str, str]
    look: str
    further: dict[str, str]  # of the sets of runs that came after the first


@cache
def criterion() -> Criterion:
    """The chapter's criterion."""
    entry = tomllib.loads(Path(__file__).with_name("criteria_remedies.toml").read_text(encoding="utf-8"))
    answers = {name: text.format(**entry["limits"]) for name, text in entry["answers"].items()}
    return Criterion(entry["limits"]["worth"], entry["rules"], answers, entry["look"], entry["further"])


def gains(value: float, low: float, high: float, worth: float) -> bool | None:
    """Whether a difference of losses (head less linear, nats) with its interval is a gain; None where it is open."""
    if any(map(math.isnan, (value, low, high))):
        return None
    if high < 0 and value <= -worth:
        return True
    return False if low > -worth else None


def answer(*gained: bool | None) -> str:
    """WORTH, NOT or OPEN, of the gains by each rule."""
    if False in gained:
        return NOT
    return WORTH if gained and all(gained) else OPEN
