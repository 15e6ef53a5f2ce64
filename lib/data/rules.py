"""What decides chapter 7b's rule, as data: its checks, their limits, and what had been seen when they were written."""

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Rule:
    """Checks by name, with the limits already in their sentences."""

    checks: dict[str, str]
    limits: dict[str, float]
    look: str
    output: dict[str, str]  # what is asked of factorised outputs, and what had been seen before that


def width() -> Rule:
    """The checks of "How wide?"."""
    entry = tomllib.loads(Path(__file__).with_name("criteria_width.toml").read_text(encoding="utf-8"))
    checks = {name: text.format(**entry["limits"]) for name, text in entry["checks"].items()}
    return Rule(checks, entry["limits"], entry["look"], entry["output"])
