"""What the runs of chapter 7b say: a fitted profile for each budget, and the checks of the rule, as stated before."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from lib.data import rules
from lib.measure import valley
from lib.study import widths

KINDS = {  # of which a budget leaves more or less to a width; values that are tried
    "share": np.arange(0.05, 0.98, 0.01),  # of embedding and head among the parameters
    "flops_share": np.arange(0.05, 0.98, 0.01),  # of the head among the operations
    "per_parameter": 2 ** np.arange(-5, 9, 0.1),  # training tokens
    "per_product": 2 ** np.arange(-5, 9, 0.1),  # training tokens, an untied embedding not counted
}
TOLD = ("share", "flops_share", "per_parameter")


@dataclass(frozen=True)
class Profile:
    """Loss against width at one budget, over seeds: the fit to the means, and fits to resampled seeds."""

    setting: widths.Setting
    means: pd.DataFrame  # by width: loss, low, high, what `KINDS` names, layers, steps, tokens, parameters
    fitted: valley.Valley
    drawn: valley.Valley

    @property
    def best(self) -> tuple[float, float, float]:
        """The width of lowest loss, with its interval."""
        return float(self.fitted.best), *valley.interval(self.drawn.best)

    def at(self, width: float, kind: str) -> float:
        """What a width has of a kind at this budget, between its neighbours."""
        return float(np.exp(np.interp(np.log(width), np.log(self.means.index), np.log(self.means[kind]))))

    def regret(self, value: float, kind: str) -> tuple[float, float, float]:
        """What a share or a ratio costs over the fitted best, with its interval; NaN where no width tried has it."""
        line = self.means.sort_values(kind)
        width = np.exp(np.interp(np.log(value), np.log(line[kind]), np.log(line.index), left=np.nan, right=np.nan))
        return float(self.fitted.regret(width)), *valley.interval(self.drawn.regret(width))

    def served(self, kind: str, limit: float) -> tuple[float, float]:
        """Least and largest value of a kind that surely cost no more than a limit; NaN where none does."""
        fine = [value for value in KINDS[kind] if self.regret(value, kind)[2] <= limit]
        return (min(fine), max(fine)) if fine else (np.nan, np.nan)


def profiles(runs: pd.DataFrame, draws: int, seed: int = 0) -> list[Profile]:
    """One for each budget of a frame of `lib.study.widths.runs`, at the learning rate of the width."""
    found = []
    for number, part in runs[runs.factor == 1].groupby("setting"):
        by_width = part.groupby("width")
        losses = {width: group.loss.to_numpy() for width, group in by_width}
        reach = {width: stats.t.ppf(0.975, len(one) - 1) * stats.sem(one) for width, one in losses.items()}
        means = by_width[["loss", "share", "flops_share", "layers", "steps", "tokens", "parameters"]].mean()
        means["per_parameter"] = means.tokens / means.parameters
        setting = widths.settings()[number]
        looked_up = 0 if setting.tied else setting.vocabulary * means.index
        means["per_product"] = means.tokens / (means.parameters - looked_up)
        means = means.assign(low=means.loss - pd.Series(reach), high=means.loss + pd.Series(reach))
        fitted = valley.fit(list(losses), [one.mean() for one in losses.values()])
        found.append(Profile(setting, means, fitted, valley.resampled(losses, draws, seed + int(number))))
    return found


def summary(found: list[Profile]) -> pd.DataFrame:
    """A row for each budget: the width of lowest loss tried, the fitted one with its interval, and what it has there.

    Columns budget, tried, lowest (its mean loss), best, low, high, share, flops_share, per_parameter (tokens), misfit
    (largest residual of the fit, nats).
    """
    rows = []
    for one in found:
        best, low, high = one.best
        misfit = np.abs(one.means.loss - one.fitted.loss(one.means.index.to_numpy())).max()
        row = {"budget": one.setting.name, "tried": int(one.means.loss.idxmin()), "lowest": one.means.loss.min()}
        row |= {"best": best, "low": low, "high": high} | {kind: one.at(best, kind) for kind in TOLD}
        rows.append(row | {"misfit": misfit})
    return pd.DataFrame(rows)


def told(found: list[Profile]) -> dict[str, float]:
    """What two vocabularies, and two depths, do to the best at equal operations and tied; by the settings' numbers.

    few and many: the vocabularies, with small-v and large-v, the fitted best widths at the smaller budget; shallow and
    deep: the depths, with shallow-loss and deep-loss, the lowest mean losses at the larger one.
    """
    tied = [one for one in found if one.setting.fixed == "compute" and one.setting.tied]
    ends = sorted({one.setting.budget for one in tied})
    few, many = sorted((one for one in tied if one.setting.budget == ends[0]), key=lambda one: one.setting.vocabulary)
    shallow, deep = sorted((one for one in tied if one.setting.budget == ends[-1]), key=lambda one: one.setting.layers)
    by_vocabulary = {"few": few.setting.vocabulary, "many": many.setting.vocabulary}
    by_depth = {"shallow": shallow.setting.layers, "deep": deep.setting.layers}
    by_vocabulary |= {"small-v": few.best[0], "large-v": many.best[0]}
    return by_vocabulary | by_depth | {"shallow-loss": shallow.means.loss.min(), "deep-loss": deep.means.loss.min()}


def drawn(found: list[Profile], places: int = 40) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Points and fitted lines, above the lowest mean of each budget: fixed, budget, width, above, and low and high."""
    points, lines = [], []
    for one in found:
        about, lowest = {"fixed": widths.WORDS[one.setting.fixed], "budget": one.setting.name}, one.means.loss.min()
        losses = one.means[["loss", "low", "high"]] - lowest
        points.append(losses.rename(columns={"loss": "above"}).reset_index().assign(**about))
        line = np.geomspace(one.fitted.low, one.fitted.high, places)
        lines.append(pd.DataFrame(about | {"width": line, "above": one.fitted.loss(line) - lowest}))
    return pd.concat(points, ignore_index=True), pd.concat(lines, ignore_index=True)


