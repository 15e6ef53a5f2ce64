"""Public training runs of others as numbers: Pythia's losses over seeds, its LAMBADA perplexities, its recipes.

`about` says what was computed from which public measurements, `traps` what must be kept in mind when they are read.
"""

import json
from functools import cache
from pathlib import Path

import pandas as pd


def losses() -> pd.DataFrame:
    """Mean training losses of 44 runs over windows of 2,000 steps: model, width, seed, step, loss (nats a token)."""
    columns = {"steps": "step"}
    frame = pd.DataFrame(_public()["train_loss"]).explode(["steps", "loss"], ignore_index=True).rename(columns=columns)
    return frame.astype({"step": int, "loss": float}).dropna(ignore_index=True)


def fine_losses() -> pd.DataFrame:
    """Mean training losses of 40 runs over windows of 500 steps: model, width, seed, step (the last of its window),
    loss (nats a token); windows that were not logged are left out.
    """
    fine = _public()["train_loss_fine"]
    frame = pd.DataFrame(fine["runs"]).explode("loss", ignore_index=True)
    window = 1 + frame.groupby(["model", "seed"]).cumcount()
    frame.insert(3, "step", fine["window"] * window)
    return frame.astype({"loss": float}).dropna(ignore_index=True)


def perplexities() -> pd.DataFrame:
    """Zero-shot LAMBADA perplexity along training of 32 models: model, release (v0, v1), width, step, perplexity."""
    columns = {"steps": "step", "suite": "release"}
    frame = pd.DataFrame(_public()["lambada"]).explode(["steps", "perplexity"], ignore_index=True)
    frame = frame.rename(columns=columns).astype({"step": int, "perplexity": float})
    widths = {recipe["model"].removesuffix("-bf16"): recipe["width"] for recipe in _public()["recipes"]}
    return frame.assign(width=frame.model.str.removesuffix("-bf16").map(widths))


def recipes() -> pd.DataFrame:
    """Published training configurations: model, suite, width, layers, learning rates, steps, tokens a step and more."""
    return pd.DataFrame(_public()["recipes"])


def about() -> str:
    """What the numbers are and where they come from."""
    return _public()["about"]


def traps() -> list[str]:
    """What must be kept in mind."""
    return list(_public()["traps"])


@cache
def _public() -> dict:
    return json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
