"""From checks that pass or fail to an answer, by one rule for every claim.

A check is True, False, or None where the data can't say. Numbers: all pass, the claim's numbers are reproduced; some,
in part; none, not. Reading: all controls are survived, it holds; some, it holds with a condition; none, it is refuted;
where the controls ran on models of another kind than the claim is about, it is open whatever they gave.
"""

import math
from collections.abc import Mapping

NUMBERS = ("reproduced", "reproduced in part", "not reproduced", "not re-measured")
READINGS = ("holds", "holds with a condition", "refuted by a control", "open")

Checks = Mapping[str, bool | None]


def numbers(checks: Checks) -> str:
    """One of `NUMBERS`."""
    return _answer(checks, NUMBERS)


def reading(checks: Checks, same_kind: bool = True) -> str:
    """One of `READINGS`; same_kind: the controls ran on the kind of models that the claim is about."""
    return _answer(checks, READINGS) if same_kind else "open"


def _answer(checks, words):
    known = [bool(passed) for passed in checks.values() if passed is not None]
    if not known:
        return words[3]
    return words[0] if all(known) else words[1] if any(known) else words[2]


def above(low: float, high: float, level: float = 0.0) -> bool | None:
    """Whether an interval lies above a level: False if it lies below, None if it straddles it or is not known."""
    if math.isnan(low) or math.isnan(high) or low <= level < high:
        return None
    return low > level


def every(values) -> bool | None:
    """Whether all are true; None of no values, which neither pass nor fail."""
    values = [bool(value) for value in values]
    return all(values) if values else None


def none(values) -> bool | None:
    """Whether none is true; None of no values."""
    values = [bool(value) for value in values]
    return not any(values) if values else None
