"""What other heads are worth (chapter 7): small models trained with each, against linear heads of every width.

Two rules, chosen before the runs: a linear model with as many parameters, and one whose step takes as long. Both are
read off a curve of linear models of several widths, seed by seed.
"""

import itertools
import time
from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from scipy.stats import t

from lib.data import remedies as criteria
from lib.train import joint, loop, neox, remedies, suite

ATTENTION = {16: 2, 24: 3, 32: 4, 64: 4, 96: 6, 128: 8}  # heads for each width
RATES = {16: 1e-2, 24: 1e-2, 32: 1e-2, 64: 5e-3, 96: 5e-3, 128: 5e-3}  # the suite's
WIDTHS = {16: (16, 24, 32, 64), 64: (64, 96, 128)}  # of bodies: those of the linear models beside them
TRIED = tuple(kind for kind in remedies.HEADS if kind != "factorised")  # whose price is chapter 7b's question
STEPS = {16: 300, 64: 200}
SEEDS = range(3)
RULES = {"parameters": "parameters", "seconds": "time"}  # what a linear model has as much of, in a frame and in words
MEASURED = ("loss", "parameters", "seconds", "bytes", "rank", "anisotropy", "entropy", "entropy_centred")


def trained(
    text: str,
    head: str,
    width: int,
    seed: int,
    steps: int,
    vocabulary: int = 4096,
    tokens_per_step: int = 256,
    evaluations: int = 2,
    validation_tokens: int = 8192,
    factor: float = 1.0,
    **sizes,
) -> pd.DataFrame:
    """A model of a width trained with a head of a kind: a row for each evaluation, columns as `lib.train.joint.train`.

    text: a profile of the suite, whose text is read; factor: times the suite's learning rate; sizes: of the head, where
    they are not the usual ones. Raises ValueError for a width or a head that there is not.
    """
    if width not in ATTENTION:
        raise ValueError(f"width is {width}: expected one of {', '.join(map(str, ATTENTION))}.")
    how = {"steps": steps, "tokens_per_step": tokens_per_step, "evaluations": evaluations}
    run = planned(head, width, seed, vocabulary, sizes, factor, validation_tokens=validation_tokens, **how)
    folder = suite.text(text, vocabulary)
    return pd.DataFrame(joint.train(run, *(np.load(folder / f"{part}.npy") for part in ("train", "validation"))))


def planned(
    head: str, width: int, seed: int, vocabulary: int, sizes: dict, factor: float = 1.0, **how: int
) -> joint.Joint:
    """A run at a width, with the suite's attention and `factor` times its learning rate; how: its other fields."""
    suites = {"heads": ATTENTION[width], "learning_rate": factor * RATES[width]}
    return joint.Joint(head=head, width=width, seed=seed, vocabulary=vocabulary, sizes=sizes, **suites, **how)


def grid(seeds: Iterable[int] = SEEDS, steps: Iterable[int] = tuple(STEPS.values())) -> list[dict]:
    """Points of all runs, width by width and seed by seed: heads at 16 and 64, and linear ones on wider bodies."""
    points = []
    for ((base, wider), count), seed in itertools.product(zip(WIDTHS.items(), steps, strict=True), seeds):
        pairs = [(kind, base) for kind in TRIED] + [("linear", width) for width in wider[1:]]
        points += [{"head": kind, "width": width, "seed": seed, "steps": count} for kind, width in pairs]
    return points


def compared(frame: pd.DataFrame, body: str = "width {}") -> pd.DataFrame:
    """Loss of each head less that of a linear model by each rule: body, width, head, rule, value, low, high, gains.

    Means over seeds (nats) with t-intervals at 95 %, seed by seed against the curve of linear models of the same seed.
    Where a head takes longer, or stores more, than the widest linear model, it is held against that one, which favours
    it. frame: `trained` over points of `grid`; body: the width in words.
    """
    rows, worth = [], criteria.criterion().worth
    for width, ends in _ended(frame):
        costs = ends.groupby(["head", "width"], sort=False)[list(RULES)].mean()
        linear = ends[ends["head"] == "linear"].pivot(index="seed", columns="width", values="loss")
        for kind, (rule, column) in itertools.product(_others(ends), RULES.items()):
            own = ends[ends["head"] == kind].set_index("seed").loss
            knots = np.maximum.accumulate(costs.loc["linear", rule].sort_index())
            place = np.log(costs.loc[(kind, width), rule])
            less = [own[seed] - np.interp(place, np.log(knots), linear.loc[seed]) for seed in own.index]
            value, low, high = interval(less)
            about = {"body": body.format(width), "width": width, "head": kind, "rule": column}
            row = about | {"value": value, "low": low, "high": high}
            rows.append(row | {"gains": criteria.gains(value, low, high, worth)})
    return pd.DataFrame(rows)


def answered(compared: pd.DataFrame) -> pd.DataFrame:
    """A row for each body and head of `compared`: head, body, answer, and difference, low and high by each rule."""
    rows = []
    for (body, kind), part in compared.groupby(["body", "head"], sort=False):
        row = {"head": kind, "body": body, "answer": criteria.answer(*part.gains)}
        for one in part.itertuples():
            row |= {f"same {one.rule}": one.value, f"{one.rule}_low": one.low, f"{one.rule}_high": one.high}
        rows.append(row)
    return pd.DataFrame(rows)


