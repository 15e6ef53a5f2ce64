"""What public curves say about causes (chapter 8): width or learning rate, and stairs in the excess of the loss."""

import itertools

import numpy as np
import pandas as pd

from lib.data import public
from lib.measure import stairs

WIDE = "pythia-410m"
BLOWN = (3, 4)  # seeds of WIDE with a known blow-up
FITTED = (6000, 24000)  # steps on which a run's loss is mapped to the shape of WIDE
PAIR = 2  # windows of 500 steps taken together in the likelihood, which halves its cost
BLOCK = 5  # such pairs that are held out together: 5,000 steps, a tenth of a long plateau
SHIFTS = 4.0 ** (np.arange(8) / 8)  # of the levels: stairs repeat after a factor of four
NEAR = 1 / 8  # of that factor, as a turn: how far from the prediction the best shift may lie

# Every combination is tried, and what a run is judged by is chosen on the other runs. The first look had steps of 0.1
# and 0.2 and spreads of 0.05, 0.15 and 0.3: the best stood at an edge, so both were widened, for all models alike.
WALKS = [{"step": step, "share": share} for step, share in itertools.product((0.05, 0.1, 0.2), (0.03, 0.08))]
SPREADS = (0.1, 0.2, 0.3, 0.4)  # octaves
JUMPS = (0.0, 0.01, 0.03, 0.1)
SOME = 0.03  # jumps of the stairs that may jump
GROWTH = 0.03  # octaves in a pair of windows, of drawn suites: a factor of 140 in the excess over a run


def excess(fitted: tuple[int, int] = FITTED) -> pd.DataFrame:
    """Loss of every run of width below 1,000 above the shape of the mean 410M curve: model, seed, step, excess (nats).

    The shape is a + b x the mean of WIDE's runs, a and b by least squares for each run on the steps `fitted`; only
    later steps are given. WIDE's own runs are there too, each against the mean of the others: what they show is the
    error of this construction.
    """
    losses = public.fine_losses().query("model != @WIDE or seed not in @BLOWN")
    table = losses.pivot(index="step", columns=["model", "seed"], values="loss")
    before = (table.index > fitted[0]) & (table.index <= fitted[1])
    found = {}
    for key in table:
        shape = table[WIDE].drop(columns=key[1] if key[0] == WIDE else []).mean(axis=1)
        slope, start = np.polyfit(shape[before], table[key][before], 1)
        found[key] = table[key] - start - slope * shape
    frame = pd.DataFrame(found)[table.index > fitted[1]]
    frame.columns = frame.columns.set_names(["model", "seed"])
    return frame.unstack().rename("excess").reset_index()