def chosen(found: list[Profile]) -> pd.DataFrame:
    """The means of all budgets with what a reader chooses by: vocabulary, tied (in words), budget (in words)."""
    frames = []
    for one in found:
        tied = "tied" if one.setting.tied else "untied"
        about = {"vocabulary": one.setting.vocabulary, "tied": tied, "budget": one.setting.amount}
        frames.append(one.means.reset_index().assign(**about))
    return pd.concat(frames, ignore_index=True)


def serving(found: list[Profile], kind: str) -> pd.DataFrame:
    """Where a kind serves each budget, and all of them in a last row: budget, from, to; NaN for nowhere."""
    served = [one.served(kind, rules.width().limits["regret"]) for one in found]
    ends = pd.DataFrame([*served, shared(served)], columns=["from", "to"])
    ends.insert(0, "budget", [*(one.setting.name for one in found), "all of them"])
    return ends


def shared(served: list[tuple[float, float]]) -> tuple[float, float]:
    """Where the ranges that serve single budgets overlap, least and largest; NaN where they don't."""
    low, high = np.max([low for low, _ in served]), np.min([high for _, high in served])
    return (float(low), float(high)) if low <= high else (np.nan, np.nan)


def checks(runs: pd.DataFrame, found: list[Profile]) -> dict[str, bool | None]:
    """The checks of `lib.data.rules.width` by name: passed, failed, or None where the runs can't say."""
    limits = rules.width().limits
    by = {kind: [one for one in found if one.setting.fixed == kind] for kind in widths.WORDS}
    limit, share = limits["regret"], limits["share"]
    served = {kind: [one.served(kind, limit) for one in by["compute"]] for kind in ("flops_share", "per_parameter")}
    inside = [one.setting.widths[0] < one.best[1] and one.best[2] < one.setting.widths[-1] for one in found]
    return {
        "inside": all(inside),
        "body": _lowest(runs, by["body"]),
        "shallow": _lowest(runs, by["parameters"]),
        "tied": _tied(runs, by["parameters"]),
        "half": _all(_serves(one, "share", share, limit) for one in by["parameters"]),
        "operations": _all(_serves(one, "flops_share", share, limit) for one in by["compute"]),
        "one": _overlap(served["flops_share"]),
        "ratio": _overlap(served["per_parameter"]),
        "left": _all(
            _left_out(by["compute"], served["flops_share"], number, limit) for number in range(len(by["compute"]))
        ),
        "rate": best_with_rates(runs).eval("alone == chosen").all().item(),
    }


def pairs(runs: pd.DataFrame) -> pd.DataFrame:
    """Tied less untied at the widths that a budget of either kind has in both: budget, width, difference, low, high.

    At equal parameters the depths differ, at equal operations they don't. Seeds are paired.
    """
    rows = []
    for tied, untied in _twins():
        one, other = (_losses(runs, number) for number in (tied, untied))
        for width in one.index.intersection(other.index):
            rows.append({"budget": _name(tied), "width": width} | _difference(one.loc[width] - other.loc[width]))
    return pd.DataFrame(rows)


