"""Width or learning rate (chapter 8): what Pythia's suite and its first release say, and what they can't."""

import numpy as np
import pandas as pd

from lib.data import public
from lib.measure import separation
from lib.study import public as runs_of

WINDOWS = 3  # of 2,000 steps, whose mean is a point of a training loss
EARLY = 1000  # step from which perplexities count
PAIRS = ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
YARDSTICKS = ("410m", "1b")  # sizes that do not saturate and are nearest to those that do


def training_rises() -> pd.DataFrame:
    """Rise of the training loss of the public runs: model, width, sum_lr, seed, rise (last over lowest, nats).

    Each point is a mean over three windows, which leaves a noise of about 0.0005 nats; blown-up runs of 410M are out.
    """
    losses = public.losses().query("model != 'pythia-410m' or seed not in (3, 4)")
    smooth = losses.assign(loss=losses.groupby(["model", "seed"]).loss.transform(lambda x: x.rolling(WINDOWS).mean()))
    groups = smooth.dropna().groupby(["model", "width", "seed"])
    rises = groups.loss.agg(lambda loss: separation.last_over_best(loss.to_numpy())).rename("rise").reset_index()
    return rises.merge(public.recipes()[["model", "sum_lr"]], on="model")


def perplexity_rises(draws: int, seed: int = 0) -> pd.DataFrame:
    """Rise of log LAMBADA perplexity of 32 models at the same 15 points of training: one row each, with its recipe.

    Columns model, release, size, deduplicated, width, sum_lr, flash_attention, steps, tokens_per_step, rise (last over
    lowest, nats), low, high (95 %, from the curve's own noise), noise (of a point), chance (the mean rise of a curve
    that never rises, with this noise: the best of 15 is lucky), p (share of such rises that are as large).
    """
    rng, rows = np.random.default_rng(seed), []
    for (model, release), curve in _common().groupby(["model", "release"]):
        logs = np.log(curve.sort_values("step").perplexity.to_numpy())
        noise, rise = separation.scatter(logs[2:]), float(separation.last_over_best(logs))  # the first falls are steep
        chance = separation.chance_rises(logs, noise, draws, rng)
        around = np.quantile(separation.redrawn_rises(logs, noise, draws, rng), [0.025, 0.975])
        rows.append((model, release, rise, *around, noise, chance.mean(), (chance >= rise).mean()))
    columns = ["model", "release", "rise", "low", "high", "noise", "chance", "p"]
    found = pd.DataFrame(rows, columns=columns).assign(model=lambda f: f.model.str.removesuffix("-bf16"))
    kept = ["model", "width", "sum_lr", "flash_attention", "steps", "tokens_per_step"]
    found = found.merge(public.recipes()[kept], on="model")
    parts = found.model.str.extract(r"pythia-([^-]+)(-deduped)?")
    return found.assign(size=parts[0], deduplicated=parts[1].notna())


def collinear(perplexities: pd.DataFrame) -> pd.DataFrame:
    """How far width and summed learning rate go together: data, models, rank correlation, inflation of variance."""
    recipes = public.recipes().query("suite == 'v1' and not model.str.endswith('-deduped')")
    loss = recipes[recipes.model.isin(public.losses().model.unique())]
    both = perplexities.dropna(subset="sum_lr")
    rows = []
    for name, frame in (
        ("the suite (v1)", recipes),
        ("the five with public losses", loss),
        ("perplexities, v1", both[both.release == "v1"]),
        ("perplexities, v1 and v0", both),
    ):
        causes = np.log(frame[["width", "sum_lr"]].to_numpy(float))
        rows.append((name, len(frame), separation.rank_correlation(*causes.T), separation.inflation(causes)[0]))
    return pd.DataFrame(rows, columns=["data", "models", "rank correlation", "variance inflation"])


def partials(losses: pd.DataFrame, perplexities: pd.DataFrame, draws: int, seed: int = 0) -> pd.DataFrame:
    """Rank correlations of the rise with each cause, alone and given the other: data, cause, given, value, interval.

    Intervals draw models, then runs; of the perplexities they draw sizes, then curves of each. defined is the share of
    draws in which a correlation existed.
    """
    both = perplexities.dropna(subset="sum_lr").reset_index(drop=True).assign(model=lambda frame: frame["size"])
    shared = losses[losses.sum_lr == losses.sum_lr.max()].reset_index(drop=True)
    questions = [("loss", losses, cause, given, True) for cause, given in _crossed("width", "sum_lr")]
    questions += [("perplexity", both, cause, given, True) for cause, given in _crossed("width", "sum_lr")]
    questions += [("perplexity", both, "flash_attention", ["width", "sum_lr"], True)]
    questions += [("loss, 14M to 70M: one sum", shared, "width", [], False)]
    rng, rows = np.random.default_rng(seed), []
    for data, frame, cause, given, models in questions:

        def statistic(part, cause=cause, given=given):
            return separation.partial(part.rise, part[cause], part[given].to_numpy())

        found = separation.over_models(frame, statistic, draws, rng, models)
        rows.append((data, len(frame), cause, ", ".join(given), *found))
    return pd.DataFrame(rows, columns=["data", "curves", "cause", "given", "value", "low", "high", "defined"])


