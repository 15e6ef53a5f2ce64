"""What follows for each claim from the numbers of its chapter: the checks of its criterion, on each source alone.

The paper's curves and ours go through the same function. A source is a name and a frame; the answer to the claim is
that of the first source, and the others stand beside it. same_kind: the control ran on models of the kind that the
claim is about; without it the reading is open whatever the control gave.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lib.data.criteria import Criterion, criterion
from lib.measure import checks, judge

PAPER, PUBLIC, FINISHED, OURS = "the paper's figures", "public runs", "finished models", "our runs"

# Same width, text and number of tokens, another recipe: the model, its run with the recipe of the paper, the other.
PAIRS = (
    ("160M", "160M v1 2M batch 0-shot", "160M v0 4M batch"),
    ("160M", "160M v1 2M batch 5-shot", "160M 0.5M batch 5-shot"),
    ("160M deduplicated", "160M-deduped v1", "160M-deduped v0"),
    ("70M", "70M v1", "70M v0"),
    ("70M", "70M v1 2M batch 5-shot", "70M 0.25M batch 5-shot"),
    ("70M deduplicated", "70M-deduped v1", "70M-deduped v0"),
)

MEASURED = {"w_error": 0.0, "loss": 0.0}  # errors of reading of what nobody read off a figure

Sources = Mapping[str, pd.DataFrame]


def c1(sources: Sources, recipes: pd.DataFrame) -> dict:
    """Late rise of narrow runs. Frames: width, saturated; recipes: run, best, final (perplexities of `PAIRS`)."""
    rule = criterion("C1")
    found = {name: checks.late_rise(frame, rule.limits) for name, frame in sources.items()}
    mean, low, high = checks.kept(recipes, PAIRS)
    reading = {"some": judge.above(low, high), "all": None if np.isnan(high) else high >= 1}
    pairs = f"{len(PAIRS)} pairs of {len({model for model, *_ in PAIRS})} models"
    said = f"Under another recipe {mean:.0%} of the rise stays ({low:.0%} to {high:.0%}; {pairs})."
    return _judged(rule, found, {name: _counts(frame, rule) for name, frame in sources.items()}, reading, said)


def c2(sources: Sources, share: float) -> dict:
    """Distance from the law. Frames indexed by final and best: value, low, high (per cent); share: of the widening."""
    rule = criterion("C2")
    found = {name: checks.gaps(frame, rule.limits) for name, frame in sources.items()}
    texts = {name: _gap_text(frame) for name, frame in sources.items()}
    first = next(iter(sources.values())).loc["best"]
    loss = None if np.isnan(share) else share >= rule.limits["share"]
    reading = {"gap": judge.above(first.low, first.high), "loss": loss}
    said = f"{share:.0%} of the widening is a loss that rose, the rest a law that fell."
    return _judged(rule, found, texts, reading, said)


def c3(sources: Sources, few: pd.DataFrame, many: pd.DataFrame) -> dict:
    """Falling scores. Frames: worse, low by score, larger for worse; few, many: low with the choice undone.

    The best may have been chosen among few checkpoints or many: nobody knows.
    """
    rule = criterion("C3")
    found = {name: checks.fell(frame, rule.limits) for name, frame in sources.items()}
    texts = {
        name: f"{(frame.worse > 0).sum()} of {len(frame)} scores are worse at the end, "
        f"{(frame.low > 0).sum()} by more than their interval."
        for name, frame in sources.items()
    }
    few, many = few.low.dropna(), many.low.dropna()
    half = rule.limits["half"]
    reading = {name: (low > 0).mean() >= half if len(low) else None for name, low in (("few", few), ("many", many))}
    said = f"With the choice undone, {(few > 0).sum()} of {len(few)} are, or {(many > 0).sum()} if it was among many."
    return _judged(rule, found, texts, reading, said)


def c4(sources: Sources, others: pd.DataFrame) -> dict:
    """Anisotropy of the last layer. Frames: width, anisotropy; others: the same with family, for other families."""
    rule = criterion("C4")
    found = {name: checks.anisotropic(frame, rule.limits) for name, frame in sources.items()}
    texts = {name: _anisotropy_text(frame, rule) for name, frame in sources.items()}
    order = checks.ordered(others)
    side = (others.width < rule.limits["width"]) == (others.anisotropy >= rule.limits["level"])
    sides = bool(side.mean() >= rule.limits["most"]) if len(side) else None
    reading = {"order": judge.every(order.values()), "sides": sides}
    said = (
        f"{sum(order.values())} of {len(order)} other families have their narrowest model above their widest; "
        f"{side.mean():.0%} of {len(side)} other models lie on their side."
    )
    return _judged(rule, found, texts, reading, said)


def c5(sources: Sources) -> dict:
    """Perplexity and anisotropy. Frames: rise, becomes, turn, passes, length by run (`late`, `from_figure`)."""
    rule = criterion("C5")
    found = {name: checks.together(frame, rule.limits) for name, frame in sources.items()}
    texts = {
        name: f"Of {len(frame)} runs the perplexity of {(frame.rise >= rule.limits['rise']).sum()} rises, and "
        f"{frame.becomes.sum()} become anisotropic."
        for name, frame in sources.items()
    }
    both = pd.concat(sources.values()).query("becomes and rise >= @rule.limits['rise']")
    lag = (both.passes - both.turn) / both.length
    reading = {
        "together": judge.every(lag.abs() <= rule.limits["apart"]),
        "order": len(set(np.sign(lag))) == 1 if len(lag) else None,
        "others": found[OURS]["calm"] if OURS in found else None,
    }
    said = f"From the lowest perplexity to the anisotropy it is {lag.min():+.0%} to {lag.max():+.0%} of a run." * bool(
        len(lag)
    )
    return _judged(rule, found, texts, reading, said)


def from_figure(figure: pd.DataFrame, length: float) -> pd.DataFrame:
    """The paper's Figure 3, as `c5` takes it."""
    passes = figure["step_above_0.5"]
    rise = figure.last_perplexity / figure.best_perplexity - 1
    frame = {"model": figure.model, "rise": rise, "becomes": passes.notna(), "turn": figure.best_step, "passes": passes}
    return pd.DataFrame(frame | {"length": length})


