"""How fast a mean logit would drift: formulas on real models, beside simulations, and for Pythia (chapter 8)."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from scipy.optimize import brentq

from lib.data import public
from lib.measure import drift
from lib.study import heads
from lib.train import precision

DECAY = 0.1  # of the head; biases have none
FIRST = "first loss scale"
NARROW, WIDE = "pythia-70m", "pythia-410m"  # the two sizes whose ratio a formula has to explain


def speeds(
    address: str, corpus: str, tokens: int, powers: list[int], batches: list[int], context: int = 128
) -> pd.DataFrame:
    """Drift of a model's two means if it were trained on with fp16 gradients: a row for each kappa and batch.

    kappa = 2^power, batch = 2^batch tokens. Columns kappa, batch, width, vocabulary, delta, row, bias, by_row,
    by_bias, share (see `drift.speeds`), rate (of growth, with decay on the head), pinned (see `drift.pinned`). A
    model whose final norm has no bias is taken as if it had one.
    """
    rows = []
    for power in powers:
        push = _push(address, corpus, tokens, 2.0**power, context)
        about = {
            "width": len(push.mean_row),
            "vocabulary": len(push.lost),
            "delta": push.delta,
            "pinned": drift.pinned(push),
        }
        for batch in batches:
            found = drift.speeds(push, 2.0**batch)
            rate = drift.growth_adam(found["row"], found["bias"], DECAY)
            rows.append({"kappa": 2.0**power, "batch": 2**batch, **about, **found, "rate": rate})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Toy:
    """A head and states whose labels are drawn from the softmax itself, so that the exact mean gradient is zero."""

    head: torch.Tensor  # (V, d)
    states: torch.Tensor  # (N, d), less the bias
    bias: torch.Tensor  # (d,)


def toy(vocabulary: int, width: int, contexts: int, seed: int) -> Toy:
    """Zipf's frequencies along the states' bias, and random rows and states around them."""
    generator = torch.Generator().manual_seed(seed)
    bias = torch.randn(width, generator=generator) / 2
    logs = -1.2 * torch.log(torch.arange(1.0, vocabulary + 1))
    head = torch.randn(vocabulary, width, generator=generator) / 4
    head += (logs - head @ bias)[:, None] * bias / bias.square().sum()
    return Toy(head, torch.randn(contexts, width, generator=generator), bias)


def gradients(
    p: torch.Tensor, labels: torch.Tensor, batch: int, kappa: float | None, rng: np.random.Generator
) -> torch.Tensor:
    """Mean gradient (N, V) of each context's logits over a batch of drawn labels: stored in fp16, or exact (no kappa).

    batch tokens are shared by the N contexts alike; p, labels (N, V): probabilities of the model and of the labels.
    """
    each, odds = batch // len(p), labels.double().numpy()
    shares = torch.from_numpy(rng.multinomial(each, odds / odds.sum(1, keepdims=True)) / each).float()
    if kappa is None:
        return p - shares
    other, label = (precision.rounded(part, "fp16", kappa) for part in (p, p - 1))
    return other + shares * (label - other)


def simulated(
    powers: list[int], batches: list[int], vocabulary: int = 1024, width: int = 16, contexts: int = 64,
    steps: int = 150, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """`drift.speeds` beside AdamW's steps at weights that are kept: a row for each kappa = 2^power, batch = 2^batch.

    Columns kappa, batch, mean (row or bias), found (what fp16 adds to the mean logit per unit of learning rate, over an
    exact twin with the same labels; of the bias, by the sum alone) and told.
    """
    task, rows = toy(vocabulary, width, contexts, seed), []
    states = task.states + task.bias
    p = (states @ task.head.T).softmax(1)
    for power in powers:
        push = drift.pushes(states, task.head, 2.0**power)
        for batch in batches:
            found = _moved(task, p, 2.0**power, 2**batch, steps, seed)
            told = drift.speeds(push, 2.0**batch)
            about = {"kappa": 2.0**power, "batch": 2**batch}
            rows += [about | {"mean": name, "found": found[name], "told": told[f"by_{name}"]} for name in found]
    return pd.DataFrame(rows)


def _moved(task, p, kappa, batch, steps, seed):
    """What fp16 adds to the mean logit by way of the mean row and of the bias, per unit of learning rate."""
    states, mean_row = task.states + task.bias, task.head.mean(0)
    one, other = (np.random.default_rng(seed) for _ in range(2))  # the same labels for both
    moments, sums = [[0.0, 0.0] for _ in range(4)], [0.0] * 4
    for step in range(1, steps + 1):
        stored, exact = gradients(p, p, batch, kappa, one), gradients(p, p, batch, None, other)
        by_bias = exact.mean(0) @ task.head
        parts = [stored.T @ states / len(p), exact.T @ states / len(p)]
        parts += [by_bias + stored.sum(1).mean() * mean_row, by_bias]
        for place, part in enumerate(parts):
            moved = adam(moments[place], part, step)
            sums[place] = sums[place] + (moved if step > steps // 5 else 0.0)
    kept = steps - steps // 5
    row = (sums[0] - sums[1]).mean(0) @ states.mean(0) / kept
    return {"row": float(row), "bias": float((sums[2] - sums[3]) @ mean_row / kept)}


def adam(moments: list, gradient: torch.Tensor, step: int) -> torch.Tensor:
    """AdamW's step in units of the learning rate; `moments`, a list of two, is moved on."""
    first, second = drift.BETAS
    moments[0] = first * moments[0] + (1 - first) * gradient
    moments[1] = second * moments[1] + (1 - second) * gradient.square()
    return -moments[0] / (1 - first**step) / ((moments[1] / (1 - second**step)).sqrt() + 1e-8)