def shown(excesses: pd.DataFrame, every: int = 2500, lowest: float = 0.001) -> pd.DataFrame:
    """Narrow runs' excess as medians over so many steps, at least `lowest`, as a logarithmic axis needs."""
    narrow = excesses[excesses.model != WIDE]
    middle = narrow.assign(step=-(-narrow.step // every) * every).groupby(["model", "seed", "step"]).excess.median()
    return middle.clip(lower=lowest).reset_index()


def levels(c: float) -> pd.DataFrame:
    """The levels that fp16 predicts: offset (where the octave begins), nats."""
    octaves = np.arange(8, 13)
    return pd.DataFrame({"offset": 2**octaves, "nats": stairs.level(octaves, c)})


def noise(excesses: pd.DataFrame) -> float:
    """Error of a window's excess in nats: root mean square of WIDE's own."""
    return float(np.sqrt(np.nanmean(excesses.excess[excesses.model == WIDE] ** 2)))


def likelihoods(c: float, fitted: list = FITTED, block: int = BLOCK, least: float = 0.0) -> pd.DataFrame:
    """Held-out log-likelihood of each narrow run: model, seed, kind, shift, score.

    kind is stairs (at each of SHIFTS; 1 is the prediction), drift (no levels), jumps (no levels, jumps of any size) or
    both (levels and jumps, at each of SHIFTS). Parameters are chosen on the other runs: step, share and spread of
    stairs; step, share and jumps of jumps. least: windows before the excess first reaches it are left out.
    """
    values, index, floor = _pairs(tuple(fitted))
    scores = _scores(_late(values, least), c, floor, block)
    rows = [index.assign(kind=kind, shift=shift, score=score) for (kind, shift), score in scores.items()]
    return pd.concat(rows, ignore_index=True)


def comparisons(scores: pd.DataFrame, draws: int, seed: int = 0, levels: str = "stairs") -> pd.DataFrame:
    """The criterion, written before any likelihood was seen: comparison, value, low, high, holds; three rows.

    1. The predicted levels beat the better of the rivals: mean over runs of the held-out log-likelihood over it, with
       a 95 % interval over runs above zero.
    2. They beat levels shifted by any factor: the same over the mean of all shifts, above zero.
    3. The best shift is no farther from 1 than NEAR of a turn, a turn being the factor of four after which stairs
       repeat (-1/2 to 1/2; its interval is over runs, on the circle). By chance three of the eight shifts are.
    All three: supported. Only the first: stairs, not at these levels. Otherwise: not supported.
    levels: the kind that is compared; "both", stairs that may jump, was added after the look.
    """
    rng, run = np.random.default_rng(seed), ["model", "seed"]
    rivals = scores[scores.kind.isin(["drift", "jumps"])].pivot(index=run, columns="kind", values="score")
    rival = rivals.sum().idxmax()
    table = scores[scores.kind == levels].pivot(index=run, columns="shift", values="score").to_numpy()
    over_rival = stairs.over_runs(table[:, 0] - rivals[rival].to_numpy(), draws, rng)
    over_shifts = stairs.over_runs(table[:, 0] - table.mean(1), draws, rng)
    best, low, high = _best_shift(table, draws, rng)
    return pd.DataFrame(
        [
            (f"predicted levels over {rival}, nats a run", *over_rival, over_rival[1] > 0),
            ("predicted levels over shifted ones, nats a run", *over_shifts, over_shifts[1] > 0),
            ("best shift, turns", best, low, high, abs(best) <= NEAR),
        ],
        columns=["comparison", "value", "low", "high", "holds"],
    )


def variants(scores: list[pd.DataFrame], names: list[str], draws: int, seed: int = 0) -> pd.DataFrame:
    """`comparisons` of several frames of likelihoods below one another, with the name of each as first column."""
    found = [comparisons(one, draws, seed).assign(variant=name) for one, name in zip(scores, names, strict=True)]
    return pd.concat(found, ignore_index=True)[["variant", "comparison", "value", "low", "high", "holds"]]


def profile(scores: pd.DataFrame, draws: int, seed: int = 0) -> pd.DataFrame:
    """Held-out log-likelihood a run over that of `drift` or, for stairs that may jump, of `jumps`, at each shift.

    Columns kind, shift, gain, low, high (95 % over runs).
    """
    rng, rows, run = np.random.default_rng(seed), [], ["model", "seed"]
    for kind, rival in (("stairs", "drift"), ("both", "jumps")):
        table = scores[scores.kind == kind].pivot(index=run, columns="shift", values="score")
        gains = table.sub(scores[scores.kind == rival].set_index(run).score, axis=0)
        rows += [(kind, shift, *stairs.over_runs(gains[shift].to_numpy(), draws, rng)) for shift in gains]
    return pd.DataFrame(rows, columns=["kind", "shift", "gain", "low", "high"])


def rehearsed(c: float, times: int, draws: int, seed: int = 0) -> pd.DataFrame:
    """Share of `times` drawn suites in which each comparison holds, and all of them, where the truth is known.

    Columns source (jumps: no levels; stairs: the predicted levels), over jumps, over shifted, best shift, supported.
    One set of parameters each, the middle of the grids.
    """
    shape, rng, rows = (31, 119), np.random.default_rng(seed), []
    x, folds = stairs.grid(), stairs.blocks(shape[1], BLOCK)
    plain, jumping = stairs.Walk(0.1, 0.03), stairs.Walk(0.1, 0.03, jumps=SOME)
    levels, trend, floor = stairs.stairs(x, c, 0.2, SHIFTS), stairs.smooth(x, c), 0.005
    for source, costs, walk in (("jumps", trend[0], jumping), ("stairs", levels[0], plain)):
        for _ in range(times):
            values = stairs.drawn(costs, x, walk, GROWTH, floor, shape, rng)
            steps = stairs.held_out(values, levels, x, plain, floor, folds)
            rival = stairs.held_out(values, trend, x, jumping, floor, folds)[0]
            rows.append((source, *_held(steps.T, rival, draws, rng)))
    names = ["source", "over jumps", "over shifted", "best shift"]
    found = pd.DataFrame(rows, columns=names)
    return found.assign(supported=found[names[1:]].all(axis=1)).groupby("source", as_index=False).mean()


def _held(table, rival, draws, rng):
    """Which of the three comparisons hold; table (runs, shifts), rival (runs,)."""
    return (
        stairs.over_runs(table[:, 0] - rival, draws, rng)[1] > 0,
        stairs.over_runs(table[:, 0] - table.mean(1), draws, rng)[1] > 0,
        abs(_best_shift(table, draws, rng)[0]) <= NEAR,
    )


def _best_shift(table, draws, rng):
    """The best shift as a turn from -1/2 to 1/2, and its 95 % interval over runs; table (runs, shifts)."""
    chosen = rng.integers(len(table), size=(draws, len(table)))
    turns = table[chosen].sum(1).argmax(1) / len(SHIFTS)
    best = (table.sum(0).argmax() / len(SHIFTS) + 0.5) % 1 - 0.5
    away = np.quantile((turns - best + 0.5) % 1 - 0.5, [0.025, 0.975])
    return float(best), *(float(best + end) for end in away)


def answer(found: pd.DataFrame) -> str:
    """What follows from a frame of `comparisons`."""
    if found.holds.all():
        return "supported"
    return "stairs, not at these levels" if found.holds[0] else "not supported"


def _pairs(fitted):
    """Excess of the narrow runs (runs, pairs of windows), which run each is, and the error of a pair."""
    frame = excess(fitted)
    steps = np.sort(frame.step.unique())
    frame["pair"] = np.searchsorted(steps, frame.step) // PAIR
    means = frame.groupby(["model", "seed", "pair"], as_index=False).excess.mean()
    table = means[means.model != WIDE].pivot(index=["model", "seed"], columns="pair", values="excess")
    return table.to_numpy(), table.index.to_frame(index=False), noise(means)


def _late(values, least):
    """Windows before a run's excess, as a running median, first reaches `least` are unknown."""
    if not least:
        return values
    middle = pd.DataFrame(values.T).rolling(7, center=True, min_periods=1).median().to_numpy().T
    return np.where(np.logical_or.accumulate(middle >= least, axis=1), values, np.nan)


def _scores(values, c, floor, block):
    """(kind, shift) -> score of each run."""
    x, folds = stairs.grid(), stairs.blocks(values.shape[1], block)

    def runs(costs, **walk):
        return stairs.held_out(values, costs, x, stairs.Walk(**walk), floor, folds)

    levels = {spread: stairs.stairs(x, c, spread, SHIFTS) for spread in SPREADS}
    scores = {}
    for kind, jumps in (("stairs", 0.0), ("both", SOME)):
        found = np.stack([runs(levels[spread], **walk, jumps=jumps) for walk in WALKS for spread in SPREADS])
        scores |= {(kind, shift): stairs.chosen_elsewhere(found[:, at]) for at, shift in enumerate(SHIFTS)}
    without = np.stack([runs(stairs.smooth(x, c), **walk, jumps=jumps)[0] for jumps in JUMPS for walk in WALKS])
    scores["drift", np.nan] = stairs.chosen_elsewhere(without[: len(WALKS)])
    scores["jumps", np.nan] = stairs.chosen_elsewhere(without)
    return scores