def c6(sources: Sources, views: pd.DataFrame, same_kind: bool) -> dict:
    """Collapse of the spectrum. Frames: model, seed, width, step, entropy; views: width, raw, centred at the end."""
    rule = criterion("C6")
    shapes = {name: checks.shape(frame, rule.limits) for name, frame in sources.items()}
    found = {name: checks.collapse(frame, rule.limits) for name, frame in shapes.items()}
    texts = {
        name: f"{_of(frame.fell, frame.narrow)} narrow heads become flatter, {_of(frame.collapsed, frame.narrow)} end "
        f"collapsed ({frame.share[frame.narrow].min():.0%} to {frame.share[frame.narrow].max():.0%} of ln d)"
        + (f", and {_of(frame.collapsed, ~frame.narrow)} wide ones." if (~frame.narrow).any() else ".")
        for name, frame in shapes.items()
    }
    half = rule.limits["half"] * np.log(views.width)
    raw = views[views.raw > half]
    left = raw.centred > half[raw.index]
    said = f"{len(raw)} of {len(views)} heads that can be read here end collapsed, {left.sum()} without the mean row."
    return _judged(rule, found, texts, {"centred": judge.every(left)}, said, same_kind=same_kind)


def c7(sources: Sources, matched: tuple, untrained: tuple, shapes: str) -> dict:
    """Cost of a rank. Frames: model, rank, cost, error; matched, untrained: mean, low, high; shapes: on knees."""
    rule = criterion("C7")
    found = {name: checks.costs(frame, rule.limits) for name, frame in sources.items()}
    texts = {}
    for name, frame in sources.items():
        near = frame[frame["rank"] <= rule.limits["near"]].sort_values("rank").groupby("model").last()
        texts[name] = "; ".join(f"{model} at rank {row['rank']:.0f}: {row.cost:+.3f}" for model, row in near.iterrows())
        texts[name] += " nats."
    reading = {"matched": judge.above(*matched[1:]), "untrained": judge.above(*untrained[1:])}
    said = f"Against a matched full head {matched[0]:.4f} ({matched[1]:.4f} to {matched[2]:.4f}), cut without training "
    said += f"{untrained[0]:.4f} ({untrained[1]:.4f} to {untrained[2]:.4f}) nats. {shapes}"
    return _judged(rule, found, texts, reading, said)


def printed_costs(figure: pd.DataFrame) -> pd.DataFrame:
    """What each rank costs in the paper's Figure 6 over the same model's full rank, with the errors of two readings."""
    full = figure.loc[figure.groupby("model")["rank"].idxmax()].set_index("model").loss
    frame = figure.assign(cost=figure.loss - figure.model.map(full), error=2 * figure.attrs["errors"]["loss"])
    return frame[frame["rank"] < frame.width]


def c8(sources: Sources, growth: float, shuffled: float, factor: float, also: str = "") -> dict:
    """Dimensions of language. Frames: dimension; growth, shuffled: ratios of dimensions; factor: over a known rank."""
    rule = criterion("C8")
    limits = rule.limits
    found = {name: {"dimension": checks.dimension(frame, limits)} for name, frame in sources.items()}
    texts = {
        name: f"{frame.dimension.min():,.0f} to {frame.dimension.max():,.0f} dimensions."
        for name, frame in sources.items()
    }
    reading = checks.controls(growth, shuffled, factor, limits)
    said = (
        f"Ten times more contexts multiply it by {growth:.2f}, shuffling changes it by {shuffled - 1:+.1%}, and a "
        f"language of known rank is given {factor:.0f} times its rank. {also}"
    )
    return _judged(rule, found, texts, reading, said)