def partials_of_public(draws: int, seed: int = 0) -> pd.DataFrame:
    """`partials` of the public curves."""
    return partials(training_rises(), perplexity_rises(1, seed), draws, seed)


def twins(perplexities: pd.DataFrame, draws: int, seed: int = 0) -> pd.DataFrame:
    """Each model against its twin of the first release: size, deduplicated, rises, v1 less v0 with a 95 % interval.

    The interval is from the noise of both curves; alike says whether their sums of learning rates are the same.
    """
    rng, curves = np.random.default_rng(seed), _common()
    table, rows = perplexities.set_index(["size", "deduplicated", "release"]), []
    logs = {model: np.log(part.sort_values("step").perplexity.to_numpy()) for model, part in curves.groupby("model")}
    for size, deduplicated in ((size, kind) for size in PAIRS for kind in (False, True)):
        new, old = (table.loc[(size, deduplicated, release)] for release in ("v1", "v0"))
        ends = [
            separation.redrawn_rises(logs[row.model], row.noise, draws, rng)
            for row in (new.replace({"pythia-1b": "pythia-1b-bf16"}), old)
        ]
        low, high = np.quantile(ends[0] - ends[1], [0.025, 0.975])
        alike = new.sum_lr == old.sum_lr
        rows.append((size, deduplicated, new.width, alike, new.rise, old.rise, new.rise - old.rise, low, high))
    columns = ["size", "deduplicated", "width", "same_sum", "v1", "v0", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def yardstick(twins: pd.DataFrame) -> dict:
    """Largest rise and largest difference among YARDSTICKS, which do not saturate: rise, difference."""
    calm = twins[twins["size"].isin(YARDSTICKS)]
    return {"rise": float(calm[["v1", "v0"]].max().max()), "difference": float(calm.difference.abs().max())}


def by_luck(min_rise: float) -> pd.DataFrame:
    """How likely two runs of the suite's recipe would both not saturate, from the seeds of that recipe alone.

    Columns model, runs, saturated, both_calm: the expected square of the share that does not, under Jeffreys' prior.
    """
    counts = runs_of.runs(min_rise).groupby("model").saturated.agg(["size", "sum"]).loc[["pythia-70m", "pythia-160m"]]
    calm, runs = counts["size"] - counts["sum"] + 0.5, counts["size"] + 1
    both = calm * (calm + 1) / (runs * (runs + 1))
    return counts.rename(columns={"size": "runs", "sum": "saturated"}).assign(both_calm=both).reset_index()


def together(losses: pd.DataFrame, perplexities: pd.DataFrame) -> pd.DataFrame:
    """Both kinds of rise in one frame: model, curve, release, width, sum_lr, rise."""
    columns = ["model", "curve", "release", "width", "sum_lr", "rise"]
    kinds = [losses.assign(curve="training loss", release="v1"), perplexities.assign(curve="log perplexity")]
    return pd.concat([kind[columns] for kind in kinds], ignore_index=True)


def by_twin(perplexities: pd.DataFrame, largest: str = "1b") -> pd.DataFrame:
    """Rises with their intervals, twin by twin up to a size: twin, release, rise, low, high."""
    sizes = PAIRS[: PAIRS.index(largest) + 1]
    kept = perplexities[perplexities["size"].isin(sizes)]
    order = kept["size"].map(sizes.index)
    twin = kept["size"] + np.where(kept.deduplicated, ", deduplicated", "")
    kept = kept.assign(twin=twin, order=order).sort_values(["order", "deduplicated", "release"])
    return kept[["twin", "release", "rise", "low", "high"]].reset_index(drop=True)


def _crossed(first, second):
    return ((first, []), (second, []), (first, [second]), (second, [first]))


def _common():
    """Perplexities at the points of training, in tokens, that both releases share."""
    curves = public.perplexities().query("step >= @EARLY")
    tokens = public.recipes().set_index("model").tokens_per_step
    read = curves.step * curves.model.str.removesuffix("-bf16").map(tokens)
    return curves[read.isin(set(read[curves.release == "v0"]) & set(read[curves.release == "v1"]))]
