"""A transformer that turns (chapter 8): arms in which one thing is stored in half precision, and what takes it back.

The arms are data, chosen before the runs that are kept; what was tried before that is told in the chapter.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from lib.measure import separation
from lib.run import kept, sweep
from lib.study import trials
from lib.train import trial

CONTROL, TURNED = "float32", "fp16"
KAPPA = 2.0**-13
COARSE = {"gradient": "fp16", "kappa": KAPPA}
ATTENTION = {"keys": "fp16", "outputs": "fp16", "scores": "fp16", "kappa": KAPPA}
ARMS = {
    CONTROL: {},
    "bf16": COARSE | {"gradient": "bf16"},
    TURNED: COARSE,
    "fp16, kappa 2^8 larger": COARSE | {"kappa": KAPPA * 2**8},
    "fp16, stochastic": COARSE | {"stochastic": True},
    "fp16, balanced": COARSE | {"balanced": True},
    "fp16, centred": COARSE | {"centred": "after"},
    "fp16, centred inside": COARSE | {"centred": "inside"},
    "fp16, mu-loss": COARSE | {"mu_loss": 1e-4},
    "fp16, z-loss": COARSE | {"z_loss": 1e-4},
    "fp16, logits in bf16": COARSE | {"logits": "bf16"},
    "attention": ATTENTION,
    "head and attention": COARSE | ATTENTION,
    "fp16, decay on gains": COARSE | {"decayed": "gains"},
    "fp16, decay on biases": COARSE | {"decayed": "biases"},
    "head and attention, no key bias": COARSE | ATTENTION | {"key_bias": False},
}
RIVALS = {  # in float32, but for the last
    "sequential blocks": {"parallel": False},
    "no decay": {"decay": 0.0},
    "ten times the decay": {"decay": 1.0},
    "a quarter of the batch": {"tokens_per_step": 512},
    "fp16, sequential blocks": COARSE | {"parallel": False},
}
LATE = {  # of every run whose labels are expected
    "labels": "expected",
    "vocabulary": 16384,
    "width": 32,
    "heads": 4,
    "tokens_per_step": 1024,
    "steps": 8000,
    "evaluations": 24,
    "validation_tokens": 2048,
}
HALF = {"gradient": "fp16", "logits": "fp16"}
LATE_ARMS = {CONTROL: {}, "fp16, kappa 2^-4": HALF | {"kappa": 2.0**-4}, "fp16, kappa 2^-8": HALF | {"kappa": 2.0**-8}}
NAMES = {  # in prose
    "control": CONTROL,
    "fp16": TURNED,
    "bf16": "bf16",
    "larger": "fp16, kappa 2^8 larger",
    "stochastic": "fp16, stochastic",
    "balanced": "fp16, balanced",
    "centred": "fp16, centred",
    "inside": "fp16, centred inside",
    "mu": "fp16, mu-loss",
    "z": "fp16, z-loss",
    "coarse": "fp16, logits in bf16",
    "attention": "attention",
    "both": "head and attention",
    "gains": "fp16, decay on gains",
    "biases": "fp16, decay on biases",
    "keyless": "head and attention, no key bias",
}
SEEDS = range(4)
STEPS = {"steps": 1200, "schedule": "constant", "evaluations": 24, "validation_tokens": 4096}  # of every run
SIZES = {"steps": STEPS["steps"], "tokens": trials.FIELDS["tokens_per_step"]}
CROSSED = {"width": [8, 16, 32], "learning_rate": [3e-3, 1e-2], "kappa": [2.0**-11, 2.0**-13]}


def grid(names: Iterable[str] = ARMS) -> list[dict]:
    """Points of some arms, seed by seed, so that a plan that was stopped has whole seeds."""
    return [{"seed": seed, **STEPS, **(ARMS | RIVALS)[name]} for seed in SEEDS for name in names]


def rivals() -> list[dict]:
    """Points of the other explanations: the layout of blocks, decay, the batch."""
    return grid(RIVALS)


def late() -> list[dict]:
    """One point: all arms and seeds of runs whose labels are expected, trained together."""
    return [{"runs": [{"seed": seed, **LATE, **arm} for seed in SEEDS for arm in LATE_ARMS.values()]}]


def runs(*names: str) -> pd.DataFrame:
    """Runs of some arms, or of all, along training, from the kept records: arm, seed, step, and what is followed."""
    names = names or tuple(ARMS)
    return named(kept.run(trials.trained, grid(names), text="laptop"), names)


def pair() -> pd.DataFrame:
    """The arm that turns and its control along training, but for the start."""
    frame = runs(CONTROL, TURNED)
    return frame[frame.step > 0]


def named(frame: pd.DataFrame, names: Iterable[str] = ARMS) -> pd.DataFrame:
    """The frame of `grid`'s runs with columns arm and seed, arm by arm."""
    names = list(names)
    told = _told(frame, [{"arm": name, "seed": seed} for seed in SEEDS for name in names])
    return told.sort_values(["arm", "seed", "step"], key=lambda c: c.map(names.index) if c.name == "arm" else c)


def doses() -> list[dict]:
    """Points with the gradient of the logits in fp16: width, learning rate and kappa crossed, one seed of each."""
    return [STEPS | {"gradient": "fp16"} | point for point in sweep.product(**CROSSED)]


def dosed(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each of `doses`' runs: width, learning_rate, kappa, delta, sum_lr, dose, rise (nats), offset at the end.

    delta is its mean over training, the dose is that times the summed learning rate; rise is the largest loss after the
    lowest, less the lowest.
    """
    rows = []
    told = _told(frame[["step", "loss", "delta", "offset"]], doses())
    for point, run in told.groupby(list(CROSSED), sort=False):
        about = dict(zip(CROSSED, point, strict=True))
        setting = trial.Trial(**STEPS, learning_rate=about["learning_rate"])
        total = sum(trial.rate(setting, step) for step in range(1, setting.steps + 1))
        losses, delta = run.loss.to_numpy(), run.delta[1:].mean()
        rise = losses[losses.argmin() :].max() - losses.min()
        rows.append(about | {"delta": delta, "sum_lr": total, "dose": delta * total, "rise": rise})
        rows[-1]["offset"] = run.offset.iloc[-1]
    return pd.DataFrame(rows)


def explained(dosed: pd.DataFrame, draws: int, seed: int = 0) -> pd.DataFrame:
    """Rank correlations of the rise with dose and with width, each with the other taken out; 95 % over runs.

    Columns cause, given, value, low, high. dosed: `dosed`.
    """
    frame, rows = dosed.assign(model="all"), []
    for cause, given in (("dose", "width"), ("width", "dose"), ("delta", "sum_lr"), ("sum_lr", "delta")):

        def statistic(part, cause=cause, given=given):
            return separation.partial(part.rise, part[cause], part[[given]].to_numpy())

        found = separation.over_models(frame, statistic, draws, np.random.default_rng(seed), models=False)
        rows.append({"cause": cause, "given": given} | dict(zip(("value", "low", "high"), found[:3], strict=True)))
    return pd.DataFrame(rows)


def _told(frame, about):
    """A frame of runs, one after the other from step 0 on, with what is known of each as columns."""
    known = pd.DataFrame(about).iloc[(frame.step == 0).cumsum() - 1].reset_index(drop=True)
    return frame.drop(columns=[name for name in known if name in frame]).reset_index(drop=True).join(known)