def c9(gaps: pd.DataFrame, orders: np.ndarray, also: str) -> dict:
    """The theorem. gaps: gap, paper (its bound with the constant) by problem; orders: log-log slopes of the gap."""
    rule = criterion("C9")
    if gaps[["gap", "paper"]].isna().any(axis=None) or not len(orders) or np.isnan(orders).any():
        raise ValueError("the gaps, bounds or slopes of C9 are missing or NaN: solve the problems again")
    kept = gaps.gap <= gaps.paper + 1e-9
    reading = {"order": bool(np.min(orders) >= rule.limits["slope"])}
    texts = {"our computation": f"{(~kept).sum()} of {len(kept)} cases break the bound, which is also proved."}
    said = f"The gap goes with the tail with a slope of {np.min(orders):.2f} to {np.max(orders):.2f}. {also}"
    return _judged(rule, {"our computation": {"bound": judge.every(kept)}}, texts, reading, said)


def c10(sources: Sources, errors: Mapping[str, float], same_kind: bool, draws: int = 1000, seed: int = 0) -> dict:
    """The threshold of the W-error. Frames: arm, w_error, loss, full; errors: of reading, for w_error and loss.

    The first source decides the numbers, and the arms of all the others are the control.
    """
    rule = criterion("C10")
    inside = {
        name: {
            arm: checks.onsets(part, errors if name == PAPER else MEASURED, rule.limits, draws, seed)
            for arm, part in frame.groupby("arm", sort=False)
        }
        for name, frame in sources.items()
    }
    sure = rule.limits["sure"]
    passed = {name: {arm: share >= sure for arm, (_, share) in arms.items()} for name, arms in inside.items()}
    texts = {
        name: "; ".join(_onset_text(arm, at, share) for arm, (at, share) in arms.items()) + "."
        for name, arms in inside.items()
    }
    others = [ok for arms in list(passed.values())[1:] for ok in arms.values()]
    found = {name: {"onset": judge.every(arms.values())} for name, arms in passed.items()}
    said = f"{sum(others)} of {len(others)} other ways of making the head pass it there."
    return _judged(rule, found, texts, {"arms": judge.every(others)}, said, same_kind=same_kind)


def _judged(
    rule: Criterion,
    found: Mapping[str, Mapping],
    texts: Mapping[str, str],
    reading: Mapping,
    said: str,
    same_kind: bool = True,
) -> dict:
    """A claim's two answers and its evidence, in the form that `lib.show.claims` shows."""
    if (
        not found
        or any(set(passed) != set(rule.numbers) for passed in found.values())
        or set(reading) != set(rule.reading)
    ):
        raise ValueError(
            f"{rule.claim}: its checks are not those of criteria.toml, or there is no source: compare the two"
        )
    answers = {name: judge.numbers(passed) for name, passed in found.items()}
    evidence = [
        {
            "source": name,
            "numbers": answers[name],
            "text": f"{texts[name]} {_made(found[name])}".strip(),
        }
        for name in found
    ]
    return {
        "claim": rule.claim,
        "numbers": next(iter(answers.values())),
        "reading": judge.reading(reading, same_kind),
        "evidence": evidence,
        "control": said.strip(),
        "checks": {
            "numbers": _marked(rule.numbers, next(iter(found.values()))),
            "reading": _marked(rule.reading, reading),
        },
        "about": {"control": rule.control, "written": rule.written, "changed": rule.changed, "look": rule.look},
    }


def _made(passed):
    """How many of the checks the source can answer, where it is not all of them."""
    known = sum(ok is not None for ok in passed.values())
    return "" if known == len(passed) else f"({known} of {len(passed)} checks can be made.)"


def _marked(texts, passed):
    """Each check's sentence, and whether it passed."""
    return [[text, None if passed[name] is None else bool(passed[name])] for name, text in texts.items()]


def _of(values, which):
    return f"{values[which].sum()} of {which.sum()}"


def _counts(frame, rule):
    narrow = frame.width < rule.limits["width"]
    said = f"{_of(frame.saturated, narrow)} narrow curves end in a lasting rise"
    return said + (f", {_of(frame.saturated, ~narrow)} wide ones." if (~narrow).any() else "; none here is wide.")


def _onset_text(arm, at, share):
    return f"{arm} at {at:.2f} ({share:.0%} inside)" if np.isfinite(at) else f"{arm} at none of these ranks"


def _gap_text(frame):
    if frame.value.isna().any():
        return "Too few wide runs for a law."
    parts = (
        f"{row.value:.1f} % at the {name} checkpoint ({row.low:.1f} to {row.high:.1f})"
        for name, row in frame.iterrows()
    )
    return ", ".join(parts) + "."


def _anisotropy_text(frame, rule):
    high, narrow = frame.anisotropy >= rule.limits["level"], frame.width < rule.limits["width"]
    if frame.empty:
        return "None here."
    wide = f", {_of(high, ~narrow)} wide ones" if (~narrow).any() else ""
    return f"{_of(high, narrow)} narrow models have at least {rule.limits['level']}{wide}."
