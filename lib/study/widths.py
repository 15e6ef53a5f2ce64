"""How wide? (chapter 7b): runs of several widths at a fixed budget, their fitted best, and the rule that is tested.

The budgets are data in widths.toml. A setting fixes the parameters of the body, all parameters, or the operations of
training; what the budget leaves, a depth or a number of steps, is solved for each width by `lib.measure.budgets`.
"""

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from lib.measure.budgets import Shape, depth, steps
from lib.run import kept, sweep
from lib.study import trials

FILE = Path(__file__).with_name("widths.toml")
SEEDS = range(3)
HEAD = 8  # dimensions of an attention head: a quarter of them turn, two at a time
RATE, NARROW = 0.02, 32  # the highest learning rate, up to this width; beyond, it falls with the root
UNITS = {"body": "parameters in the body", "parameters": "parameters", "compute": "operations"}
WORDS = {"body": "non-embedding parameters", "parameters": "total parameters", "compute": "training operations"}


@dataclass(frozen=True)
class Setting:
    """A budget and the widths that share it; layers where steps are solved for, steps where layers are."""

    fixed: str
    budget: float
    vocabulary: int
    tied: bool
    widths: tuple[int, ...]
    layers: int | None = None
    steps: int | None = None
    rates: tuple[float, ...] = (1,)
    seeds: int = len(SEEDS)

    @property
    def amount(self) -> str:
        """The budget in words."""
        deep = f", {self.layers} layers" if self.layers else ""
        return f"{_short(self.budget)} {UNITS[self.fixed]}{deep}"

    @property
    def name(self) -> str:
        """All of it in words."""
        return f"{self.amount}, V {self.vocabulary:,}, {'tied' if self.tied else 'untied'}"

    def shape(self, width: int) -> Shape:
        """Of a model of this width that the budget allows."""
        context = common()["context"]
        if self.layers:
            return Shape(width, self.layers, self.vocabulary, context, self.tied)
        return depth(self.budget, self.fixed, width, self.vocabulary, context, self.tied)

    def length(self, width: int) -> int:
        """Steps that it is trained for."""
        return self.steps or steps(self.shape(width), self.budget, common()["tokens_per_step"])

    def about(self, width: int, seed: int, factor: float = 1) -> dict:
        """What is told of a run: a row of `runs` without its loss."""
        shape, length = self.shape(width), self.length(width)
        return {
            "width": width,
            "seed": seed,
            "factor": factor,
            "layers": shape.layers,
            "steps": length,
            "tokens": length * common()["tokens_per_step"],
            "parameters": shape.parameters,
            "share": shape.share,
            "flops_share": shape.flops_share,
        }

    def point(self, width: int, seed: int, factor: float = 1) -> dict:
        """What a run is made from: settings of `lib.train.trial.Trial`."""
        rate = factor * RATE * min(1, math.sqrt(NARROW / width))
        return common() | {
            "seed": seed,
            "width": width,
            "layers": self.shape(width).layers,
            "heads": width // HEAD,
            "vocabulary": self.vocabulary,
            "tied": self.tied,
            "steps": self.length(width),
            "learning_rate": float(f"{rate:.3g}"),
        }


def common() -> dict:
    """What all runs share."""
    return _plan()["common"]


def settings() -> list[Setting]:
    """All budgets, the longest runs first."""
    return [Setting(**_tuples(entry)) for entry in _plan()["setting"]]


def grid() -> list[dict]:
    """All runs, seed by seed, so that a plan that was stopped has whole seeds."""
    return [settings()[number].point(*run) for number, *run in _wanted()]


def runs() -> pd.DataFrame:
    """Losses at the end of all runs, from the kept records: a row for each run.

    Columns setting (its place in `settings`), width, seed, factor (of the learning rate), layers, steps, tokens,
    parameters, share (of embedding and head among them), flops_share (of the head among the operations), loss (nats).
    """
    about = [{"setting": number} | settings()[number].about(*run) for number, *run in _wanted()]
    return _ended(kept.run(trials.trained, grid(), text="laptop"), about)


def live(setting: Setting, seeds: list[int], text: str) -> pd.DataFrame:
    """The same of one budget, trained now; setting is 0. text: a profile of the suite."""
    wanted = [(width, seed) for width in setting.widths for seed in seeds]
    frame = sweep.run(trials.trained, [setting.point(*run) for run in wanted], text=text)
    return _ended(frame, [{"setting": 0} | setting.about(*run) for run in wanted])


def _short(number):
    return f"{number:,.0f}" if number < 1e9 else f"{number / 1e12:g} trillion"


def _ended(frame, about):
    return pd.DataFrame(about).assign(loss=frame.loss[frame.step > 0].to_numpy())


def _wanted():
    """(place of the setting, width, seed, factor of the learning rate) of all runs."""
    return [
        (number, width, seed, factor)
        for seed in SEEDS
        for number, setting in enumerate(settings())
        if seed < setting.seeds
        for width in setting.widths
        for factor in (setting.rates if seed == SEEDS[0] else setting.rates[:1])
    ]


@cache
def _plan():
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def _tuples(entry):
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
