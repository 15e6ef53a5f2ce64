"""What checkpoints must show (chapter 8): predictions as data, written before any of those checkpoints was read.

A prediction is an interval for a quantity of some models at some steps; what is found is an interval too.
"""

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path

QUANTITIES = {  # and what they are read from: head and final norm, the queries' and keys' part, or the model
    "offset": "head",
    "mean_row": "head",
    "first_on_ones": "head",
    "key_bias": "attention",
    "key_reach": "attention",
    "score_offset": "model",
    "rounding_fp16": "model",
    "rounding_bf16": "model",
    "kept_rise": "model",
}
TEXTS = ("name", "quantity", "because", "refuted")


@dataclass(frozen=True)
class Prediction:
    """One line of the table."""

    name: str
    quantity: str
    models: tuple[str, ...]
    steps: tuple[int, ...]
    least: float  # -inf where only most is predicted
    most: float
    because: str  # what it follows from
    refuted: str  # what would refute it

    @property
    def interval(self) -> str:
        """In words."""
        if math.isinf(self.most):
            return f"at least {self.least:g}"
        return f"at most {self.most:g}" if math.isinf(self.least) else f"{self.least:g} to {self.most:g}"


def predictions(file: Path | None = None) -> list[Prediction]:
    """All of them, in their order. Raises ValueError where an entry is not one."""
    content = tomllib.loads((file or Path(__file__).with_name("predictions.toml")).read_text(encoding="utf-8"))
    found = [_checked(entry) for entry in content["prediction"]]
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise ValueError(f"two predictions share a name among {names}: give each its own")
    return found


def judged(prediction: Prediction, low: float, high: float) -> str:
    """holds, refuted or open, for a quantity known to lie between low and high. Raises ValueError where low > high."""
    if not low <= high:
        raise ValueError(f"found {low} to {high}: expected an interval; measure it again")
    if prediction.least <= low and high <= prediction.most:
        return "holds"
    return "refuted" if high < prediction.least or low > prediction.most else "open"


def _checked(entry):
    what = f"the prediction {entry.get('name', entry)!r}"
    unknown = set(entry) - {*TEXTS, "models", "steps", "least", "most"}
    if unknown or not all(isinstance(entry.get(name), str) and entry[name] for name in TEXTS):
        raise ValueError(f"{what} has {sorted(entry)}: expected {', '.join(TEXTS)}, models, steps, and least or most")
    if entry["quantity"] not in QUANTITIES:
        raise ValueError(f"{what} is of {entry['quantity']!r}: expected one of {', '.join(QUANTITIES)}")
    models, steps = entry.get("models"), entry.get("steps")
    if not models or not steps or not all(isinstance(step, int) and step >= 0 for step in steps):
        raise ValueError(f"{what} is of models {models} at steps {steps}: name at least one model and one step of each")
    least, most = float(entry.get("least", -math.inf)), float(entry.get("most", math.inf))
    if not least < most or (math.isinf(least) and math.isinf(most)):
        raise ValueError(f"{what} predicts {least:g} to {most:g}: give least, most, or both, least below most")
    texts = {name: entry[name] for name in TEXTS}
    return Prediction(models=tuple(models), steps=tuple(steps), least=least, most=most, **texts)