def plain(answered: pd.DataFrame) -> pd.DataFrame:
    """The answers alone: a row for each head, a column for each body; empty where a head was not tried."""
    table = answered.pivot(index="head", columns="body", values="answer")
    table = table.loc[answered["head"].unique(), answered.body.unique()]
    return table.fillna("").rename_axis(columns=None).reset_index()


def lists(answered: pd.DataFrame) -> dict[str, str]:
    """Heads by what is said of them over all bodies, for a sentence: always, never, sometimes (worth it), open."""
    said = {"always": [], "never": [], "sometimes": [], "open": []}
    for kind, answers in answered.groupby("head", sort=False).answer.agg(set).items():
        worth = criteria.WORTH in answers
        name = "always" if answers == {criteria.WORTH} else "never" if answers == {criteria.NOT} else ""
        said[name or ("sometimes" if worth else "open")].append(kind)
    return {name: ", ".join(kinds) or "none" for name, kinds in said.items()}


def described(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each run's width, head and body at its end, means over seeds.

    Columns: base (width beside whose heads it stands), head, width, loss (nats), parameters, milliseconds (for a step),
    kilobytes (of a token in flight), rank, anisotropy, entropy and entropy_centred (nats).
    """
    parts = []
    for base, ends in _ended(frame):
        part = ends.groupby(["head", "width"], sort=False)[list(MEASURED)].mean().reset_index()
        parts.append(part.assign(base=base, milliseconds=1e3 * part.seconds, kilobytes=part.bytes / 1e3))
    columns = ["base", "head", "width", "loss", "parameters", "milliseconds", "kilobytes", *list(MEASURED)[-4:]]
    return pd.concat(parts, ignore_index=True)[columns]


def interval(values: list[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean of values with its t-interval; NaN for the ends of one value alone."""
    count, mean = len(values), float(np.mean(values))
    reach = t.ppf(0.5 + level / 2, count - 1) * np.std(values, ddof=1) / count**0.5 if count > 1 else np.nan
    return mean, mean - float(reach), mean + float(reach)


def costs(vocabulary: int, width: int, tokens: int, times: int = 3) -> pd.DataFrame:
    """What the loss and its gradients cost each head on this machine, on one thread and drawn states.

    Columns: head, microseconds (for a token, the least of so many times), times (the linear head's), kilobytes (that a
    token keeps while it is in flight), stored (numbers). "linear, fused" is the head of the suite's own training.
    """
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(tokens, width, generator=generator, requires_grad=True)
    targets, previous = torch.randint(0, vocabulary, (2, tokens), generator=generator)
    rows = []
    with loop.fast():
        for kind in remedies.HEADS:
            more = {"counts": torch.ones(vocabulary, vocabulary)} if kind == "bigram" else {}
            head = remedies.head(kind, vocabulary, width, **more)
            seconds = min(_seconds(lambda head=head: head.loss(states, targets, previous)) for _ in range(times))
            part = slice(0, joint.TOGETHER)
            kept = joint.footprint(head, states[part], targets[part], previous[part])
            rows.append({"head": kind, "seconds": seconds, "kilobytes": kept / 1e3, "stored": head.size()})
        weight = torch.randn(vocabulary, width, generator=generator, requires_grad=True)
        seconds = min(_seconds(lambda: neox.head_loss(states, weight, targets)) for _ in range(times))
    rows.append({"head": "linear, fused", "seconds": seconds, "kilobytes": np.nan, "stored": weight.numel()})
    frame = pd.DataFrame(rows)
    frame["microseconds"], frame["times"] = 1e6 * frame.seconds / tokens, frame.seconds / frame.seconds[0]
    return frame[["head", "microseconds", "times", "kilobytes", "stored"]]


def ranks(vocabulary: int, width: int, contexts: int) -> pd.DataFrame:
    """Rank of the log-probabilities of drawn states, by head with drawn weights: head, rank, error (of the sum of
    probabilities, the largest, in float32).

    The bigram head has drawn counts, and each state follows a token of its own.
    """
    generator, rows = torch.Generator().manual_seed(0), []
    counts = torch.randint(0, 3, (vocabulary, vocabulary), generator=generator).float()
    for kind in remedies.HEADS:
        head = remedies.head(kind, vocabulary, width, **({"counts": counts} if kind == "bigram" else {}))
        with torch.no_grad():
            for parameter in head.parameters():
                parameter += torch.randn(parameter.shape, generator=generator)
            states = torch.randn(contexts, width, generator=generator)
            previous = torch.arange(contexts) % vocabulary
            sums = torch.cat(list(head.log_probabilities(states, previous))).double().exp().sum(1)
        error = float((sums - 1).abs().max())
        rows.append({"head": kind, "rank": joint.rank(head, states, previous), "error": error})
    return pd.DataFrame(rows)


def _seconds(loss):
    """Processor time of a loss and its gradients."""
    start = time.process_time()
    loss().backward()
    return time.process_time() - start


def _ended(frame):
    """(width, rows of last steps) of the heads at a width and the linear models beside them; base names that width."""
    ends = frame[frame.step == frame.steps]
    base = ends["base"] if "base" in ends else ends.groupby("steps").width.transform("min")
    for width, part in ends.groupby(base.rename("beside"), sort=False):
        yield int(width), part


def _others(ends):
    return [kind for kind in dict.fromkeys(ends["head"]) if kind != "linear"]