def grown(
    kappa: float, batch: int, rate: float, steps: int, evaluations: int = 30, decay: float = DECAY, seed: int = 0,
    vocabulary: int = 1024, width: int = 16, contexts: int = 64,
) -> pd.DataFrame:  # fmt: skip
    """The same head and bias trained by AdamW on labels that they know already: stored in fp16, and exact.

    Columns arm (fp16, float32, or what the start foretells: free and held, see `drift.free` and `drift.held`), sum_lr,
    offset (mean logit), gap (nats above the entropy; none where foretold).
    """
    task = toy(vocabulary, width, contexts, seed)
    kept = np.linspace(0, steps, evaluations + 1).round().astype(int)
    arms = {"fp16": kappa, "float32": None}
    rows = [row for arm, scale in arms.items() for row in _trained(task, arm, scale, batch, rate, kept, decay, seed)]
    push, start = drift.pushes(task.states + task.bias, task.head, kappa), rows[0]["offset"]
    times = kept * rate
    free = drift.free(push, batch, width, times, start, decay)
    held = drift.held(push, batch, times, start, decay)
    for arm, offsets in {"free": free, "held": held}.items():
        rows += [{"arm": arm, "sum_lr": time, "offset": one} for time, one in zip(times, offsets, strict=True)]
    return pd.DataFrame(rows)


def _trained(task, arm, kappa, batch, rate, kept, decay, seed):
    """A row for each kept step of AdamW at one rate."""
    head, bias, moments = task.head.clone(), task.bias.clone(), [[0.0, 0.0] for _ in range(2)]
    labels = ((task.states + bias) @ head.T).softmax(1)
    rng, rows = np.random.default_rng(seed), []
    for step in range(kept[-1] + 1):
        states = task.states + bias
        logits = states @ head.T
        if step in kept:
            gap = (labels * (labels.log() - logits.log_softmax(1))).sum(1).mean()
            rows.append({"arm": arm, "sum_lr": step * rate, "offset": float(logits.mean()), "gap": float(gap)})
        push = gradients(logits.softmax(1), labels, batch, kappa, rng)
        by_head, by_bias = push.T @ states / len(states), push.mean(0) @ head
        head = head * (1 - rate * decay) + rate * adam(moments[0], by_head, step + 1)
        bias = bias + rate * adam(moments[1], by_bias, step + 1)
    return rows


def pythia(address: str, corpus: str, tokens: int, powers: list[int], start: float, context: int = 128) -> pd.DataFrame:
    """Mean logits at the end of training that the formulas foretell for Pythia's sizes, a model here as the gauge.

    The gauge gives the tail, the noise, and the size of rows and states; a recipe its width, batch and summed learning
    rate; kappa is 2^power for all sizes, or what a recipe's first loss scale says. Columns at (which kappa), kappa,
    model, width, sum_lr, share (of the learning rate that the bias moves at first), linear (start times exp of growth
    rate and sum_lr), free, held.
    """
    recipes = _recipes()
    every = [recipes.assign(kappa=2.0**power, at=f"2^{power}") for power in powers]
    rows = []
    for kappa, group in pd.concat([recipes.assign(at=FIRST), *every]).groupby("kappa"):
        push = _push(address, corpus, tokens, kappa, context)
        rows += [_foretold(push, recipe, start) for recipe in group.itertuples()]
    return pd.DataFrame(rows).sort_values(["kappa", "sum_lr"], ascending=[True, False], ignore_index=True)