def best_with_rates(runs: pd.DataFrame) -> pd.DataFrame:
    """For each budget with several learning rates, first seed: its best width with the planned one, and with the best.

    Columns budget, alone, chosen, and gained (nats, the most that a better rate gives a width).
    """
    rows = []
    tried = runs.groupby("setting").filter(lambda part: part.factor.nunique() > 1)
    for number, part in tried[tried.seed == 0].groupby("setting"):
        table = part.pivot(index="width", columns="factor", values="loss")
        alone, chosen = table[1], table.min(axis=1)
        row = {"alone": alone.idxmin(), "chosen": chosen.idxmin(), "gained": (alone - chosen).max()}
        rows.append({"budget": _name(number)} | row)
    return pd.DataFrame(rows)


def steps_down(runs: pd.DataFrame, fixed: str) -> pd.DataFrame:
    """From each width to the next wider one at budgets of a kind: budget, from, to, difference, low, high (nats)."""
    rows = []
    for number, setting in enumerate(widths.settings()):
        if setting.fixed == fixed and number in set(runs.setting):
            losses = _losses(runs, number)
            for narrow, wide in zip(losses.index[:-1], losses.index[1:], strict=True):
                told = {"budget": setting.name, "from": narrow, "to": wide}
                rows.append(told | _difference(losses.loc[wide] - losses.loc[narrow]))
    return pd.DataFrame(rows)


def _lowest(runs, found):
    """Whether the widest model has the lowest loss, by more than the interval of its distance to every other."""
    outcomes = []
    for one in found:
        losses = _losses(runs, widths.settings().index(one.setting))
        wide = losses.index[-1]
        ends = [_difference(losses.loc[wide] - losses.loc[other]) for other in losses.index[:-1]]
        outcomes.append(_sign(ends))
    return _all(outcomes)


def _tied(runs, found):
    """Whether the best tied model beats the best untied one, at each vocabulary that has both."""
    numbers = {(one.setting.vocabulary, one.setting.tied): widths.settings().index(one.setting) for one in found}
    outcomes = []
    for vocabulary in {vocabulary for vocabulary, _ in numbers}:
        if {(vocabulary, True), (vocabulary, False)} <= set(numbers):
            both = [_losses(runs, numbers[vocabulary, tied]) for tied in (True, False)]
            tied, untied = (losses.loc[losses.mean(axis=1).idxmin()] for losses in both)
            outcomes.append(_sign([_difference(tied - untied)]))
    return _all(outcomes)


def _sign(ends):
    """True where all intervals lie below zero, False where one lies above, else None."""
    if any(end["low"] > 0 for end in ends):
        return False
    return True if all(end["high"] < 0 for end in ends) else None


def _serves(one, kind, share, limit):
    """Whether a share surely costs no more than the limit; None where no width tried has it, or it can't be told."""
    _, low, high = one.regret(share, kind)
    if np.isnan(high):
        return None
    return True if high <= limit else False if low > limit else None


def _overlap(served):
    return bool(np.isfinite(shared(served)[0]))


def _left_out(found, served, number, limit):
    """Whether the middle of the shares that serve the other budgets serves this one."""
    low, high = shared(served[:number] + served[number + 1 :])
    return None if np.isnan(low) else _serves(found[number], "flops_share", (low + high) / 2, limit)


def _all(outcomes):
    """True where all are, False where one is, else None."""
    outcomes = list(outcomes)
    if False in outcomes:
        return False
    return None if None in outcomes or not outcomes else True


def _twins():
    """(tied, untied): places of settings that differ in that alone."""
    settings = widths.settings()
    return [
        (one, other)
        for one, tied in enumerate(settings)
        for other, untied in enumerate(settings)
        if tied.tied and not untied.tied and _but_tied(tied) == _but_tied(untied)
    ]


def _but_tied(setting):
    return setting.fixed, setting.budget, setting.vocabulary, setting.layers, setting.steps


def _name(number):
    return widths.settings()[number].name


def _losses(runs, number):
    """(width, seed) table of a budget's losses at the planned rates."""
    part = runs[(runs.setting == number) & (runs.factor == 1)]
    return part.pivot(index="width", columns="seed", values="loss")


def _difference(each):
    """Mean of paired differences with their 95 % interval."""
    half = stats.t.ppf(0.975, len(each) - 1) * stats.sem(each)
    return {"difference": each.mean(), "low": each.mean() - half, "high": each.mean() + half}