def needed(
    address: str, corpus: str, tokens: int, start: float, least: float = 10.0, context: int = 128
) -> pd.DataFrame:
    """By which factor something would have to be less in 410M alone for 70M to end `least` times as far.

    Columns candidate, form (free or held), factor; no factor where none from 1 to 1e-6 is enough. Less than the
    gauge gives for the tail and for a gradient's mean over its noise; than the recipe gives for the learning rate.
    """
    push = _push(address, corpus, tokens, None, context)
    recipes = _recipes().set_index("model")
    narrow, wide = (recipes.loc[name] for name in (NARROW, WIDE))
    rows = []
    for form in ("free", "held"):
        aim = _end(form, push, narrow.tokens_per_step, narrow.sum_lr, narrow.width, start) / least
        for name in ("tail", "signal over noise", "learning rate"):

            def excess(power, name=name, form=form, aim=aim):
                factor, tail, batch, moved = 10.0**power, push, wide.tokens_per_step, wide.sum_lr
                if name == "tail":
                    tail = replace(push, rows=push.rows * factor, lost=push.lost * factor, delta=push.delta * factor)
                elif name == "learning rate":
                    moved = moved * factor
                else:
                    batch = batch * factor**2
                return _end(form, tail, batch, moved, wide.width, start) - aim

            enough = excess(-6.0) < 0 < excess(0.0)
            rows.append(
                {
                    "candidate": name,
                    "form": form,
                    "factor": 10 ** brentq(excess, -6, 0, xtol=1e-3) if enough else np.nan,
                }
            )
    return pd.DataFrame(rows)


def scale_needed(foretold: pd.DataFrame, form: str, least: float = 10.0) -> float:
    """How many times larger 410M's kappa must be than 70M's first one for 70M to end `least` times as far, by a form.

    foretold: `pythia`; between its values of kappa offsets are interpolated on logarithmic axes. NaN where none of them
    is enough.
    """
    first = foretold[(foretold["at"] == FIRST) & (foretold.model == NARROW)].iloc[0]
    wide = foretold[foretold.model == WIDE].drop_duplicates("kappa").sort_values("kappa")
    falling = np.log(wide[form].to_numpy()[::-1])
    aim = np.log(first[form] / least)
    if not falling[0] <= aim <= falling[-1]:
        return np.nan
    return float(np.exp(np.interp(aim, falling, np.log(wide.kappa.to_numpy()[::-1]))) / first.kappa)


def ratios(foretold: pd.DataFrame) -> pd.DataFrame:
    """70M's foretold offset over 410M's, a row for each kappa that both share: at, kappa, linear, free, held."""
    rows = []
    for (at, kappa), group in foretold.groupby(["at", "kappa"]):
        ends = group.set_index("model")
        if {NARROW, WIDE} <= set(ends.index):
            forms = {form: ends[form][NARROW] / ends[form][WIDE] for form in ("linear", "free", "held")}
            rows.append({"at": at, "kappa": kappa, **forms})
    return pd.DataFrame(rows).sort_values(["kappa", "at"], ignore_index=True)


def released(frame: pd.DataFrame) -> pd.DataFrame:
    """How far fp16 has taken a trained toy beyond float32 at the summed learning rates of three sizes: a row a batch.

    frame: `grown`, with columns batch and seed. Columns batch, seed, pythia-410m, pythia-160m, pythia-70m (mean logit
    less float32's), ratio (of the last to the first).
    """
    moved = _recipes().set_index("model").sum_lr[[WIDE, "pythia-160m", NARROW]]
    rows = []
    for (batch, seed), group in frame.groupby(["batch", "seed"]):
        offset = group.pivot(index="sum_lr", columns="arm", values="offset")
        beyond = np.interp(moved, offset.index, offset.fp16 - offset.float32)
        about = {"batch": batch, "seed": seed} | dict(zip(moved.index, beyond.tolist(), strict=True))
        rows.append(about | {"ratio": about[NARROW] / about[WIDE]})
    return pd.DataFrame(rows)


def agreement(frame: pd.DataFrame) -> float:
    """Largest factor between what was found and what was told. frame: `simulated`."""
    return float(np.exp(np.abs(np.log(frame.found / frame.told)).max()))


def _recipes():
    """Sizes of the suite, with the kappa of their first loss scale."""
    found = public.recipes().query("suite == 'v1' and not model.str.endswith('-deduped')").sort_values("width")
    return found.assign(kappa=found.initial_loss_scale / found.tokens_per_micro_batch)


def _push(address, corpus, tokens, kappa, context):
    """`drift.pushes` of a real model on a text; where there is no kappa, at the first one of the narrow sizes."""
    material = heads.prepared(address, corpus, context, tokens, context, "cpu", "float32")
    states, _ = material.validation
    kappa = kappa or float(_recipes().set_index("model").kappa[NARROW])
    return drift.pushes(states, material.head.out, kappa)


def _foretold(push, recipe, start):
    """Mean logits of a size at its end, by each formula."""
    batch, moved = recipe.tokens_per_step, recipe.sum_lr
    found = drift.speeds(push, batch)
    rate = drift.growth_adam(found["row"], found["bias"], DECAY)
    about = {name: getattr(recipe, name) for name in ("at", "kappa", "model", "width", "sum_lr")}
    about |= {"share": found["share"], "linear": start * np.exp(rate * moved)}
    return about | {form: _end(form, push, batch, moved, recipe.width, start) for form in ("free", "held")}


def _end(form, push, batch, moved, width, start):
    times = np.array([0.0, moved])
    if form == "free":
        return float(drift.free(push, batch, width, times, start, DECAY)[-1])
    return float(drift.held(push, batch, times, start, DECAY)[-1])
